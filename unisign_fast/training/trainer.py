"""The training loop: resume, steps, evaluation, best and last weights, checkpoints.

A run's position is one integer, the number of optimiser steps so far: data order and random choices follow from
(seed, epoch, clip), dropout from (seed, step, rank). A run folder holds settings.json, log.jsonl, tensorboard/,
checkpoints/, best/ and last/.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from unisign_fast.pipelines.batches.loader import BatchLoader
from unisign_fast.pipelines.batches.packed_batch import PackedBatch
from unisign_fast.pipelines.errors import InputError
from unisign_fast.training.checkpoint import Checkpoints
from unisign_fast.training.deepspeed_engine import (
    StepResult,
    backward_step,
    consolidated_state_dict,
    evaluation_mode,
    link_moments,
    set_schedule,
    start_engine,
)
from unisign_fast.training.disk import write_files
from unisign_fast.training.engine_state import has_engine_state, load_engine, save_engine
from unisign_fast.training.interruption import Interrupted, SignalWatch
from unisign_fast.training.metrics_logger import MetricsLogger, StepReport
from unisign_fast.training.run_fingerprint import check_fingerprint, check_same_layout, run_fingerprint
from unisign_fast.training.settings import TrainSettings
from unisign_fast.utils.distributed import Ranks

OpenLoader = Callable[[Callable[[str, InputError], None]], BatchLoader]
SaveWeights = Callable[[Path, dict[str, Tensor]], None]


class CountsTargets(Protocol):
    """A model that knows how many targets a batch has before the forward pass."""

    def target_count(self, batch: PackedBatch) -> int:
        """Number of targets that the batch's loss is summed over."""
        ...


@dataclass(frozen=True)
class Validation:
    """How a run is evaluated, and the score that selects its best weights."""

    evaluate: Callable[[int], dict[str, float]]  # every rank calls it with the epoch (from 0); rank 0's scores count
    metric: str  # name of the selecting score
    mode: Literal["max", "min"]

    def is_better(self, score: float, best: float | None) -> bool:
        """Whether `score` beats `best`; NaN never does."""
        return score == score and (best is None or (score > best if self.mode == "max" else score < best))


@dataclass
class Progress:
    """Progress of a run, saved in every checkpoint."""

    step: int = 0  # optimiser steps done, including skipped ones
    best: float | None = None  # score of the best weights so far
    since_best: int = 0  # evaluations since the best
    skipped: int = 0  # bad steps skipped


