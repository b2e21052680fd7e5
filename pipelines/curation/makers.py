"""The work on one plan or part, as done in a worker process. Nothing here knows how the work is distributed."""

import os
import time
from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

from ..atomic_io import writing_to
from ..errors import InputError
from .folder import CorpusFolder

MOST_CRASHES = 3  # worker crashes on an item, after which it becomes a dead letter
MOST_ATTEMPTS = 10  # including those that ended because their driver did


class Maker(ABC):
    """Makes the items of one stage. An instance lives in a worker process and keeps what is slow to load.

    Called with {"key": ..., ...}, it returns {"key", "state", "reason", ...}. The state is "done", "failed" (the item
    becomes a dead letter) or "stopped" (the item is not to blame: a full disk, a missing network).
    """

    stage: ClassVar[str]

    def __init__(self, root: str, run: str):
        """`root`: path of the corpus folder; `run`: name of the driver's run."""
        self.folder, self._run, self._is_loaded = CorpusFolder(Path(root)), run, False

    @abstractmethod
    def load(self) -> None:
        """Loads what all items need. Raises InputError if it is missing."""

    @abstractmethod
    def make(self, item: dict[str, Any]) -> Any:
        """The item's content. Raises InputError, or any other exception, if it cannot be made."""

    @abstractmethod
    def write(self, key: str, content: Any, seconds: float) -> None:
        """Writes the content under its final name. Raises InputError if the file system fails."""

    @abstractmethod
    def is_finished(self, key: str) -> bool:
        """Whether the item has been written."""

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Makes an item, and reports exceptions in the answer."""
        key = item["key"]
        began = time.perf_counter()
        try:
            if not self._is_loaded:
                self.load()
                self._is_loaded = True
            if self.is_finished(key):  # an earlier worker wrote it
                self._forget_attempts(key)
                return _answer(key, "done")
            if reason := self._crashes(key):
                return _answer(key, "failed", reason)
        except InputError as error:
            return _answer(key, "stopped", str(error))
        try:
            content = self.make(item)
        except Exception as error:  # FFmpeg, OpenCV and the networks raise many types; other items continue
            return _answer(key, "failed", _reason(error))
        try:
            self.write(key, content, time.perf_counter() - began)
            self._forget_attempts(key)
        except InputError as error:
            return _answer(key, "stopped", str(error))
        except Exception as error:
            return _answer(key, "failed", _reason(error))
        return _answer(key, "done")

    def _forget_attempts(self, key: str) -> None:
        with writing_to(self.folder.root):
            self.folder.attempts(key).unlink(missing_ok=True)

    def _crashes(self, key: str) -> str:
        """Records the start of an attempt and returns ""; or why there must be none, if too many crashed the worker.

        The last attempt of each earlier run may have ended because the driver did, so it does not count as a crash.
        """
        path = self.folder.attempts(key)
        with writing_to(path):
            before = Counter(path.read_text().split()) if path.exists() else Counter()
            crashes = sum(before.values()) - sum(run != self._run for run in before)
            if crashes >= MOST_CRASHES or sum(before.values()) >= MOST_ATTEMPTS:
                return (
                    f"its worker ended without an exception, {sum(before.values())} times (a crash, or out of memory)"
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                os.write(file, f"{self._run}\n".encode())
                os.fsync(file)
            finally:
                os.close(file)
        return ""


def _reason(error: Exception) -> str:
    if isinstance(error, InputError):
        return str(error)
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def _answer(key: str, state: str, reason: str = "") -> dict[str, Any]:
    return {"key": key, "state": state, "reason": reason}
