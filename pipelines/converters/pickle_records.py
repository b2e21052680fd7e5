"""Inert records of numpy objects used while a pickle is read, and their conversion to checked arrays afterwards."""

import math
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

EXPANDED, EXPANDED_PER_BYTE = 64 * 2**20, 12  # limit on the size without sharing: bytes, bytes per byte of pickle
MAX_DEPTH = 64
MAX_DIMENSIONS = 32
_PER_SHARED = 200  # bytes that a Finisher keeps of each shared object
_SPEC = re.compile(r"b1|[iu][1248]|f[248]|c8|c16|O8?|[US](?:0|[1-9][0-9]{0,5})")


class PickleError(Exception):
    """The pickle holds something other than plain values, containers and arrays, or is damaged."""


class ForbiddenGlobal(PickleError):
    """The pickle names a forbidden global; the message is its name."""


@dataclass(eq=False, slots=True)
class OldString:
    """A Python 2 string, bytes or text. A pickle may refer to it any number of times, all of which share one text."""

    raw: bytes
    text: str

    @classmethod
    def of(cls, raw: bytes) -> "OldString":
        """The string of these bytes: UTF-8, else latin-1."""
        try:
            return cls(raw, raw.decode())
        except UnicodeDecodeError:
            return cls(raw, raw.decode("latin-1"))


def as_text(value: object) -> object:
    """The text of a Python 2 string; every other value as it is."""
    return value.text if type(value) is OldString else value


@dataclass(eq=False, slots=True)
class DtypeRecord:
    """A dtype: numpy's letter and size, such as f4, and the byte order once known."""

    spec: str
    order: str | None = None


@dataclass(eq=False, slots=True)
class ArrayRecord:
    """An array; `data` is None until the pickle sets it. `axes`: the transposition to apply afterwards."""

    shape: tuple = ()
    dtype: DtypeRecord | None = None
    fortran: bool = False
    data: bytes | memoryview | list | None = None
    axes: object = None


def make_dtype(spec: object, align: object = 0, copy: object = 1) -> DtypeRecord:
    """The record of `numpy.dtype(spec, align, copy)`. Raises PickleError unless it is a plain number, text or O."""
    spec = as_text(spec)
    if not isinstance(spec, str) or not _SPEC.fullmatch(spec):
        raise PickleError(f"the dtype {spec[:40]!r}" if isinstance(spec, str) else "a dtype of no text")
    return DtypeRecord(spec)


def build_dtype(record: DtypeRecord, state: object) -> None:
    """Sets a dtype's pickled state: (version, byte order, subarray, names, fields, size, alignment, flags)."""
    if record.order is not None or type(state) is not tuple or not 5 <= len(state) <= 8:
        raise PickleError("a second or another state of a dtype")
    order, *parts = as_text(state[1]), *state[2:]
    if not isinstance(order, str) or order not in ("<", ">", "|", "=") or any(part is not None for part in parts[:3]):
        raise PickleError("a dtype with fields")
    record.order = order


def build_array(record: ArrayRecord, state: object) -> None:
    """Sets an array's state as numpy pickles it: ([version,] shape, dtype, is Fortran order, data)."""
    if record.data is not None or type(state) is not tuple or len(state) not in (4, 5):
        raise PickleError("a second or another state of an array")
    shape, dtype, fortran, data = state[-4:]
    if type(shape) is not tuple or not all(type(n) is int and 0 <= n < 2**62 for n in shape):
        raise PickleError("an array without a shape")
    if len(shape) > MAX_DIMENSIONS or type(dtype) is not DtypeRecord or type(fortran) not in (int, bool):
        raise PickleError("an array of another kind")
    record.data = data if type(data) is list else raw_bytes(data)
    record.shape, record.dtype, record.fortran = shape, dtype, bool(fortran)


def raw_bytes(data: object) -> bytes:
    """The bytes of a value that the pickle uses as bytes."""
    if isinstance(data, OldString):
        return data.raw
    if type(data) is not bytes:
        raise PickleError(f"a {type(data).__name__} instead of an array's bytes")
    return data


def make_scalar(dtype: object, data: bytes) -> np.generic:
    """An immutable numpy number or text. Raises PickleError if it is anything else."""
    if type(dtype) is not DtypeRecord or dtype.spec.startswith("O"):
        raise PickleError("a scalar of another kind")
    return cast(np.generic, array_of(dtype, (), False, data)[()])


def array_of(record: DtypeRecord, shape: tuple, fortran: bool, data: bytes | memoryview) -> np.ndarray:
    """A read-only array over `data`. Raises PickleError unless it has exactly that shape's bytes."""
    dtype = np.dtype((record.order or "=") + record.spec)
    size = math.prod(shape) * dtype.itemsize
    if size != len(data):
        raise PickleError(f"an array {shape} of {dtype} in {len(data)} bytes")
    if not size:
        return np.zeros(shape, dtype)
    array = np.frombuffer(data, dtype)
    if dtype.kind == "b":
        array = np.frombuffer(data, np.uint8) != 0  # a byte of a bool may exceed 1
    if dtype.kind == "U":
        codes = np.frombuffer(data, dtype.str[0] + "u4")
        if (codes > 0x10FFFF).any() or (codes >> 11 == 0xD800 >> 11).any():
            raise PickleError("a text with invalid characters")
    return array.reshape(shape, order="F" if fortran else "C")


