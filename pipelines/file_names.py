"""Finds files by the names that labels give them, regardless of Unicode normalization form.

macOS writes an accented letter as two characters (NFD), most other systems as one (NFC). The names look the same, but
Linux treats them as different.
"""

import unicodedata
from functools import cached_property
from pathlib import Path


class NamedFiles:
    """The files and folders below a folder, looked up by relative path."""

    def __init__(self, folder: Path):
        self.folder = folder

    def find(self, name: str) -> Path | None:
        """The file or folder with this relative path; None if there is none or the name is invalid."""
        try:
            path = self.folder / name
            if path.exists():
                return path
        except (OSError, ValueError):  # too long, or contains a NUL character
            return None
        return None if name.isascii() else self._composed.get(composed(name))

    @cached_property
    def _composed(self) -> dict[str, Path]:
        return {composed(path.relative_to(self.folder).as_posix()): path for path in sorted(self.folder.rglob("*"))}


def composed(name: str) -> str:
    """The name in NFC, the form in which names are compared."""
    return unicodedata.normalize("NFC", name)


def is_hidden(path: Path) -> bool:
    """Whether the name begins with a dot; on non-Apple disks macOS writes a file ._NAME beside each file."""
    return path.name.startswith(".")
