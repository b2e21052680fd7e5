"""The opcodes that a pickle may hold, each with what it does to a Machine and an upper bound on the memory it takes."""

import pickle
import struct
from collections.abc import Callable

from .pickle_globals import GLOBALS
from .pickle_machine import Machine
from .pickle_records import ForbiddenGlobal, PickleError


def run(content: bytes, size: int) -> tuple[object, set[int]]:
    """A pickle's value, in which records stand for arrays, and the ids of what may occur in it more than once.

    It may take memory in proportion to `size` bytes. Raises PickleError unless the pickle holds only plain values,
    containers and arrays.
    """
    machine = Machine(content, size, GLOBALS)
    try:
        while (code := machine._content[machine._at]) != pickle.STOP[0]:
            if code not in _OPERATIONS:
                raise PickleError(f"byte {machine._at}: the opcode {code:#x}, which poses and labels do not need")
            operation, cost = _OPERATIONS[code]
            machine._at += 1
            machine._charge(cost)
            operation(machine)
        (value,) = machine._stack
    except (LookupError, ValueError, TypeError, OverflowError, struct.error) as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise PickleError(f"byte {machine._at}: {reason}") from None
    if machine._outer:
        raise PickleError("a mark is left over")
    return value, machine.shared


def _protocol(machine: Machine) -> None:
    if (version := machine._number(1)) > pickle.HIGHEST_PROTOCOL:
        raise PickleError(f"protocol {version}")


def _class_line(machine: Machine) -> None:
    machine._global(machine._line().decode(), machine._line().decode())


def _stack_global(machine: Machine) -> None:
    name, module = machine._stack.pop(), machine._stack.pop()
    machine._global(module, name)


def _instance(machine: Machine) -> None:
    raise ForbiddenGlobal(f"{machine._line().decode()}.{machine._line().decode()}")


# For each opcode, its operation and an upper bound on the memory it takes beyond what the operation charges itself.
_OPERATIONS: dict[int, tuple[Callable[[Machine], object], int]] = {
    code[0]: (operation, cost)
    for code, operation, cost in (
        (pickle.PROTO, _protocol, 0),
        (pickle.FRAME, lambda m: m._number(8), 0),
        (pickle.NONE, lambda m: m._push(None), 16),
        (pickle.NEWTRUE, lambda m: m._push(True), 16),
        (pickle.NEWFALSE, lambda m: m._push(False), 16),
        (pickle.BININT, lambda m: m._push_int(4), 40),
        (pickle.BININT1, lambda m: m._push(m._number(1)), 16),
        (pickle.BININT2, lambda m: m._push(m._number(2)), 40),
        (pickle.LONG1, lambda m: m._push_int(m._number(1)), 80),
        (pickle.LONG4, lambda m: m._push_int(m._number(4, signed=True)), 80),
        (pickle.INT, Machine._int_line, 80),
        (pickle.LONG, Machine._int_line, 80),
        (pickle.FLOAT, Machine._float_line, 40),
        (pickle.BINFLOAT, lambda m: m._push(struct.unpack(">d", m._take(8))[0]), 24),
        (pickle.STRING, Machine._old_string_line, 160),
        (pickle.SHORT_BINSTRING, lambda m: m._push_old_string(m._number(1)), 160),
        (pickle.BINSTRING, lambda m: m._push_old_string(m._number(4, signed=True)), 160),
        (pickle.SHORT_BINBYTES, lambda m: m._push_bytes(m._number(1)), 48),
        (pickle.BINBYTES, lambda m: m._push_bytes(m._number(4)), 48),
        (pickle.BINBYTES8, lambda m: m._push_bytes(m._number(8)), 48),
        (pickle.BYTEARRAY8, lambda m: m._push_bytes(m._number(8)), 48),
        (pickle.UNICODE, Machine._text_line, 80),
        (pickle.SHORT_BINUNICODE, lambda m: m._push_text(m._number(1)), 80),
        (pickle.BINUNICODE, lambda m: m._push_text(m._number(4)), 80),
        (pickle.BINUNICODE8, lambda m: m._push_text(m._number(8)), 80),
        (pickle.MARK, Machine._mark, 0),
        (pickle.POP, Machine._pop, 0),
        (pickle.POP_MARK, Machine._pop_mark, 0),
        (pickle.DUP, Machine._dup, 16),
        (pickle.EMPTY_TUPLE, lambda m: m._push(()), 16),
        (pickle.TUPLE1, lambda m: m._tuple(1), 72),
        (pickle.TUPLE2, lambda m: m._tuple(2), 80),
        (pickle.TUPLE3, lambda m: m._tuple(3), 88),
        (pickle.TUPLE, lambda m: m._push(tuple(m._pop_mark())), 72),
        (pickle.EMPTY_LIST, lambda m: m._push([]), 88),
        (pickle.LIST, lambda m: m._push(m._pop_mark()), 88),
        (pickle.APPEND, lambda m: m._append([m._stack.pop()]), 16),
        (pickle.APPENDS, lambda m: m._append(m._pop_mark()), 16),
        (pickle.EMPTY_DICT, lambda m: m._push({}), 200),
        (pickle.DICT, lambda m: m._push(m._pairs({}, m._pop_mark())), 200),
        (pickle.SETITEM, lambda m: m._set_items([m._stack.pop(-2), m._stack.pop()]), 16),
        (pickle.SETITEMS, lambda m: m._set_items(m._pop_mark()), 16),
        (pickle.EMPTY_SET, lambda m: m._push(set()), 240),
        (pickle.ADDITEMS, lambda m: m._add_items(m._pop_mark()), 16),
        (pickle.FROZENSET, lambda m: m._push(frozenset(m._fill_set(set(), m._pop_mark()))), 240),
        (pickle.PUT, lambda m: m._put(int(m._line()[:20])), 0),
        (pickle.BINPUT, lambda m: m._put(m._number(1)), 0),
        (pickle.LONG_BINPUT, lambda m: m._put(m._number(4)), 0),
        (pickle.MEMOIZE, Machine._memoize, 0),
        (pickle.GET, lambda m: m._get(int(m._line()[:20])), 80),
        (pickle.BINGET, lambda m: m._get(m._number(1)), 16),
        (pickle.LONG_BINGET, lambda m: m._get(m._number(4)), 16),
        (pickle.GLOBAL, _class_line, 80),
        (pickle.STACK_GLOBAL, _stack_global, 80),
        (pickle.INST, _instance, 0),
        (pickle.REDUCE, Machine._reduce, 240),
        (pickle.BUILD, Machine._build, 80),
    )
}
