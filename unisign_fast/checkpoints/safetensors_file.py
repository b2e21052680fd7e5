"""Reads .safetensors files without memory mapping.

The library maps the file, so a process that reads it dies of SIGBUS when another one truncates it. Here a truncated
file raises InputError, like one with a damaged header. The format: 8 bytes with the size of the header, a JSON header
{name: {dtype, shape, data_offsets}}, and the tensors' bytes without gaps. Files written by this project have a CRC-32
of every tensor in the header's metadata, which other readers ignore; files without it are not checked.
"""

import json
import math
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.input_files import parse_json

REMEDY = "download or copy it again"
MAX_HEADER = 100 * 2**20  # bytes, the library's own limit
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


CHECKSUMS = "crc32"  # the metadata's key: JSON {name: CRC-32}


def checksum_metadata(weights: dict[str, Tensor]) -> dict[str, str]:
    """The metadata of a file of these tensors: the CRC-32 of each one's type, shape and bytes."""
    checksums = {name: _crc32(w.reshape(-1).view(torch.uint8), w.dtype, list(w.shape)) for name, w in weights.items()}
    return {CHECKSUMS: json.dumps(checksums, sort_keys=True)}


def _crc32(content: Tensor, dtype: torch.dtype, shape: list[int]) -> int:
    return zlib.crc32(content.cpu().numpy().data, zlib.crc32(f"{dtype} {shape}".encode()))


class SafetensorsFile:
    """An open file; tensors are read by name, one at a time. Use it in a `with` block."""

    def __init__(self, path: Path):
        """Raises InputError if there is no such file, or its header is damaged."""
        self.path = path
        self._file: BinaryIO = open_file(path)
        try:
            self._entries, self._start, self._checksums = self._header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "SafetensorsFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    @property
    def names(self) -> list[str]:
        """The tensors' names, in the order of the file."""
        return list(self._entries)

    def read(self, name: str) -> Tensor:
        """A tensor on the CPU. Raises InputError if it is cut short or does not match its checksum."""
        dtype, shape, begin, end = self._entries[name]
        content = torch.empty(end - begin, dtype=torch.uint8)
        try:
            self._file.seek(self._start + begin)
            size = self._file.readinto(content.numpy().data)  # type: ignore[attr-defined]
        except OSError as error:
            raise InputError(self.path, f"cannot be read ({error.strerror})", REMEDY) from None
        if size != end - begin:
            raise self._damaged(f"it ends within {name}")
        if self._checksums is not None and self._checksums.get(name) != _crc32(content, dtype, shape):
            raise self._damaged(f"{name} does not match its checksum")
        if dtype is torch.bool:
            return (content != 0).reshape(shape)
        return content.view(dtype).reshape(shape)

    def _header(self) -> tuple[dict[str, tuple[torch.dtype, list[int], int, int]], int, dict | None]:
        """Type, shape and byte range of every tensor, where the first begins, and the checksums if there are any."""
        size = int.from_bytes(self._file.read(8), "little")
        if not 2 <= size <= MAX_HEADER:
            raise self._damaged("it has no header")
        header = self._file.read(size)
        if len(header) < size:
            raise self._damaged("it ends within the header")
        try:
            values: Any = parse_json(header, self.path, REMEDY)
        except InputError as error:
            raise self._damaged(f"the header {error.problem}") from None
        if not isinstance(values, dict):
            raise self._damaged("the header is not a table")
        entries = {name: self._entry(name, value) for name, value in values.items() if name != "__metadata__"}
        ranges = sorted((begin, end) for _, _, begin, end in entries.values())
        data = self._file.seek(0, 2) - 8 - size
        if any(end != begin for (_, end), (begin, _) in pairwise([(0, 0), *ranges, (data, data)])):
            raise self._damaged(f"its {data} bytes of tensors do not match the header")
        in_order = dict(sorted(entries.items(), key=lambda entry: entry[1][2:]))
        return in_order, 8 + size, self._read_checksums(values.get("__metadata__"))

    def _read_checksums(self, metadata: object) -> dict | None:
        text = metadata.get(CHECKSUMS) if isinstance(metadata, dict) else None
        if text is None:
            return None
        checksums = parse_json(text, self.path, REMEDY) if isinstance(text, str) else None
        if not isinstance(checksums, dict):
            raise self._damaged("the header's checksums are not a table")
        return checksums

    def _entry(self, name: str, value: Any) -> tuple[torch.dtype, list[int], int, int]:
        try:
            dtype, shape, (begin, end) = DTYPES[value["dtype"]], value["shape"], value["data_offsets"]
            numbers = [*shape, begin, end]
            if not all(type(number) is int and 0 <= number < 2**60 for number in numbers):
                raise ValueError
            if end - begin != math.prod(shape) * dtype.itemsize:
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise self._damaged(f"the header's entry {name[:80]!r} does not describe a tensor") from None
        return dtype, shape, begin, end

    def _damaged(self, reason: str) -> InputError:
        return InputError(self.path, f"is not a complete safetensors file ({reason})", REMEDY)


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading bytes. Raises InputError if that fails."""
    try:
        return open(path, "rb")
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "name an existing file") from None


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file. Raises InputError as SafetensorsFile does."""
    with SafetensorsFile(path) as file:
        return {name: file.read(name) for name in file.names}
