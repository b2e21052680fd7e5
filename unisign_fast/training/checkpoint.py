"""Atomic checkpoints: whenever a rank is killed, the run can resume from the newest complete one.

A checkpoint is a folder step_XXXXXXXX. Its manifest.json, written last, holds the trainer's state and the size and
SHA-256 of every file. A folder without a manifest, or whose files do not match it, is skipped. The file `latest` beside
the folders names the newest checkpoint, for other tools.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from unisign_fast.pipelines.atomic_io import replace_text
from unisign_fast.pipelines.errors import InputError
from unisign_fast.training.disk import (
    MANIFEST,
    Incomplete,
    remove,
    seal,
    sealed_state,
    sync_and_hash,
    writing,
)
from unisign_fast.utils.distributed import Ranks


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: the folder of its files, and the trainer's state."""

    folder: Path
    state: dict


class Checkpoints:
    """The checkpoints of a run. Every method is collective, and all ranks must share one file system."""

    def __init__(self, folder: Path, ranks: Ranks):
        self.folder, self.ranks = folder, ranks

    def save(self, step: int, state: dict, write: Callable[[Path], object]) -> None:
        """Save checkpoint number `step`: every rank calls `write(folder)`; `state` is JSON, the same on all ranks.

        Keeps the previous checkpoint and deletes older ones. Returns once all files are synced to disk. If the
        checkpoint cannot be written, deletes what was written and raises InputError on every rank.
        """
        folder = self.folder / f"step_{step:08d}"
        try:
            self._on_first(lambda: self._make(folder))
            self._together(lambda: write(folder))
            names = self.ranks.from_first(sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()))
            mine = names[self.ranks.rank :: self.ranks.world_size]  # ranks share the work of hashing
            shares = self.ranks.gather(self._together(lambda: {name: sync_and_hash(folder / name) for name in mine}))
            files = {name: entry for part in shares for name, entry in part.items()}
            self._on_first(lambda: self._finish(folder, state, files))
        except InputError:
            if self.ranks.is_first:
                with suppress(OSError):  # frees space for the next attempt
                    remove(folder)
            raise

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest complete checkpoint, verified by checksum, and why newer ones were skipped ("FOLDER: REASON")."""
        return self.ranks.from_first(self._find() if self.ranks.is_first else None)

    def _together(self, work: Callable[[], object]):
        def guarded():
            with writing(self.folder):
                return work()

        return self.ranks.together(guarded)

    def _on_first(self, work: Callable[[], object]) -> None:
        self._together(work if self.ranks.is_first else lambda: None)

    def _make(self, folder: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        remove(folder)  # incomplete: left by a killed process
        folder.mkdir()

    def _finish(self, folder: Path, state: dict, files: dict) -> None:
        seal(folder, state, files)
        replace_text(self.folder / "latest", folder.name)
        self._prune(folder)

    def _find(self) -> tuple[Checkpoint | None, list[str]]:
        skipped: list[str] = []
        for folder in sorted(self.folder.glob("step_" + "[0-9]" * 8), reverse=True):
            try:
                return Checkpoint(folder, _trainer_state(folder)), skipped
            except Incomplete as reason:
                skipped.append(f"{folder}: {reason}")
        return None, skipped

    def _prune(self, current: Path) -> None:
        """Remove all folders except `current`, just saved, and the newest sealed one before it."""
        folders = [path for path in sorted(self.folder.glob("step_" + "[0-9]" * 8)) if path.is_dir()]
        sealed = [folder for folder in folders if folder < current and (folder / MANIFEST).exists()]
        for folder in folders:
            if folder not in (current, *sealed[-1:]):
                remove(folder)


def _trainer_state(folder: Path) -> dict:
    """The trainer's state of a checkpoint. Raises Incomplete if the folder or a value of the state is invalid."""
    state = sealed_state(folder)
    if type(state.get("step")) is not int or folder.name != f"step_{state['step']:08d}":
        raise Incomplete(f"{MANIFEST} belongs to another step")
    best = state.get("best")
    if not (best is None or type(best) in (int, float) and math.isfinite(best)):
        raise Incomplete(f"the best score in {MANIFEST} is not a number")
    fingerprint = state.get("identity", {})
    if not isinstance(fingerprint, dict) or not all(isinstance(part, dict) for part in fingerprint.values()):
        raise Incomplete(f"{MANIFEST} does not say what was trained")
    return state
