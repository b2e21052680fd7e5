"""The training loop: resume, steps, evaluation, best and last weights, checkpoints.

Where a run stands is one integer, its optimiser steps so far: data order and choices follow from (seed, epoch, clip),
dropout from (seed, step, rank). A run folder holds log.jsonl, tensorboard/, checkpoints/, best/ and last/.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from unisign_fast.pipelines.batches.loader import BatchLoader
from unisign_fast.pipelines.batches.packed_batch import PackedBatch
from unisign_fast.pipelines.errors import InputError
from unisign_fast.training.checkpoint import Checkpoints, write_files
from unisign_fast.training.deepspeed_engine import backward_step, consolidated_state_dict, evaluation_mode, start_engine
from unisign_fast.training.metrics_logger import MetricsLogger
from unisign_fast.training.settings import TrainSettings
from unisign_fast.utils.distributed import Ranks

MAY_CHANGE = {  # between the starts of one run; everything else would make it another run
    "frames_per_device",
    "tokens_per_device",
    "checkpoint_every_steps",
    "evaluate_every_epochs",
    "log_every_steps",
    "resume",
    "max_bad_share",
}

OpenLoader = Callable[[Callable[[str, InputError], None]], BatchLoader]
SaveWeights = Callable[[Path, dict[str, Tensor]], None]


@dataclass(frozen=True)
class Validation:
    """How a run is scored, and by which score its best weights are chosen."""

    evaluate: Callable[[int], dict[str, float]]  # every rank calls it with the epoch (from 0); rank 0's scores count
    metric: str  # the score that decides
    mode: Literal["max", "min"]

    def is_better(self, score: float, best: float | None) -> bool:
        """Whether `score` beats `best`; NaN never does."""
        return score == score and (best is None or (score > best if self.mode == "max" else score < best))


class Trainer:
    """Trains `model` in the run folder `run`, going on from its newest whole checkpoint; every rank builds one.

    `model(batch)` gives [2]: the sum of the targets' losses and their number, which `model.target_count(batch)` knows
    before. `open_loader(on_bad_clip)` makes this rank's BatchLoader. `save_weights(folder, state_dict)` is called on
    rank 0 for RUN/best and RUN/last with the whole float32 state and writes plain files. `recipe` is what else makes
    the run what it is (model, data), as JSON: a checkpoint is resumed with the same one only.
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
    ):
        self.settings, self.run, self.ranks = settings, run, ranks
        self.save_weights, self.validation = save_weights, validation
        self.metrics_logger = MetricsLogger(run, ranks)
        self.loader = open_loader(self.metrics_logger.bad_clip)
        self.steps_per_epoch = self.loader.plan(0).steps
        self.total_steps = self.steps_per_epoch * settings.epochs
        self.run_fingerprint = run_fingerprint(model, settings, ranks, self.total_steps, recipe)
        self.engine = start_engine(model, settings, self.total_steps)
        self.checkpoints = Checkpoints(run / "checkpoints", ranks)
        self.step = 0  # optimiser steps done
        self.best: float | None = None
        self.clips_since_log = torch.zeros((), device=ranks.device)

    def train(self) -> None:
        """From where the run stands to its end."""
        self._resume()
        if self.step == self.total_steps:
            self.metrics_logger.event("finished", f"{self.run} is finished already; nothing to do", step=self.step)
            return
        self.engine.train()
        epoch, step = divmod(self.step, self.steps_per_epoch)
        with self.metrics_logger.open(self.step, self.total_steps):
            for epoch, _, micro_batches in self.loader.steps(self.settings.epochs, epoch, step):
                self._take_step(epoch, micro_batches)
                if self.step % self.steps_per_epoch == 0:
                    self._end_epoch(epoch)
                elif self.step % self.settings.checkpoint_every_steps == 0:
                    self._save_checkpoint()
            self.metrics_logger.event("finished", f"finished; weights in {self.run / 'last'}", step=self.step)

    def _take_step(self, epoch: int, micro_batches: list[PackedBatch]) -> None:
        """One optimiser step on this rank's share of its clips. Nothing here waits for the device."""
        torch.manual_seed(step_seed(self.settings.seed, self.step, self.ranks.rank))
        targets, clips = self.ranks.sum(count(self.engine.module, micro_batches, self.ranks.device))
        targets.clamp_(min=1)
        learning_rate = self.engine.get_lr()[0]
        loss = backward_step(self.engine, micro_batches, self.ranks.world_size / targets)
        self.clips_since_log += clips
        self.step += 1
        # What is saved is logged first: weights behind a loss that is no number must not displace sound ones.
        due = self.settings.log_every_steps, self.settings.checkpoint_every_steps, self.steps_per_epoch
        if all(self.step % every for every in due):
            self.metrics_logger.step(self.step)
            return
        values = torch.stack([self.ranks.sum(loss) / targets, self.clips_since_log])
        self.metrics_logger.step(self.step, {"epoch": epoch, "learning_rate": learning_rate}, values)
        self.clips_since_log.zero_()

    def _end_epoch(self, epoch: int) -> None:
        """Evaluate and save as due. The checkpoint comes last: a run killed before it does all of this again."""
        last = self.step == self.total_steps
        evaluates = self.validation and (last or (epoch + 1) % self.settings.evaluate_every_epochs == 0)
        if evaluates:
            self._evaluate(epoch)
        if last:
            self._save_weights("last")
        if evaluates or last or self.step % self.settings.checkpoint_every_steps == 0:
            self._save_checkpoint()

    def _evaluate(self, epoch: int) -> None:
        with self.metrics_logger.pause(), evaluation_mode(self.engine):
            scores = self.ranks.from_first(self.validation.evaluate(epoch))
        self.metrics_logger.scores(epoch, scores)
        score = scores[self.validation.metric]
        if self.validation.is_better(score, self.best):
            self.best = score
            self._save_weights("best")

    def _save_weights(self, name: str) -> None:
        with self.metrics_logger.pause():
            state = consolidated_state_dict(self.engine)
            if state is not None:
                write_files(self.run / name, lambda folder: self.save_weights(folder, state))
            self.ranks.barrier()

    def _save_checkpoint(self) -> None:
        with self.metrics_logger.pause():
            state = {"step": self.step, "best": self.best, "identity": self.run_fingerprint}
            self.checkpoints.save(
                self.step,
                state,
                lambda folder: self.engine.save_checkpoint(str(folder.parent), folder.name, save_latest=False),
            )
            self.metrics_logger.event("checkpoint", step=self.step)

    def _resume(self) -> None:
        """Take up the newest whole checkpoint, if there is one. Raises InputError if it is of another run."""
        result, passed_over = self.checkpoints.newest()
        for reason in passed_over:
            self.metrics_logger.event("checkpoint_passed_over", f"passed over {reason}", reason=reason)
        if result is None:
            known = {kind: self.run_fingerprint[kind] for kind in ("setting", "recipe")}
            self.metrics_logger.event("start", steps=self.total_steps, **known)
            return
        check_fingerprint(result.folder, result.state["identity"], self.run_fingerprint)
        self.engine.load_checkpoint(str(result.folder.parent), tag=result.folder.name)
        self.step, self.best = result.state["step"], result.state["best"]
        self.metrics_logger.event("resume", f"going on from step {self.step} of {self.total_steps}", step=self.step)


