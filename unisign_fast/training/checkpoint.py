"""Checkpoints, whole or not at all: whenever a rank is killed, the newest whole one is found again.

A checkpoint is a folder step_XXXXXXXX. Its manifest.json, written last, holds the trainer's state and the size and
SHA-256 of every file; a folder without one, or whose files differ from it, does not count. `latest` beside the folders
names the newest, for other tools.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from unisign_fast.pipelines.atomic_io import sync_to_disk
from unisign_fast.utils.distributed import Ranks

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: where its files are, and the state that was saved with them."""

    folder: Path
    state: dict


class Checkpoints:
    """The checkpoints of a run. All ranks call each method together, and see one file system."""

    def __init__(self, folder: Path, ranks: Ranks):
        self.folder, self.ranks = folder, ranks

    def save(self, step: int, state: dict, write: Callable[[Path], object]) -> None:
        """Save under number `step`: `write(folder)` on every rank writes files, `state` is JSON, the same on all ranks.

        The one saved before is kept as well, older ones go. Returns when the checkpoint is safe on the disk.
        """
        folder = self.folder / f"step_{step:08d}"
        if self.ranks.is_first:
            self.folder.mkdir(parents=True, exist_ok=True)
            _remove(folder)  # what a killed process left; had it been whole, the run would have gone on from it
            folder.mkdir()
        self.ranks.barrier()
        write(folder)
        self.ranks.barrier()
        names = self.ranks.from_first(sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()))
        mine = names[self.ranks.rank :: self.ranks.world_size]  # reading all again for the hash is work to be shared
        shares = self.ranks.gather({name: _secure(folder / name) for name in mine})
        if self.ranks.is_first:
            _secure_folders(folder)
            table = {name: entry for part in shares for name, entry in part.items()}
            write_atomically(folder / MANIFEST, json.dumps({"state": state, "files": table}, indent=1))
            write_atomically(self.folder / "latest", folder.name)
            self._prune(step)
        self.ranks.barrier()

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest whole checkpoint, every byte verified, and why newer ones were passed over ("FOLDER: REASON")."""
        return self.ranks.from_first(self._find() if self.ranks.is_first else None)

    def _find(self) -> tuple[Checkpoint | None, list[str]]:
        passed_over = []
        for folder in reversed(self._folders()):
            try:
                return Checkpoint(folder, _verified_state(folder)), passed_over
            except _NotWhole as reason:
                passed_over.append(f"{folder}: {reason}")
        return None, passed_over

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob("step_" + "[0-9]" * 8))

    def _prune(self, step: int) -> None:
        """Remove all but number `step`, just secured, and the newest sealed one before it."""
        current = self.folder / f"step_{step:08d}"
        sealed = [folder for folder in self._folders() if folder < current and (folder / MANIFEST).exists()]
        for folder in self._folders():
            if folder not in (current, *sealed[-1:]):
                _remove(folder)


class _NotWhole(Exception):
    """Why a folder does not count as a checkpoint."""


def _verified_state(folder: Path) -> dict:
    """The state in a checkpoint's manifest; raises _NotWhole unless every file is as the manifest says."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        state, files = manifest["state"], manifest["files"].items()
    except FileNotFoundError:
        raise _NotWhole("saving it was not finished") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _NotWhole(f"{MANIFEST} is damaged ({error})") from None
    for name, (size, digest) in files:
        path = folder / name
        result = path.stat().st_size if path.is_file() else None
        if result != size:
            raise _NotWhole(f"{name} is missing" if result is None else f"{name} has {result} bytes instead of {size}")
    for name, (_, digest) in files:
        if _sha256(folder / name) != digest:
            raise _NotWhole(f"{name} was altered")
    return state


def write_files(folder: Path, write: Callable[[Path], None]) -> None:
    """Replace files in `folder` by those that `write(staging)` writes, each at once: there is never half of one.

    For a folder that must always be usable, such as the best weights so far. One process calls it.
    """
    staging = folder.with_name(folder.name + ".unfinished")
    _remove(staging)
    staging.mkdir(parents=True)
    write(staging)
    folder.mkdir(exist_ok=True)
    for path in sorted(staging.iterdir()):
        sync_to_disk(path)
        os.replace(path, folder / path.name)
    sync_to_disk(folder)
    staging.rmdir()


def write_atomically(path: Path, text: str) -> None:
    """Make `text` the content of the file: after a crash at any moment it is the old or the new one, whole."""
    staging = path.with_name(path.name + ".unfinished")
    staging.write_text(text, encoding="utf-8")
    sync_to_disk(staging)
    os.replace(staging, path)
    sync_to_disk(path.parent)


def _secure(path: Path) -> tuple[int, str]:
    """Bring a file to the disk; its size and SHA-256."""
    sync_to_disk(path)
    return path.stat().st_size, _sha256(path)


def _secure_folders(folder: Path) -> None:
    """Bring the names in `folder`, those below it and its own to the disk."""
    for path in (*(path for path in folder.rglob("*") if path.is_dir()), folder, folder.parent):
        sync_to_disk(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(folder: Path) -> None:
    """Remove a folder with all in it, if it is there. One that is half removed is no whole checkpoint."""
    if folder.exists():
        shutil.rmtree(folder)
