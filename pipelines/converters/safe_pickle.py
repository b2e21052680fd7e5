"""Reads poses and labels from pickles and numpy files without executing any of their code.

A pickle is a program. Our own interpreter (pickle_opcodes.py) runs it and supports only plain values, containers and
numpy arrays, since a list of forbidden names can always be circumvented. There is no fallback to an unsafe loader.
"""

import gzip
import io
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..input_files import MAX_BYTES, read_at_most, read_bytes  # an hour of poses at 30 fps in float64 takes 345 MB
from .pickle_opcodes import run
from .pickle_records import ArrayRecord, Finisher, ForbiddenGlobal, PickleError, make_dtype

_CUT = "cut it into clips before converting it"
# What a compressed file may expand to: fixed bytes, and times its size. Labels compress 3 to 10 times, keypoints 1.2;
# only zeros, of a clip without hands, come near deflate's 1,000 times, and those of an hour fit into the fixed part.
_INFLATED, _INFLATED_PICKLE, _INFLATED_PER_BYTE = 128 * 2**20, 16 * 2**20, 30
_COMPRESSION = 10  # a pickle's memory is limited by its size, which counts as at most this much of the file's


def load_pickle(path: Path | str, compressed: bool = False, max_bytes: int = MAX_BYTES) -> object:
    """The object in a pickle (gzip-compressed if `compressed`): numpy arrays and scalars, containers, texts, numbers.

    Arrays are read-only views of the file content. Raises InputError if the file is missing, truncated, larger than
    `max_bytes` once decompressed, names any other global, or needs far more memory than its size.
    """
    path = Path(path)
    if not compressed:
        content = read_bytes(path, max_bytes, _CUT)
        return _unpickle(content, path, len(content))
    try:
        size = path.stat().st_size
        max_bytes = _inflated(size, max_bytes, _INFLATED_PICKLE)
        with gzip.open(path) as file:
            inflated = read_at_most(file, max_bytes)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(path, f"is not a complete gzip file ({error})", "copy the file again") from None
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "give the path of a pickle") from None
    if inflated is None:
        raise InputError(path, f"is larger than {max_bytes} bytes", _CUT)
    return _unpickle(inflated, path, size)


def load_numpy(path: Path | str, max_bytes: int = MAX_BYTES) -> object:
    """The array of an .npy file, or the arrays of an .npz file by name; a single saved object is returned as it is.

    Arrays of objects are pickles, read as by `load_pickle`. Raises InputError in the same cases.
    """
    path = Path(path)
    content = read_bytes(path, max_bytes, _CUT)
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return _read_npy(content, path, len(content))
    max_bytes = _inflated(len(content), max_bytes, _INFLATED)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}.values()
            size = sum(entry.file_size for entry in entries)
            contents = {entry.filename: _read_entry(archive, entry) for entry in entries if size <= max_bytes}
    except Exception as error:  # on damaged bytes zipfile may raise any exception
        problem = f"is not a complete .npz file ({type(error).__name__}: {error})"
        raise InputError(path, problem, "copy the file again") from None
    if size > max_bytes:
        raise InputError(path, f"is larger than {max_bytes} bytes", _CUT)
    return {name.removesuffix(".npy"): _read_npy(entry, path, len(content)) for name, entry in contents.items()}


def _inflated(size: int, max_bytes: int, fixed: int) -> int:
    """The bytes that a compressed file of this size may expand to."""
    return min(max_bytes, fixed + _INFLATED_PER_BYTE * size)


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The bytes of an entry; never allocates more memory than the entry's declared size."""
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{entry.filename} uses a compression method that numpy does not write")  # bzip2 has no limit
    with archive.open(entry) as file:
        content = read_at_most(file, entry.file_size)  # in chunks: `ZipFile.read` inflates everything at once
    assert content is not None  # zipfile returns at most file_size bytes
    return content


def _read_npy(content: bytes, path: Path, file_bytes: int) -> object:
    """The value of an .npy file or entry, in a file of `file_bytes`."""
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = read_header[version](file)
        if not dtype.hasobject:
            record = make_dtype(dtype.str[1:])
            record.order = dtype.str[0]
            data = memoryview(content)[file.tell() :]  # no copy
            array = ArrayRecord(tuple(map(int, shape)), record, fortran, data)
            if min(array.shape, default=0) < 0:
                raise ValueError(f"an array {shape}")
            return Finisher(set(), len(content)).finish(array)
    except Exception as error:  # and numpy, too
        problem = f"is not a complete numpy file ({type(error).__name__}: {str(error)[:200]})"
        raise InputError(path, problem, "copy the file again") from None
    if len(content) > _inflated(file_bytes, len(content), _INFLATED_PICKLE):
        raise InputError(path, f"holds a pickle of {len(content)} bytes in {file_bytes}", _CUT)
    return _unpickle(file.read(), path, file_bytes)


def _unpickle(content: bytes, path: Path, file_bytes: int) -> object:
    size = min(len(content), _COMPRESSION * file_bytes)
    try:
        value, shared = run(content, size)
        return Finisher(shared, size).finish(value)
    except ForbiddenGlobal as error:
        problem = f"names {error}, which poses and labels do not need"
        raise InputError(path, problem, "do not use this file, or save it again as plain numpy arrays") from None
    except PickleError as error:
        raise InputError(path, f"is not a complete pickle ({error})", "copy the file again") from None
