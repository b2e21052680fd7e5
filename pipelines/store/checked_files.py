"""Access to the files of a store: headers with a checksum, and reads at an offset."""

import json
import os
from pathlib import Path

import google_crc32c

from ..atomic_io import replace_json
from ..errors import InputError
from ..input_files import read_json

MAX_COUNT = 2**53
_HEADER_BYTES = 64 * 2**20


class FileReader:
    """Thread-safe reads at an offset. Not a memory map, which would crash the process if the file is truncated.

    `read` returns fewer bytes than requested at the end of the file.
    """

    def __init__(self, path: Path):
        """Raises OSError if the file cannot be opened."""
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDONLY)

    def __del__(self):
        if self._descriptor >= 0:
            os.close(self._descriptor)

    @property
    def size(self) -> int:
        """Current size of the file in bytes."""
        return os.fstat(self._descriptor).st_size

    def read(self, start: int, size: int) -> bytes:
        """The file's bytes from `start`. Raises OSError if the disk fails."""
        if size > 2**24:
            size = max(0, min(size, self.size - start))  # do not allocate more than the file has
        piece = os.pread(self._descriptor, size, start)
        if len(piece) in (0, size):
            return piece
        return piece + self.read(start + len(piece), size - len(piece))


def json_crc32c(value: object) -> int:
    """The CRC-32C of a JSON value, independent of its formatting."""
    return google_crc32c.value(json.dumps(value, sort_keys=True).encode())


def write_header(path: Path, header: dict) -> None:
    """Atomically writes a header with its checksum, after everything it counts is on disk."""
    values = {name: value for name, value in header.items() if name != "checksum"}
    replace_json(path, values | {"checksum": json_crc32c(values)})


def read_header(path: Path, form: str, versions: tuple[int, ...], counts: tuple[str, ...], remedy: str) -> dict:
    """A header of the format `form` in one of `versions` (the last is the current one), whose `counts` are integers.
    Headers of the current version have a checksum. Raises InputError naming the field that is wrong.
    """
    header = read_json(path, remedy, _HEADER_BYTES)
    if not isinstance(header, dict) or header.get("format") != form:
        raise InputError(f"{path}: format", f"is not {form!r}", remedy)
    version = header.get("version")
    if type(version) is not int or version not in versions:
        raise InputError(f"{path}: version", f"is {version!r}, not {versions[-1]}", remedy)
    if version == versions[-1] or "checksum" in header:
        rest = {name: value for name, value in header.items() if name != "checksum"}
        if header.get("checksum") != json_crc32c(rest):
            raise InputError(path, "does not match its own checksum", remedy)
    for name in counts:
        if name not in header:
            raise InputError(f"{path}: {name}", "is missing", remedy)
        if type(header[name]) is not int or not 0 <= header[name] < MAX_COUNT:
            raise InputError(f"{path}: {name}", f"is {header[name]!r}, not a count", remedy)
    return header


def check_texts(where: str, value: object, remedy: str) -> None:
    """Raises InputError unless `value` is a dict of texts."""
    if not isinstance(value, dict) or not all(type(text) is str for text in value.values()):
        raise InputError(where, "is not a dict of texts", remedy)
