"""A pickle interpreter restricted to plain values, containers and numpy arrays.

It never runs code chosen by the pickle. While opcodes execute, arrays and dtypes are inert records that a pickle can
reach (pickle_records.py); only numpy scalars, which nothing can change, are built at once. Every allocation is charged
in advance to a memory budget proportional to the size of the pickle.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .pickle_records import (
    ArrayRecord,
    DtypeRecord,
    ForbiddenGlobal,
    OldString,
    PickleError,
    as_text,
    build_array,
    build_dtype,
)

ROOM, ROOM_PER_BYTE = 48 * 2**20, 16  # memory budget in bytes: fixed part, and per byte of the pickle
MAX_INT_BYTES = 32
MAX_ODD_KEYS = 10_000  # keys other than short values, whose hashes an attacker could choose to collide
PER_ENTRY = 100  # bytes of a dict or set
_SLOT, _MARK = 16, 80  # bytes of a list's slot while it grows, and of an empty stack


class Function:
    """What an allowed global (pickle_globals.py) does: `call` takes the machine and the pickle's arguments."""

    def __init__(self, call: Callable[..., object]):
        self.call = call


class Machine:
    """One pickle's stack and memo, and what its opcodes do with them (pickle_opcodes.py).

    `shared` holds the ids of all objects that may occur in the value more than once.
    """

    def __init__(self, content: bytes, size: int, functions: Mapping[tuple[str, str], Function]):
        """`size`: the pickle's bytes, for the memory budget; `functions`: the globals that it may name."""
        self._content, self._at = content, 0
        self._functions = functions
        self._stack: list = []
        self._outer: list[list] = []  # the stacks below each mark
        self._memo_row: list[object] = []  # the memo's entries 0, 1, 2, ... as picklers write them
        self._memo: dict[int, object] = {}  # its other entries
        self._room = ROOM + ROOM_PER_BYTE * size
        self._odd_keys = 0
        self.shared: set[int] = set()

    # Reading ----------------------------------------------------------------------------------------------------------

    def _charge(self, size: int) -> None:
        self._room -= size
        if self._room < 0:
            raise PickleError("it would need far more memory than its size")

    def _take(self, size: int) -> bytes:
        end = self._at + size
        if not 0 <= size <= len(self._content) - self._at:
            raise PickleError(f"it ends before byte {end}")
        self._charge(size)
        part, self._at = self._content[self._at : end], end
        return part

    def _number(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self._take(size), "little", signed=signed)

    def _line(self) -> bytes:
        end = self._content.index(b"\n", self._at)
        line, self._at = self._content[self._at : end], end + 1
        self._charge(len(line))
        return line

    # Pushing values ---------------------------------------------------------------------------------------------------

    def _push(self, value: object) -> None:
        self._stack.append(value)  # evaluated after `value`, whose computation may replace the stack

    def _push_bytes(self, size: int) -> None:
        self._stack.append(self._take(size))

    def _push_text(self, size: int) -> None:
        part = self._take(size)
        self._charge(4 * size)
        self._stack.append(part.decode())  # strict: rejects lone surrogates

    def _push_old_string(self, size: int) -> None:
        part = self._take(size)
        self._charge(4 * size)
        self._stack.append(OldString.of(part))

    def _push_int(self, size: int) -> None:
        if size > MAX_INT_BYTES:
            raise PickleError(f"an integer of {size} bytes")
        self._stack.append(self._number(size, signed=True))

    def _text_line(self) -> None:
        self._charge(4 * len(text := self._line().decode("raw-unicode-escape")))
        text.encode()
        self._stack.append(text)

    def _old_string_line(self) -> None:
        line = self._line()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
            raise PickleError("a string without quotes")
        self._charge(4 * len(line))
        self._stack.append(OldString.of(line[1:-1].decode("unicode-escape").encode("latin-1")))

    def _number_line(self) -> bytes:
        line = self._line()
        if len(line) > 2 * MAX_INT_BYTES:
            raise PickleError(f"a number of {len(line)} digits")
        return line

    def _int_line(self) -> None:
        line = self._number_line()
        special = {b"00": False, b"01": True}
        self._stack.append(special[line] if line in special else int(line.removesuffix(b"L")))

    def _float_line(self) -> None:
        self._stack.append(float(self._number_line()))

    # Containers -------------------------------------------------------------------------------------------------------

    def _mark(self) -> None:
        self._charge(_MARK)
        self._outer.append(self._stack)
        self._stack = []

    def _pop_mark(self) -> list:
        items, self._stack = self._stack, self._outer.pop()
        self._charge(8 * len(items) - _MARK)  # the marked stack is gone as soon as its items are used
        return items

    def _pop(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_mark()

    def _dup(self) -> None:
        self._stack.append(self._seen_again(self._stack[-1]))

    def _tuple(self, size: int) -> None:
        if len(self._stack) < size:
            raise PickleError("a tuple of more items than the stack holds")
        items = tuple(self._stack[len(self._stack) - size :])
        del self._stack[len(self._stack) - size :]
        self._stack.append(items)

    def _append(self, values: list) -> None:
        self._top(list).extend(values)

    def _set_items(self, values: list) -> None:
        self._pairs(self._top(dict, OrderedDict), values)

    def _add_items(self, values: list) -> None:
        self._fill_set(self._top(set), values)

    def _pairs(self, target: dict, values: list) -> dict:
        self._charge(36 * len(values))  # of the list of pairs
        return self._fill_dict(target, list(zip(values[::2], values[1::2], strict=True)))

    def _fill_dict(self, target: dict, pairs: list[tuple]) -> dict:
        self._charge(PER_ENTRY * len(pairs))
        for key, value in pairs:
            target[self._key(key)] = value
        return target

    def _fill_set(self, target: set, values: list) -> set:
        self._charge(PER_ENTRY * len(values))
        target.update(map(self._key, values))
        return target

    def _key(self, value: Any) -> object:
        value = as_text(value)
        kind = type(value)
        if kind is str or kind is bytes or value is None or kind is bool or (kind is int and abs(value) < 2**32):
            return value
        size = len(value) if kind is tuple else 0
        self._charge(PER_ENTRY * size)
        self._odd_keys += 1 + size  # long tuples of one hash are slow to compare
        if self._odd_keys > MAX_ODD_KEYS:
            raise PickleError(f"more than {MAX_ODD_KEYS} keys that are not text")
        if kind is tuple and not any(type(x) is tuple for x in value):
            return tuple(map(self._key, value))
        if kind in (int, float) or isinstance(value, np.generic):
            return value
        raise PickleError(f"a key that is a {kind.__name__}")

    def _top(self, *kinds: type) -> Any:
        if type(self._stack[-1]) not in kinds:
            raise PickleError(f"a {type(self._stack[-1]).__name__} where a {kinds[0].__name__} belongs")
        return self._stack[-1]

    # The memo ---------------------------------------------------------------------------------------------------------

    def _put(self, name: int) -> None:
        value = self._stack[-1]
        if name == len(self._memo_row):
            self._charge(_SLOT)
            self._memo_row.append(value)
            self._memo.pop(name, None)
        elif 0 <= name < len(self._memo_row):
            self._memo_row[name] = value
        else:
            self._charge(PER_ENTRY)
            self._memo[name] = value

    def _memoize(self) -> None:
        self._put(len(self._memo_row) + len(self._memo))

    def _get(self, name: int) -> None:
        value = self._memo_row[name] if 0 <= name < len(self._memo_row) else self._memo[name]
        self._stack.append(self._seen_again(value))

    def _seen_again(self, value: object) -> object:
        if isinstance(value, (list, dict, tuple, set, frozenset, ArrayRecord)) and id(value) not in self.shared:
            self._charge(PER_ENTRY)
            self.shared.add(id(value))
        return value

    # Globals ----------------------------------------------------------------------------------------------------------

    def _global(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleError("a global whose name is not text")
        function = self._functions.get((module, name))
        if function is None:
            raise ForbiddenGlobal(f"{module}.{name}")
        self._stack.append(function)

    def _reduce(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if type(function) is not Function or type(arguments) is not tuple:
            raise PickleError("a call of something that is not a function")
        self._stack.append(function.call(self, *arguments))

    def _build(self) -> None:
        state = self._stack.pop()
        record = self._top(ArrayRecord, DtypeRecord)
        (build_array if type(record) is ArrayRecord else build_dtype)(record, state)
