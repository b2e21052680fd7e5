"""RUN/log.jsonl: one JSON object per line, written by several processes, readable while it grows."""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from math import nan
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.input_files import parse_json

MAX_STEP = 2**53
StepNumber = Annotated[int, msgspec.Meta(ge=0, lt=MAX_STEP)]
T = TypeVar("T")


class StepEvent(msgspec.Struct, frozen=True):
    """A logged step; values missing from its line are NaN."""

    step: StepNumber = 0
    loss: float = nan
    learning_rate: float = nan
    clips_per_s: float = nan


class EvaluationEvent(msgspec.Struct, frozen=True):
    """Scores on the dev split."""

    scores: dict[str, float]
    step: StepNumber = 0


class BadClipEvent(msgspec.Struct, frozen=True):
    """A clip that was left out."""

    clip: str
    error: str = ""


EVENTS: dict[type, str] = {StepEvent: "step", EvaluationEvent: "evaluation", BadClipEvent: "bad_clip"}


class EventLog:
    """Appends events to a JSONL file. Several processes may share it, since every line is a single appending write."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._read = 0  # bytes that `new_events` has read
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":  # a power failure cut the last line short
            os.write(self._file, b"\n")

    def write(self, event: str, **values) -> None:
        """Append one event as a line."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"event": event, "time": now, **values}, ensure_ascii=False)
        os.write(self._file, line.encode() + b"\n")

    def new_events(self) -> list[dict]:
        """The events that any process has written since the last call; the first call returns all."""
        text = os.pread(self._file, os.fstat(self._file).st_size - self._read, self._read)
        complete = text[: text.rfind(b"\n") + 1]
        self._read += len(complete)
        return _parse(complete)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read_events(path: Path) -> list[dict]:
    """The events of a log, without any line that a power failure cut short. Raises OSError if it cannot be read."""
    return _parse(path.read_bytes())


def events_of(events: Iterable[dict], kind: type[T]) -> list[T]:
    """The events of a class in EVENTS; events whose values have the wrong type are left out."""
    result = []
    for event in events:
        if event.get("event") == EVENTS[kind]:
            with suppress(msgspec.ValidationError):
                result.append(msgspec.convert(event, kind))
    return result


def _parse(text: bytes) -> list[dict]:
    events = []
    for line in text.splitlines():
        with suppress(InputError):
            event = parse_json(line, "log.jsonl")
            if isinstance(event, dict):
                events.append(event)
    return events
