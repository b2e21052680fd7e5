"""Ctrl-C and SIGTERM during training: recorded on arrival, handled by all ranks after the same step."""

import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """A run was stopped by a signal after saving a checkpoint; `status` is what a shell expects."""

    def __init__(self, signum: int, step: int):
        self.status = 128 + signum
        super().__init__(f"stopped at step {step}; the same command resumes")


class SignalWatch:
    """`with SignalWatch() as signals:` records the first signal as `signals.received`; a second ends the process."""

    def __enter__(self) -> "SignalWatch":
        self.received = 0
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        for each, handler in self._before.items():
            signal.signal(each, handler)
