"""Logs of a training run: a progress bar on rank 0, TensorBoard, optionally Weights & Biases, and RUN/log.jsonl.

log.jsonl has one JSON object per line. Every line has `event` (start, resume, step, bad_clip, bad_step, evaluation,
checkpoint, checkpoint_skipped, stopped, finished) and `time`. A step has loss, grad_norm (before clipping),
learning_rate, clips_per_s, input_wait (share of the time), memory_gib (peak) and, where the device's peak is known, mfu
(useful FLOPs over peak FLOPs). After a resume, repeated steps are logged again, with the same losses.
"""

import resource
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from unisign_fast.pipelines.errors import InputError
from unisign_fast.training.disk import writing
from unisign_fast.training.tensorboard_log import TensorBoardLog
from unisign_fast.utils.distributed import Ranks
from unisign_fast.utils.event_log import BadClipEvent, EventLog, events_of

LINE_EVERY_SECONDS = 15  # without a terminal there is no progress bar
PEAK_TFLOPS = {"H100": 989, "H200": 989, "A100": 312}  # dense bfloat16, by NVIDIA's data sheets

T = TypeVar("T")


class StepReport(NamedTuple):
    """Outcome of a step, read once the device has finished it; the same on every rank."""

    step: int  # from 1
    loss: float
    grad_norm: float
    is_bad: bool  # loss or gradient was not finite, and the step was not taken
    clips: int
    wants_stop: bool  # a rank received a stop signal


class _Pending(NamedTuple):
    """A step that the device may not have finished."""

    step: int
    row: dict
    host: Tensor
    event: "torch.cuda.Event | None"
    issued: float
    flops: float


