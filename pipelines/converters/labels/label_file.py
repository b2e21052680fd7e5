"""A label file, as passed to the formats."""

from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from ...errors import InputError
from ...input_files import parse_json, read_bytes, read_text
from ..safe_pickle import load_pickle

TEXT_SUFFIXES = (".csv", ".tsv", ".txt")  # never JSON or a pickle


class LabelFile:
    """The file at `path`, and the user's choices: the first `classes` words, captions in `language`."""

    def __init__(self, path: Path, classes: int | None = None, language: str | None = None):
        self.path, self.classes, self.language = path, classes, language

    @cached_property
    def text(self) -> str:
        """The whole file as text. Raises InputError if it is not UTF-8 or cannot be read."""
        return read_text(self.path)

    @cached_property
    def content(self) -> object:
        """What JSON or a pickle holds, gzip-compressed or not; None for other files. Raises InputError on damage."""
        if self.path.suffix.lower() in TEXT_SUFFIXES:
            return None
        content = read_bytes(self.path, remedy="name the label file")
        start = content[:2]
        if start[:1] == b"\x80" or start == b"\x1f\x8b":
            del content  # load_pickle reads the file itself
            return load_pickle(self.path, compressed=start == b"\x1f\x8b")
        if content.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{"):
            return parse_json(content, self.path)
        with suppress(InputError):
            return parse_json(content, self.path)
        with suppress(InputError):  # pickles before protocol 2 have no magic bytes
            return load_pickle(self.path)
        return None


def has_field(rows: Iterable[object], *names: str) -> bool:
    """Whether any row is a dict with one of the names."""
    return any(isinstance(row, dict) and any(name in row for name in names) for row in rows)
