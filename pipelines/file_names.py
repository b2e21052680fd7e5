"""Finding files by the names that labels give them, whatever form of Unicode either is in.

macOS writes an accented letter as two characters (NFD), most others as one (NFC): they look the same, and Linux takes
them for two names.
"""

import unicodedata
from functools import cached_property
from pathlib import Path


class NamedFiles:
    """The files and folders below a folder, by their paths in it."""

    def __init__(self, folder: Path):
        self.folder = folder

    def find(self, name: str) -> Path | None:
        """The file or folder of that relative path, None if there is none or the name cannot be one."""
        try:
            path = self.folder / name
            if path.exists():
                return path
        except (OSError, ValueError):  # too long, or a NUL character in it
            return None
        return None if name.isascii() else self._composed.get(composed(name))

    @cached_property
    def _composed(self) -> dict[str, Path]:
        return {composed(path.relative_to(self.folder).as_posix()): path for path in sorted(self.folder.rglob("*"))}


def composed(name: str) -> str:
    """The name in the one form in which names are compared, NFC."""
    return unicodedata.normalize("NFC", name)


def is_hidden(path: Path) -> bool:
    """Whether the file's name begins with a dot: macOS writes a file ._NAME beside each on foreign disks."""
    return path.name.startswith(".")
