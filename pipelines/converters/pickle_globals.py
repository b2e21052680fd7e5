"""The globals that a pickle may name, and what calling each gives: containers, and numpy's arrays, dtypes and scalars.

Nothing else can be named. Arrays and dtypes are inert records (pickle_records.py) while the pickle is read.
"""

from collections import OrderedDict
from typing import Any

import numpy as np

from .pickle_machine import PER_ENTRY, Function, Machine
from .pickle_records import ArrayRecord, DtypeRecord, PickleError, build_array, make_dtype, make_scalar, raw_bytes


def _copy(machine: Machine, values: Any = (), *, kind: type) -> object:
    if type(values) not in (list, tuple, set, frozenset):
        raise PickleError(f"a {kind.__name__} of a {type(values).__name__}")
    machine._charge(PER_ENTRY * len(values))
    for value in values:  # the copy's items are also in the original
        machine._seen_again(value)
    if kind in (set, frozenset):
        return kind(machine._fill_set(set(), list(values)))
    if kind in (dict, OrderedDict):
        if not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in values):
            raise PickleError("a dict of items that are not pairs")
        for pair in values:
            machine._seen_again(pair[1])
        return machine._fill_dict(kind(), [tuple(pair) for pair in values])
    return kind(values)


def _encode(machine: Machine, text: str, encoding: str) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise PickleError("bytes in an encoding other than latin-1")
    machine._charge(len(text))
    return text.encode("latin-1")


def _reconstruct(machine: Machine, kind: object, shape: object, code: object) -> ArrayRecord:
    if kind is not _NDARRAY:
        raise PickleError("an array of another kind")
    return ArrayRecord()


def _frombuffer(machine: Machine, data: object, dtype: object, shape: object, order: object, axes: object = None):
    if order not in ("C", "F", "K") or (axes is None) != (order != "K"):
        raise PickleError("an array in an order other than C, F or K")
    record = ArrayRecord()
    build_array(record, (1, shape, dtype, order == "F", data))
    record.axes = axes
    return record


def _scalar(machine: Machine, dtype: object, data: object) -> np.generic:
    raw = raw_bytes(data)
    machine._charge(8 * len(raw))
    return make_scalar(dtype, raw)


def _dtype(machine: Machine, *arguments: object) -> DtypeRecord:
    return make_dtype(*arguments)


def _no_call(machine: Machine, *arguments: object) -> None:
    raise PickleError("an array created by its constructor")


def _copier(kind: type) -> Function:
    return Function(lambda machine, *values: _copy(machine, *values, kind=kind))


_NDARRAY = Function(_no_call)
_CONTAINERS = {"bytes": Function(lambda machine: b"")} | {  # protocols up to 2 call bytes() for no bytes
    kind.__name__: _copier(kind) for kind in (list, dict, tuple, set, frozenset)
}
_MULTIARRAY = {"_reconstruct": Function(_reconstruct), "scalar": Function(_scalar)}
_NUMERIC = {"_frombuffer": Function(_frombuffer)}
GLOBALS = {
    (module, name): function
    for module, functions in {
        "builtins": _CONTAINERS,
        "__builtin__": _CONTAINERS,
        "collections": {"OrderedDict": _copier(OrderedDict)},
        "numpy": {"ndarray": _NDARRAY, "dtype": Function(_dtype)},
        "numpy.core.multiarray": _MULTIARRAY,
        "numpy._core.multiarray": _MULTIARRAY,
        "numpy.core.numeric": _NUMERIC,
        "numpy._core.numeric": _NUMERIC,
        "_codecs": {"encode": Function(_encode)},
    }.items()
    for name, function in functions.items()
}