class Trainer:
    """Trains `model` in the run folder `run`, resuming from the newest complete checkpoint. Every rank creates one.

    `model(batch)` returns [2]: the sum of the targets' losses, and the number of targets, which
    `model.target_count(batch)` gives before the forward pass. `open_loader(on_bad_clip)` creates this rank's
    BatchLoader. `save_weights(folder, state_dict)` is called on rank 0 for RUN/best and RUN/last with the full float32
    state and writes plain files. `recipe` holds everything else that defines the run (model, data), as JSON; a
    checkpoint is only resumed with the same recipe. `flops(batch)` returns the useful FLOPs of training on a
    micro-batch, for the MFU in the log.
    """

    def __init__(
        self,
        model: nn.Module,
        open_loader: OpenLoader,
        settings: TrainSettings,
        run: Path,
        ranks: Ranks,
        *,
        recipe: dict,
        save_weights: SaveWeights,
        validation: Validation | None = None,
        flops: Callable[[PackedBatch], float] = lambda batch: 0.0,
    ):
        self.settings, self.run, self.ranks = settings, run, ranks
        self.save_weights, self.validation, self.flops = save_weights, validation, flops
        self.metrics_logger = MetricsLogger(run, ranks, settings.log_every_steps, settings.wandb)
        self.loader = open_loader(self.metrics_logger.bad_clip)
        self.steps_per_epoch = self.loader.plan(0).steps
        self.total_steps = self.steps_per_epoch * settings.epochs
        self.run_fingerprint = run_fingerprint(model, settings, ranks, self.steps_per_epoch, recipe)
        self.engine = start_engine(model, settings, self.total_steps)
        self.checkpoints = Checkpoints(run / "checkpoints", ranks)
        self.progress = Progress()
        self.saved_step = 0
        self.wants_stop = False
        self.last_step: tuple[list[PackedBatch], StepResult] | None = None

    def resume(self) -> None:
        """Load the newest complete checkpoint, if any. Raises InputError if it belongs to another run."""
        checkpoint, skipped = self.checkpoints.newest()
        for reason in skipped:
            self.metrics_logger.event("checkpoint_skipped", f"skipped checkpoint {reason}", reason=reason)
        if checkpoint is None:
            known = {kind: self.run_fingerprint[kind] for kind in ("setting", "recipe")}
            self.metrics_logger.event("start", steps=self.total_steps, **known)
            return
        state = checkpoint.state
        for change in check_fingerprint(checkpoint.folder, state.get("identity", {}), self.run_fingerprint):
            self.metrics_logger.event("changed", change, change=change)
        self._load(checkpoint.folder, state)
        self.progress = Progress(**{name: state[name] for name in asdict(self.progress) if name in state})
        self.saved_step = self.progress.step
        message = f"resuming from step {self.progress.step} of {self.total_steps}"
        self.metrics_logger.event("resume", message, step=self.progress.step, ranks=self.ranks.world_size)

    def train(self) -> bool:
        """Train to the end of the run. Returns False if it was already finished. Raises Interrupted on a signal."""
        if self.is_finished:
            message = f"{self.run} is already finished; nothing to do"
            self.metrics_logger.event("finished", message, step=self.progress.step)
            return False
        self.engine.train()
        epoch, step = divmod(self.progress.step, self.steps_per_epoch)
        with self.metrics_logger.open(self.progress.step, self.total_steps), SignalWatch() as self.signals:
            steps = self.loader.steps(self.settings.epochs, epoch, step)
            for epoch, _, micro_batches in self.metrics_logger.waiting_for(steps):
                self._take_step(epoch, micro_batches)
                if self.progress.step % self.steps_per_epoch == 0:
                    self._end_epoch(epoch)
                elif self.progress.step % self.settings.checkpoint_every_steps == 0:
                    self._save_checkpoint()
                if self.is_finished:
                    break
                if self.wants_stop:
                    self._stop()
            self.metrics_logger.event("finished", f"finished; weights in {self.run / 'last'}", step=self.progress.step)
        return True

    @property
    def is_finished(self) -> bool:
        """Whether all steps are done, or --early-stopping has ended the run."""
        patience = self.settings.early_stopping
        return self.progress.step >= self.total_steps or bool(patience) and self.progress.since_best >= patience

    def _take_step(self, epoch: int, micro_batches: list[PackedBatch]) -> None:
        """One optimiser step on this rank's share of its clips. Nothing here waits for the device."""
        torch.manual_seed(step_seed(self.settings.seed, self.progress.step, self.ranks.rank))
        counts = count_targets_and_clips(self.engine.module, micro_batches, self.ranks.device)
        stop = torch.full((1,), float(self.signals.received > 0), device=self.ranks.device)
        targets, clips, stops = self.ranks.sum(torch.cat([counts, stop]))
        row = {"epoch": epoch, "learning_rate": self.engine.get_lr()[0]}
        result = backward_step(self.engine, micro_batches, self.ranks.world_size / targets.clamp(min=1))
        self.progress.step += 1
        loss = result.loss_sum / targets.clamp(min=1)
        values = torch.stack([loss, result.grad_norm, result.is_bad.float(), clips, stops])
        flops = self.ranks.world_size * sum(map(self.flops, micro_batches))
        self._handle(self.metrics_logger.step(self.progress.step, row, values, flops))
        self.last_step = micro_batches, result

    def _handle(self, report: StepReport | None) -> None:
        """Handle the report of a step that the device has finished; it is the same on every rank."""
        if report is None:
            return
        self.wants_stop |= report.wants_stop
        if report.is_bad:
            self._skip_bad_step(report)

    def _skip_bad_step(self, report: StepReport) -> None:
        """Log a bad step, which did not change the weights. Raises InputError unless it may be skipped."""
        assert self.last_step is not None, "a report belongs to a step"
        batches, result = self.last_step
        finite = torch.isfinite(result.micro_losses).tolist()
        suspects = [clip for batch, good in zip(batches, finite) if not good for clip in batch.clip_ids]
        clips = [clip for part in self.ranks.gather(suspects) for clip in part]
        if not clips:  # only the gradient is bad: any clip of the step may be the cause
            clips = [c for part in self.ranks.gather([c for b in batches for c in b.clip_ids]) for c in part]
        self.progress.skipped += 1
        summary = f"loss {report.loss:.4g} and gradient norm {report.grad_norm:.4g} at step {report.step}"
        named = ", ".join(clips[:8]) + (f" and {len(clips) - 8} more" if len(clips) > 8 else "")
        values = {"loss": str(report.loss), "grad_norm": str(report.grad_norm)}  # JSON has no NaN
        self.metrics_logger.event("bad_step", step=report.step, clips=clips, **values)
        if self.settings.on_bad_step == "stop":
            remedy = "lower --learning-rate, repair these clips, or skip such steps with --on-bad-step skip"
            raise InputError(self.run, f"{summary} are not finite, so the step was not taken; clips {named}", remedy)
        if self.progress.skipped > self.settings.max_skipped_steps:
            problem = f"{self.progress.skipped} steps had to be skipped, the last with {summary}; clips {named}"
            raise InputError(self.run, problem, "lower --learning-rate, or raise --max-skipped-steps")
        self.metrics_logger.event("skipped", f"skipped a step: {summary}; clips {named}", step=report.step)

    def _fetch_report(self) -> None:
        """Handle the pending report, before anything is saved or evaluated."""
        self._handle(self.metrics_logger.fetch())

    def _end_epoch(self, epoch: int) -> None:
        """Evaluate and save if due. The checkpoint comes last, so that a run killed before it repeats all of this."""
        is_last = self.is_finished
        is_due = is_last or (epoch + 1) % self.settings.evaluate_every_epochs == 0
        validation = self.validation if is_due else None
        if validation:
            self._evaluate(validation, epoch)
        if self.is_finished:
            if not is_last:
                message = f"no better score in {self.progress.since_best} evaluations: the run ends early"
                self.metrics_logger.event("early_stopping", message, step=self.progress.step)
            self._save_weights("last")
        if validation or self.is_finished or self.progress.step % self.settings.checkpoint_every_steps == 0:
            self._save_checkpoint()

    def _evaluate(self, validation: Validation, epoch: int) -> None:
        self._fetch_report()
        with self.metrics_logger.pause(), evaluation_mode(self.engine):
            scores = self.ranks.from_first(validation.evaluate(epoch))
        self.metrics_logger.scores(epoch, scores)
        score = scores[validation.metric]
        self.progress.since_best += 1
        if validation.is_better(score, self.progress.best):
            self.progress.best, self.progress.since_best = score, 0
            self._save_weights("best")

    def _save_weights(self, name: str) -> None:
        self._fetch_report()
        with self.metrics_logger.pause():
            state = consolidated_state_dict(self.engine)

            def write() -> None:
                if state is not None:
                    check_finite(self.run / name, state)
                    write_files(self.run / name, lambda folder: self.save_weights(folder, state))

            self.ranks.together(write)

    def _save_checkpoint(self) -> None:
        self._fetch_report()
        with self.metrics_logger.pause():
            state = asdict(self.progress) | {"identity": self.run_fingerprint}
            self.checkpoints.save(self.progress.step, state, lambda folder: save_engine(self.engine, folder))
            self.metrics_logger.event("checkpoint", step=self.progress.step)
        self.saved_step = self.progress.step

    def _stop(self) -> None:
        """Stop all ranks after the same step, because of a signal that any of them received."""
        if self.saved_step != self.progress.step:
            self._save_checkpoint()
        signum = max(self.ranks.gather(self.signals.received))
        self.metrics_logger.event("stopped", step=self.progress.step, signal=signum)
        raise Interrupted(signum, self.progress.step)

    def _load(self, folder: Path, state: dict) -> None:
        if has_engine_state(folder):
            load_engine(self.engine, folder)
        else:
            check_same_layout(folder, state["identity"], self.settings, self.ranks)
            self.engine.load_checkpoint(str(folder.parent), tag=folder.name)
            link_moments(self.engine)
        set_schedule(self.engine, state["step"])