class MetricsLogger:
    """Logs of a run. Every rank has one, but only rank 0 logs, except for bad clips."""

    def __init__(self, run: Path, ranks: Ranks, log_every: int = 1, wandb_project: str | None = None):
        self.ranks, self.log_every = ranks, log_every
        with writing(run):
            self.log = EventLog(run / "log.jsonl")
        self._run, self._wandb_project = run, wandb_project
        self._bad_clips: set[str] = set()
        self._board: TensorBoardLog | None = None
        self._wandb = None
        self._console = Console(quiet=not ranks.is_first)
        self._bar: Progress | None = None
        self._pending: _Pending | None = None
        self._step = 0
        self._printed_at = self._clock = time.monotonic()
        # Since the last logged step: seconds of training, seconds of waiting for input, useful work, and clips.
        self._busy = self._waited = self._flops = 0.0
        self._clips = 0

    @contextmanager
    def open(self, first_step: int, total_steps: int) -> Iterator["MetricsLogger"]:
        """Open the progress bar and TensorBoard for the steps from `first_step` (the number already done) to
        `total_steps`."""
        if self.ranks.is_first:
            with writing(self._run):
                self._board = TensorBoardLog(self._run / "tensorboard", first_step + 1)
            self._wandb = _start_wandb(self._wandb_project, self._run) if self._wandb_project else None
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
                with writing(self._run):
                    self._board.close()
            if self._wandb:
                self._wandb.finish()
            self.log.close()

    def waiting_for(self, items: Iterable[T]) -> Iterator[T]:
        """Yields the items, counting the time until each arrives as waiting for input."""
        iterator = iter(items)
        while True:
            start = time.monotonic()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self._waited += time.monotonic() - start
            yield item

    def step(self, step: int, row: dict, values: Tensor, flops: float = 0.0) -> StepReport | None:
        """Record step number `step` (from 1), which has been issued; every `log_every`-th is logged.

        `values` [5], on the device: loss, gradient norm, whether the step was bad, clips, stop signals. `flops`: useful
        FLOPs on all ranks. Returns the report of the previous step, which the device has finished by now.
        """
        report = self.fetch()
        self._step = step
        if self._bar:
            self._bar.update(self._task, completed=step)
        event = None
        host = values.to("cpu", non_blocking=True)  # pinned by torch; read only after the event
        if values.is_cuda:
            event = torch.cuda.Event()
            event.record()
        self._pending = _Pending(step, row, host, event, time.monotonic(), flops)
        return report

    def fetch(self) -> StepReport | None:
        """The report of the pending step, logged if it is due; None if there is none. Waits for the device."""
        if self._pending is None:
            return None
        step, row, host, event, now, flops = self._pending  # on a CPU the step was finished when it was issued
        self._pending = None
        if event:
            event.synchronize()
            now = time.monotonic()
        loss, grad_norm, is_bad, clips, stops = host.tolist()
        self._busy, self._clock = self._busy + now - self._clock, now
        self._clips += int(clips)
        self._flops += flops
        if step % self.log_every == 0 or step == self._total:
            self._log_step(step, row | {"loss": loss, "grad_norm": grad_norm})
        return StepReport(step, loss, grad_norm, bool(is_bad), int(clips), stops > 0)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Exclude the block, such as an evaluation, from clips/s. No step may be pending."""
        assert self._pending is None, "fetch first"
        self._busy += time.monotonic() - self._clock
        yield
        self._clock = time.monotonic()

    def event(self, event: str, message: str = "", **values) -> None:
        """Log an event from rank 0, and print `message` if there is one."""
        if self.ranks.is_first:
            with writing(self._run):
                self.log.write(event, **values)
            if message:
                self._print(message)

    def scores(self, epoch: int, scores: dict[str, float]) -> None:
        """Log and print the scores of an evaluation after epoch number `epoch` (from 0)."""
        listed = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
        self.event("evaluation", f"epoch {epoch + 1}: {listed}", epoch=epoch, step=self._step, scores=scores)
        self._plot("scores", scores, self._step)

    def bad_clip(self, clip_id: str, error: InputError) -> None:
        """Log a clip that was left out, once per run, whatever the epoch and rank."""
        self._bad_clips |= {event.clip for event in events_of(self.log.new_events(), BadClipEvent)}
        if clip_id not in self._bad_clips:
            with writing(self._run):
                self.log.write("bad_clip", clip=clip_id, error=str(error), rank=self.ranks.rank)

    def _log_step(self, step: int, row: dict) -> None:
        seconds = max(self._busy, 1e-9)
        row |= {
            "clips_per_s": round(self._clips / seconds, 3),
            "input_wait": round(min(self._waited / seconds, 1.0), 4),
            "memory_gib": round(peak_memory(self.ranks.device) / 2**30, 3),
        }
        peak = peak_flops(self.ranks.device)
        if peak and self._flops:
            row["mfu"] = round(self._flops / (seconds * peak * self.ranks.world_size), 4)
        if self.ranks.is_first:
            with writing(self._run):
                self.log.write("step", step=step, **row)
            self._plot("train", {name: value for name, value in row.items() if name != "epoch"}, step)
            self._show(step, row)
        self._busy = self._waited = self._flops = 0.0
        self._clips = 0

    def _plot(self, group: str, values: dict[str, float], step: int) -> None:
        if self._board:
            with writing(self._run):
                self._board.add(group, values, step)
        if self._wandb:
            self._wandb.log({f"{group}/{name}": value for name, value in values.items()}, step=step)

    def _print(self, line: str) -> None:
        """Print a line without wrapping it, on any terminal or none."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _show(self, step: int, row: dict) -> None:
        loss, rate, now = row["loss"], row["clips_per_s"], time.monotonic()
        if self._bar:
            self._bar.update(self._task, rate=f"{rate:.1f} clips/s", loss=f"loss {loss:.4f}")
        elif now - self._printed_at >= LINE_EVERY_SECONDS:
            self._printed_at = now
            left = (now - self._started) / max(step - self._first, 1) * (self._total - step)
            line = f"step {step}/{self._total}  loss {loss:.4f}  {rate:.1f} clips/s  {left / 60:.1f} min left"
            self._print(line)


def peak_memory(device: torch.device) -> int:
    """Peak memory so far, in bytes: allocated on the GPU, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_flops(device: torch.device) -> float | None:
    """Peak FLOP/s of the device in dense bfloat16; None if unknown."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((1e12 * tflops for known, tflops in PEAK_TFLOPS.items() if known in name), None)


def _start_wandb(project: str, run: Path):
    """A Weights & Biases run named after the folder; resuming appends to it. Raises InputError without the package."""
    try:
        import wandb
    except ImportError:
        remedy = "pip install wandb, or leave it out"
        raise InputError("--wandb", "the package wandb is not installed", remedy) from None
    name = str(run.resolve()).strip("/").replace("/", "-")
    return wandb.init(project=project, dir=str(run), name=str(run), id=name[-120:], resume="allow")


def _bar(console: Console) -> Progress:
    now = TextColumn("{task.fields[loss]}"), TextColumn("{task.fields[rate]}")
    times = TimeElapsedColumn(), TimeRemainingColumn()
    return Progress(BarColumn(), MofNCompleteColumn(), *now, *times, console=console)