def count(model: nn.Module, micro_batches: list[PackedBatch], device: torch.device) -> Tensor:
    """[2] float32 on the device: targets (`UniSign.target_count`) and clips of this rank's micro-batches."""
    targets = sum(model.target_count(batch) for batch in micro_batches)
    clips = sum(len(batch.clip_ids) for batch in micro_batches)
    return torch.stack([torch.full((), float(number), device=device) for number in (targets, clips)])


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of dropout in a step, other for each rank; no generator's state has to be saved."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])


def check_run_folder(run: Path, settings: TrainSettings, ranks: Ranks) -> None:
    """Raises InputError on every rank when the run folder is a file, or in use though the run must be new."""
    is_file = ranks.from_first(ranks.is_first and run.is_file())
    if is_file:
        raise InputError(run, "is a file", "name a folder for the run")
    is_used = ranks.from_first(ranks.is_first and run.exists() and any(run.iterdir()))
    if is_used and settings.resume == "never":
        raise InputError(run, "is not an empty folder", "name a new folder, or go on with --resume auto")


def run_fingerprint(model: nn.Module, settings: TrainSettings, ranks: Ranks, total_steps: int, recipe: dict) -> dict:
    """What must be the same for a checkpoint to be resumed, as it comes back from JSON."""
    kept = {name: value for name, value in asdict(settings).items() if name not in MAY_CHANGE}
    kept |= {"ranks": ranks.world_size, "optimiser steps": total_steps}
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    return json.loads(json.dumps({"setting": kept, "recipe": recipe, "shape": shapes}))


def check_fingerprint(folder: Path, saved: dict, ours: dict) -> None:
    """Raises InputError naming the first thing in which a checkpoint differs from this run."""
    for kind in ours:
        for name in (*saved[kind], *ours[kind]):
            before, now = saved[kind].get(name), ours[kind].get(name)
            if before != now:
                remedy = "go on with what the run was started with, or start another in a new folder"
                raise InputError(folder, f"{kind} {name} was {before} and is now {now}", remedy)
