"""Reads the pickles and numpy files that poses and labels come in, without letting them run anything.

A pickle names the functions that rebuild it. Only those that build numpy arrays and plain containers are allowed here;
a list of what is forbidden could always be got round. There is no unsafe way out.
"""

import codecs
import gzip
import io
import math
import pickle
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np

from ..errors import InputError

MAX_BYTES = 512 * 2**20  # a pose file of an hour at 30 fps in float64 has 345 MB


def load_pickle(path: Path | str, compressed: bool = False, max_bytes: int = MAX_BYTES) -> object:
    """The object in a pickle (gzip-compressed if `compressed`): numpy arrays and scalars, containers, texts, numbers.

    Raises InputError if the file is missing, truncated, larger than `max_bytes` once decompressed, or names any global
    beyond those.
    """
    path = Path(path)
    try:
        with gzip.open(path) if compressed else open(path, "rb") as file:
            content = file.read(max_bytes + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(path, f"is not a whole gzip file ({error})", "copy the file again") from None
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "give the path of a pickle") from None
    if len(content) > max_bytes:
        raise InputError(path, f"is larger than {max_bytes} bytes", "cut it into clips before converting it")
    return _unpickle(content, path)


def load_numpy(path: Path | str, max_bytes: int = MAX_BYTES) -> object:
    """The array of an .npy file, or the arrays of an .npz file by name; what was saved as one object comes as itself.

    Arrays of objects are pickles and read as `load_pickle` does. Raises InputError as that does.
    """
    path = Path(path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
                contents = {name: archive.read(name) for name in archive.namelist() if size <= max_bytes}
        else:
            size, contents = path.stat().st_size, {"": path.read_bytes()}
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "give the path of a numpy file") from None
    except Exception as error:  # damaged bytes make zipfile raise anything
        problem = f"is not a whole .npz file ({type(error).__name__}: {error})"
        raise InputError(path, problem, "copy the file again") from None
    if size > max_bytes:
        raise InputError(path, f"is larger than {max_bytes} bytes", "cut it into clips before converting it")
    arrays = {name.removesuffix(".npy"): _read_npy(content, path) for name, content in contents.items()}
    return arrays.get("", arrays)


def _read_npy(content: bytes, path: Path) -> object:
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, dtype = read_header[version](file)
        if not dtype.hasobject:
            if math.prod(shape) * dtype.itemsize > len(content):  # before numpy makes room for it
                raise ValueError(f"an array {shape} does not fit into {len(content)} bytes")
            return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # and numpy, too
        problem = f"is not a whole numpy file ({type(error).__name__}: {error})"
        raise InputError(path, problem, "copy the file again") from None
    array = _unpickle(file.read(), path)
    return array.item() if isinstance(array, np.ndarray) and array.ndim == 0 else array


def _unpickle(content: bytes, path: Path) -> object:
    try:
        return _AllowListUnpickler(io.BytesIO(content)).load()
    except _ForbiddenGlobal as error:
        problem = f"names {error}, which poses and labels do not need"
        raise InputError(path, problem, "do not use this file, or save it again as plain numpy arrays") from None
    except Exception as error:  # damaged bytes make the unpickler raise anything
        problem = f"is not a whole pickle ({type(error).__name__}: {error})"
        raise InputError(path, problem, "copy the file again") from None


class _ForbiddenGlobal(Exception):
    """The global's name."""


def _array_from_buffer(buffer, dtype, shape, order, axis_order=None) -> np.ndarray:
    """What protocol 5 stores an array as; numpy's own function of this is private and moves between versions."""
    if axis_order is not None:
        raise pickle.UnpicklingError("an array whose axes are permuted")
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


def _encode_latin1(text, encoding) -> bytes:
    """What protocols up to 2 store bytes as, with that one encoding."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {encoding}")
    return codecs.encode(text, "latin1")


_CONTAINERS = {"list": list, "dict": dict, "tuple": tuple, "set": set, "frozenset": frozenset}
_ARRAY_PARTS = {"_reconstruct": np._core.multiarray._reconstruct, "scalar": np._core.multiarray.scalar}
_ALLOWED = {
    "builtins": _CONTAINERS,
    "__builtin__": _CONTAINERS,
    "collections": {"OrderedDict": OrderedDict},
    "numpy": {"ndarray": np.ndarray, "dtype": np.dtype},
    "numpy.core.multiarray": _ARRAY_PARTS,
    "numpy._core.multiarray": _ARRAY_PARTS,
    "numpy.core.numeric": {"_frombuffer": _array_from_buffer},
    "numpy._core.numeric": {"_frombuffer": _array_from_buffer},
    "_codecs": {"encode": _encode_latin1},
}


class _AllowListUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        result = _ALLOWED.get(module, {}).get(name)
        if result is None:
            raise _ForbiddenGlobal(f"{module}.{name}")
        return result