def count_targets_and_clips(model: CountsTargets, micro_batches: list[PackedBatch], device: torch.device) -> Tensor:
    """[2] float32 on the device: targets (`UniSign.target_count`) and clips of this rank's micro-batches."""
    targets = sum(model.target_count(batch) for batch in micro_batches)
    clips = sum(len(batch.clip_ids) for batch in micro_batches)
    return torch.stack([torch.full((), float(number), device=device) for number in (targets, clips)])


def step_seed(seed: int, step: int, rank: int) -> int:
    """Dropout seed of a step and rank, so that no generator state has to be saved."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])


def check_run_folder(run: Path, settings: TrainSettings, ranks: Ranks) -> None:
    """Raises InputError on every rank if the run folder is a file, or not empty despite --resume never."""
    is_file = ranks.from_first(ranks.is_first and run.is_file())
    if is_file:
        raise InputError(run, "is a file", "name a folder for the run")
    is_used = ranks.from_first(ranks.is_first and run.exists() and any(run.iterdir()))
    if is_used and settings.resume == "never":
        raise InputError(run, "is not an empty folder", "name a new folder, or resume with --resume auto")


def check_finite(where: Path, state: dict[str, Tensor]) -> None:
    """Raises InputError if a weight or statistic is not finite, so that it never replaces a valid one."""
    for name, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            problem = f"{name} is no longer finite, so nothing was saved"
            raise InputError(where, problem, "resume from the newest checkpoint with a lower --learning-rate")
