"""The folder in which a corpus is built, on a file system with atomic rename that all its machines share.

    OUT/settings.json   the settings of the last run, which the other commands use
    OUT/checksums.json  SHA-256 of videos, captions and networks by path, size and modification time
    OUT/plans/KEY.json  the words of a programme and its spans
    OUT/parts/KEY/      keypoints of a span (a keypoint store), quality.jsonl and part.json
    OUT/attempts/KEY    a line for every time that a worker started on a plan or part that is not finished
    OUT/dead/KEY.json   why a plan or part cannot be made: stage and reason
    OUT/withdrawn/SHA   tombstones of withdrawn sources
    OUT/releases/DIGEST/store  keypoint stores to train on; `current` is a link to the newest
    OUT/unfinished/     what workers are writing

KEY starts with the source's id, 16 digits of its SHA-256; the rest is a digest of everything the content depends on.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..atomic_io import replace_json, sync_to_disk, writing_to
from ..errors import InputError
from ..input_files import read_json

KEY_DIGITS = 16  # of each half of a key


def key_of(content: str, **depends_on: object) -> str:
    """The key of a plan or part made from a source with this SHA-256 and from `depends_on` (JSON values) alone."""
    listed = json.dumps({"content": content, **depends_on}, sort_keys=True, ensure_ascii=False)
    return f"{content[:KEY_DIGITS]}-{hashlib.sha256(listed.encode()).hexdigest()[:KEY_DIGITS]}"


@dataclass(frozen=True)
class CorpusFolder:
    """The paths of a corpus folder, `root`."""

    root: Path

    @property
    def settings(self) -> Path:
        return self.root / "settings.json"

    @property
    def checksums(self) -> Path:
        return self.root / "checksums.json"

    @property
    def releases(self) -> Path:
        return self.root / "releases"

    @property
    def unfinished(self) -> Path:
        return self.root / "unfinished"

    @property
    def current(self) -> Path:
        """A link to the newest release."""
        return self.root / "current"

    def plan(self, key: str) -> Path:
        return self.root / "plans" / f"{key}.json"

    def part(self, key: str) -> Path:
        return self.root / "parts" / key

    def attempts(self, key: str) -> Path:
        return self.root / "attempts" / key

    def dead_letter(self, key: str) -> Path:
        return self.root / "dead" / f"{key}.json"

    def tombstone(self, content: str) -> Path:
        return self.root / "withdrawn" / content

    @property
    def withdrawn(self) -> set[str]:
        """SHA-256 of the sources that were withdrawn."""
        return {path.name for path in (self.root / "withdrawn").glob("*")}

    def clear_attempts(self) -> None:
        """Removes the attempts of finished plans and parts, whose workers were killed just after the final rename."""
        with writing_to(self.root):
            for path in (self.root / "attempts").glob("*"):
                if self.plan(path.name).exists() or self.part(path.name).exists():
                    path.unlink()

    def of_source(self, source_id: str) -> list[Path]:
        """Every file and folder made from a source, except releases."""
        return [path for name in ("plans", "parts", "attempts", "dead") for path in self._entries(name, source_id)]

    def _entries(self, name: str, source_id: str) -> list[Path]:
        folder = self.root / name
        return sorted([*folder.glob(f"{source_id}-*"), *folder.glob(f".{source_id}-*")])  # dot: half removed

    def dead_letters(self) -> dict[str, dict]:
        """Key -> stage and reason."""
        letters = {}
        for path in sorted((self.root / "dead").glob("*.json")):
            letter = read_json(path)
            letters[path.stem] = letter if isinstance(letter, dict) else {}
        return letters

    def bury(self, key: str, stage: str, reason: str) -> None:
        """Writes a dead letter: the plan or part is not tried again until `revive`."""
        replace_json(self.dead_letter(key), {"stage": stage, "reason": reason})

    def revive(self) -> list[str]:
        """Removes all dead letters and their attempts, and returns their keys."""
        keys = list(self.dead_letters())
        with writing_to(self.root):
            for key in keys:
                self.attempts(key).unlink(missing_ok=True)
                self.dead_letter(key).unlink()
        return keys

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock, which the kernel releases if the process dies. Raises InputError if it is taken."""
        with writing_to(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            file = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._lock(file)
            yield
        finally:
            os.close(file)

    def _lock(self, file: int) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(self.root, "is in use by another curate command", "wait until it ends") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            raise InputError(self.root, "its file system has no locks", "name a folder on another one") from None

    def point_current_to(self, release: Path) -> None:
        """Atomically points the link `current` to a release."""
        link = self.root / ".current"
        with writing_to(self.current):
            link.unlink(missing_ok=True)
            link.symlink_to(release.relative_to(self.root))
            link.rename(self.current)
            sync_to_disk(self.root)


def remove(path: Path) -> None:
    """Removes a file, link or folder, if there is one. A folder is renamed first. Raises InputError if that fails."""
    with writing_to(path), suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            removed = path.with_name(f".{path.name.lstrip('.')}")
            if removed != path:
                shutil.rmtree(removed, ignore_errors=True)
                path.rename(removed)
            shutil.rmtree(removed)
        else:
            path.unlink()
