"""What a training run says: a progress bar on rank 0, TensorBoard, and RUN/log.jsonl, one JSON object a line.

Every line has `event` (start, resume, step, bad_clip, evaluation, checkpoint, checkpoint_passed_over, finished) and
`time`. After a resume the lines of repeated steps come again, with the same losses.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from unisign_fast.pipelines.errors import InputError
from unisign_fast.utils.distributed import Ranks
from unisign_fast.utils.event_log import EventLog

LINE_EVERY_SECONDS = 15  # where the output is no terminal and a bar makes no sense


class MetricsLogger:
    """The voice of a run. Every rank has one; all but rank 0's are silent, except for the bad clips they meet."""

    def __init__(self, run: Path, ranks: Ranks):
        self.ranks = ranks
        self.log = EventLog(run / "log.jsonl")
        self._bad_clips: set[str] = set()
        self._run = run
        self._board: SummaryWriter | None = None
        self._console = Console(quiet=not ranks.is_first)
        self._bar: Progress | None = None
        self._pending: tuple[dict, Tensor, torch.cuda.Event | None, float] | None = None
        self._step = 0
        self._said_at = self._clock = time.monotonic()
        self._busy = 0.0  # seconds of training since the last logged step

    @contextmanager
    def open(self, first_step: int, total_steps: int) -> Iterator["MetricsLogger"]:
        """Bar and board for the steps from `first_step` (those done before) to `total_steps`."""
        if self.ranks.is_first:
            self._board = SummaryWriter(self._run / "tensorboard", purge_step=first_step + 1)
            if self._console.is_terminal:
                self._bar = _bar(self._console)
                self._task = self._bar.add_task("", total=total_steps, completed=first_step, rate="", loss="")
                self._bar.start()
        self._total, self._step, self._clock = total_steps, first_step, time.monotonic()
        self._started, self._first = self._clock, first_step
        try:
            yield self
        finally:
            if self._bar:
                self._bar.stop()
            if self._board:
                self._board.close()
            self.log.close()

    def step(self, step: int, row: dict | None = None, values: Tensor | None = None) -> None:
        """Step number `step` (from 1) has been issued. With `values` [2] on the device (loss, clips since the last such
        call) it is logged beside `row`, once the device is through with it: at the next call of any method."""
        self._fetch()
        self._step = step
        if self._bar:
            self._bar.update(self._task, completed=step)
        if values is not None:
            event = None
            host = values.to("cpu", non_blocking=True)  # pinned by torch; read only after the event
            if values.is_cuda:
                event = torch.cuda.Event()
                event.record()
            self._pending = {"step": step, **row}, host, event, time.monotonic()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Around what is not training: everything pending is logged before, and the time is not counted in clips/s."""
        self._fetch()
        self._busy += time.monotonic() - self._clock
        yield
        self._clock = time.monotonic()

    def event(self, event: str, message: str = "", **values) -> None:
        """Log an event from rank 0, and say `message` if there is one."""
        if self.ranks.is_first:
            self.log.write(event, **values)
            if message:
                self._console.print(message, markup=False, highlight=False)

    def scores(self, epoch: int, scores: dict[str, float]) -> None:
        """Log and say the scores of an evaluation after epoch number `epoch` (from 0)."""
        said = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
        self.event("evaluation", f"epoch {epoch + 1}: {said}", epoch=epoch, step=self._step, scores=scores)
        for name, value in scores.items() if self._board else ():
            self._board.add_scalar(f"scores/{name}", value, self._step)

    def bad_clip(self, clip_id: str, error: InputError) -> None:
        """Log a clip that was left out, once in a run, however many epochs and ranks meet it."""
        self._bad_clips |= {event["clip"] for event in self.log.news() if event["event"] == "bad_clip"}
        if clip_id not in self._bad_clips:
            self.log.write("bad_clip", clip=clip_id, error=str(error), rank=self.ranks.rank)

    def _fetch(self) -> None:
        """Log the pending step; by now the device has been given the next one, so that waiting costs nothing.

        Raises ArithmeticError on every rank when the loss is no number any more.
        """
        if self._pending is None:
            return
        row, host, event, now = self._pending  # on a CPU the step was done by then
        self._pending = None
        if event:
            event.synchronize()
            now = time.monotonic()
        loss, clips = host.tolist()
        rate = clips / max(self._busy + now - self._clock, 1e-9)
        self._busy, self._clock = 0.0, now
        if self.ranks.is_first:
            self.log.write("step", **row, loss=loss, clips_per_s=round(rate, 3))
            for name, value in (("loss", loss), ("clips_per_s", rate), ("learning_rate", row["learning_rate"])):
                self._board.add_scalar(f"train/{name}", value, row["step"])
            self._show(row["step"], loss, rate, now)
        if loss != loss or abs(loss) == float("inf"):
            raise ArithmeticError(f"the loss of step {row['step']} is {loss}: training cannot go on")

    def _show(self, step: int, loss: float, rate: float, now: float) -> None:
        if self._bar:
            self._bar.update(self._task, rate=f"{rate:.1f} clips/s", loss=f"loss {loss:.4f}")
        elif now - self._said_at >= LINE_EVERY_SECONDS:
            self._said_at = now
            left = (now - self._started) / max(step - self._first, 1) * (self._total - step)
            line = f"step {step}/{self._total}  loss {loss:.4f}  {rate:.1f} clips/s  {left / 60:.1f} min left"
            self._console.print(line, markup=False, highlight=False)


def _bar(console: Console) -> Progress:
    now = TextColumn("{task.fields[loss]}"), TextColumn("{task.fields[rate]}")
    times = TimeElapsedColumn(), TimeRemainingColumn()
    return Progress(BarColumn(), MofNCompleteColumn(), *now, *times, console=console)