class Finisher:
    """Replaces records by arrays; rejects values that expand too far, nest too deeply or contain themselves."""

    def __init__(self, shared: set[int], pickle_bytes: int):
        self._shared = shared
        self._limit = EXPANDED + EXPANDED_PER_BYTE * pickle_bytes
        self._made = 0  # bytes allocated so far
        self._finished: dict[int, tuple[object, object, int] | None] = {}  # for shared objects: object, result, size

    def finish(self, value: object) -> object:
        """The value of a Machine with all records replaced by arrays. Raises PickleError."""
        result, _ = self._finish(value, 0)
        return result

    def _finish(self, value: Any, depth: int) -> tuple[object, int]:
        """The result, and its size in bytes as if nothing in it were shared."""
        kind = type(value)
        if kind is OldString:
            return value.text, 8 + len(value.text)
        if kind in (str, bytes):
            return value, 8 + len(value)
        if kind not in _CONTAINERS and kind is not ArrayRecord:
            if kind not in _PLAIN and not isinstance(value, np.generic):
                raise PickleError("a function or a dtype as a value")
            return value, 8
        if depth > MAX_DEPTH:
            raise PickleError(f"lists and dicts nested deeper than {MAX_DEPTH}")
        key = id(value)
        if key not in self._shared:
            return self._checked(*self._contents(value, depth))
        if key not in self._finished:
            self._make(_PER_SHARED)
            self._finished[key] = None
            self._finished[key] = value, *self._checked(*self._contents(value, depth))
        finished = self._finished[key]
        if finished is None:
            raise PickleError("a list or dict that contains itself")
        _, result, size = finished
        return result, size

    def _checked(self, result: object, size: int) -> tuple[object, int]:
        if size > self._limit:
            raise PickleError("it repeats the same lists or arrays so often that they would need too much memory")
        return result, size

    def _make(self, size: int) -> None:
        """Reserves `size` bytes before allocation. Raises PickleError if the total exceeds the limit."""
        self._made += size
        self._checked(None, self._made)

    def _contents(self, value: Any, depth: int) -> tuple[Any, int]:
        if type(value) is ArrayRecord:
            return self._array(value, depth)
        self._make(64 + 8 * len(value))
        if isinstance(value, (set, frozenset)):
            return value, 64 + 64 * len(value)
        if isinstance(value, dict):
            size = 64
            for name, item in value.items():
                value[name], item_size = self._finish(item, depth + 1)
                size += 64 + item_size + (len(name) if isinstance(name, (str, bytes)) else 0)
            return value, size
        items, size = [], 64 + 8 * len(value)
        for item in value:
            if type(item) in _PLAIN:
                items.append(item)
                continue
            item, item_size = self._finish(item, depth + 1)
            items.append(item)
            size += item_size
        if type(value) is tuple:
            return tuple(items), size
        value[:] = items
        return value, size

    def _array(self, record: ArrayRecord, depth: int) -> tuple[object, int]:
        if record.data is None:
            raise PickleError("an array without data")
        assert record.dtype is not None, record  # build_array sets both
        empty = 0 in record.shape or record.dtype.spec in ("U0", "S0")
        size = math.prod(n or 1 for n in record.shape) * 8 if empty else 0  # an empty array may still be long
        self._make(size)
        if record.dtype.spec.startswith("O"):
            return self._object_array(record, depth)
        if isinstance(record.data, list):
            raise PickleError("an array of a list")
        self._make(64 + len(record.data))
        array = array_of(record.dtype, record.shape, record.fortran, record.data)
        return _transposed(array, record.axes)[()], 64 + max(size, array.nbytes)

    def _object_array(self, record: ArrayRecord, depth: int) -> tuple[object, int]:
        if type(record.data) is not list or len(record.data) != math.prod(record.shape):
            raise PickleError("an array of objects with a wrong number of objects")
        self._make(160 + 16 * len(record.data))
        items, size = cast(tuple[list, int], self._finish(record.data, depth))  # once, where arrays share the list
        array = np.empty(len(items), object)
        for i, item in enumerate(items):
            array[i] = item
        return array.reshape(record.shape, order="F" if record.fortran else "C")[()], size


_CONTAINERS = (list, tuple, dict, OrderedDict, set, frozenset)
_PLAIN = (int, float, bool, type(None))


def _transposed(array: np.ndarray, axes: object) -> np.ndarray:
    if axes is None:
        return array
    if type(axes) is not tuple or not all(type(axis) is int for axis in axes):
        raise PickleError("an array with invalid axes")
    if sorted(axes) != list(range(array.ndim)):
        raise PickleError("an array with invalid axes")
    return array.transpose(axes)
