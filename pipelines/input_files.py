"""Files that a user gives us, read whole: bytes, text and JSON, of a limited size and depth."""

import json
import re
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .errors import InputError

MAX_BYTES = 512 * 2**20
_PIECE = 2**20
MAX_DEPTH = 64  # of JSON: lists in lists; whatever reads or prints the values may recurse
_COPY = "copy the file again"
_LONG_NUMBER = re.compile(rb"[0-9]{300}")  # beyond any float
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'"[]{}'))
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")


def read_bytes(path: Path, max_bytes: int = MAX_BYTES, remedy: str = "name a file that is there") -> bytes:
    """The bytes of a file. Raises InputError if it cannot be read or has more than `max_bytes`."""
    try:
        with open(path, "rb") as file:
            content = read_at_most(file, max_bytes)
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", remedy) from None
    if content is None:
        raise InputError(path, f"is larger than {max_bytes} bytes", remedy)
    return content


def read_at_most(file: BinaryIO, max_bytes: int) -> bytes | None:
    """The rest of a file; None if that is more than `max_bytes`. Takes no more memory than the file has bytes."""
    pieces, size = [], 0
    while piece := file.read(_PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > max_bytes:
            return None
    return b"".join(pieces)


def read_text(path: Path, max_bytes: int = MAX_BYTES) -> str:
    """The text of a UTF-8 file. Raises InputError if it cannot be read or has more than `max_bytes`."""
    try:
        return read_bytes(path, max_bytes).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(path, "is not UTF-8 text", "name another file, or save it as UTF-8") from None


def read_json(path: Path, remedy: str = _COPY, max_bytes: int = MAX_BYTES) -> object:
    """The value in a JSON file. Raises InputError if there is none, as `parse_json` does, or if it is too large."""
    return parse_json(read_bytes(path, max_bytes, remedy), path, remedy)


def parse_json(content: bytes | str, where: object, remedy: str = _COPY) -> object:
    """The value of JSON text in UTF-8: the only way in which this project reads JSON that others may have written.

    As `json.loads`, NaN and Infinity included, but whatever is wrong is an InputError: lists or dicts nested deeper
    than MAX_DEPTH, numbers of 300 digits, halves of surrogate pairs.
    """
    try:
        encoded = content.encode() if isinstance(content, str) else content
        if (depth := _depth(encoded)) > MAX_DEPTH:
            raise InputError(where, f"is JSON nested {depth} deep, and {MAX_DEPTH} is the limit", remedy)
        if _LONG_NUMBER.search(encoded):
            raise InputError(where, "is JSON with a number of 300 digits or more", remedy)
        value = json.loads(encoded.decode("utf-8-sig"))
        if _SURROGATE.search(encoded):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeError as error:
        raise InputError(where, f"is not whole JSON ({error.reason}: not UTF-8)", remedy) from None
    except (ValueError, RecursionError) as error:
        raise InputError(where, f"is not whole JSON ({error})", remedy) from None


def _depth(content: bytes) -> int:
    """How deep brackets are nested, those in strings not counted."""
    if b"\\" in content:
        content = re.sub(rb"\\.", b"", content, flags=re.DOTALL)
    outside = b"".join(content.translate(None, _NOT_STRUCTURE).split(b'"')[::2])
    steps = np.frombuffer(outside.translate(_STEPS), np.int8)
    return int(np.cumsum(steps, dtype=np.int64).max(initial=0))
