"""Reads user-supplied files as bytes, text or JSON, with limits on size and nesting depth."""

import io
import json
import re
from dataclasses import is_dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from .errors import InputError

MAX_BYTES = 512 * 2**20
_PIECE = 2**20
MAX_DEPTH = 64  # nesting of JSON lists and dicts; code that reads or prints the values may recurse
T = TypeVar("T")
_SETTINGS_BYTES = 16 * 2**20
_COPY = "copy the file again"
_LONG_NUMBER = re.compile(rb"[0-9]{300}")  # more digits than any float has
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'"[]{}'))
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")


class Readable(Protocol):
    """A file opened for reading bytes."""

    def read(self, size: int, /) -> bytes: ...


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


def read_at_most(file: Readable, max_bytes: int) -> bytes | None:
    """The rest of a file, or None if it is longer than `max_bytes`; takes little more memory than the file's size."""
    content = io.BytesIO()  # whose bytes `getvalue` does not copy
    while piece := file.read(_PIECE):
        if content.write(piece) and content.tell() > max_bytes:
            return None
    return content.getvalue()


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
    """Parses UTF-8 JSON; the project reads all JSON from outside with this function.

    Accepts what `json.loads` accepts, including NaN and Infinity. Raises InputError on invalid JSON, nesting deeper
    than MAX_DEPTH, numbers of 300 digits or more, lone surrogates, and names that occur twice in one object.
    """
    try:
        encoded = content.encode() if isinstance(content, str) else content
        if (depth := _depth(encoded)) > MAX_DEPTH:
            raise InputError(where, f"is JSON nested {depth} deep, and {MAX_DEPTH} is the limit", remedy)
        if _LONG_NUMBER.search(encoded):
            raise InputError(where, "is JSON with a number of 300 digits or more", remedy)
        value = json.loads(encoded.decode("utf-8-sig"), object_pairs_hook=_without_duplicates)
        if _SURROGATE.search(encoded):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise InputError(where, f"is not valid JSON ({error.reason}: not UTF-8)", remedy) from None
    except (ValueError, RecursionError) as error:
        raise InputError(where, f"is not valid JSON ({error})", remedy) from None


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The pairs as a dict. Raises ValueError if a name occurs twice: `json` would keep the last value silently."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names: set[str] = set()
        for name, _ in pairs:
            if name in names:
                raise ValueError(f"{name!r} occurs twice in one object")
            names.add(name)
    return values


def read_settings(path: Path, kind: type[T], what: str, remedy: str, required: tuple[str, ...] = ()) -> T:
    """The dataclass in a JSON file, every field of its annotated type; `what` says what the file should be.

    Raises InputError naming the file and field, also where one of `required` is missing.
    """
    import msgspec  # late import: the model imports this module, and a GPU host without the data path has no msgspec

    try:
        values = read_json(path, remedy, _SETTINGS_BYTES)
        missing = [name for name in required if not isinstance(values, dict) or name not in values]
        if missing:
            raise InputError(missing[0], "is missing", remedy)
        _refuse_unknown(values, kind, remedy)
        return msgspec.convert(values, kind)
    except InputError as error:
        reason = error.problem if error.where == str(path) else f"{error.where}: {error.problem}"
        raise InputError(path, f"{what} ({reason})", error.remedy) from None
    except msgspec.ValidationError as error:
        raise InputError(path, f"{what} ({error})", remedy) from None


def _refuse_unknown(values: object, kind: object, remedy: str) -> None:
    if isinstance(values, dict) and is_dataclass(kind):
        for name, value in values.items():
            if name not in kind.__dataclass_fields__:
                raise InputError(name, "is unknown", remedy)
            _refuse_unknown(value, kind.__dataclass_fields__[name].type, remedy)


def not_a_file_of_its_kind(content: bytes) -> str | None:
    """Describes a web page or Git LFS pointer downloaded instead of the real file, recognized by its first bytes.

    None if it is neither.
    """
    start = content[:1024].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, not the file itself"
    return "is a Git LFS pointer, not the file itself" if start.startswith(b"version https://git-lfs") else None


def _depth(content: bytes) -> int:
    """Nesting depth of brackets outside strings."""
    # Not re.sub, which makes an object for each of millions of escapes.
    content = content.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside = b"".join(content.translate(None, _NOT_STRUCTURE).split(b'"')[::2])
    steps = np.frombuffer(outside.translate(_STEPS), np.int8)
    depth = deepest = 0
    for start in range(0, len(steps), _PIECE):
        depths = depth + np.cumsum(steps[start : start + _PIECE], dtype=np.int64)
        depth, deepest = int(depths[-1]), max(deepest, int(depths.max()))
    return deepest
