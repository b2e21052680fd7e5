"""Training faults: a killed, stopped or damaged run resumes to the same weights, or one line says why it cannot.

Each trial copies a run that was killed after its third checkpoint, injects a fault, and repeats the command until it
ends. Three outcomes are correct: the final weights are bitwise equal to those of an undisturbed run; the losses of all
steps agree to float tolerance, where ranks or ZeRO stage have changed; or the command is refused with one line. A
traceback, other weights, and a start that never ends are wrong.
"""

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # the project's root instead of this file's own folder

import numpy as np

from benchmarks.faults_stores import FaultRow
from benchmarks.faults_training_kinds import FAULTS, OTHER_LAYOUT, OTHER_WEIGHTS, TWO_RANKS
from benchmarks.faults_training_starts import Trial, is_refusal
from unisign_fast.pipelines.store.keypoint_store import KeypointStoreWriter
from unisign_fast.utils.event_log import read_events

IDENTICAL, TOLERANT, SKIPPED, REFUSED = "identical", "equal losses", "step skipped", "refused in one line"
RIGHT = (IDENTICAL, TOLERANT, SKIPPED, REFUSED)
TRAIN, DEV, FRAMES, EPOCHS = 16, 2, 12, 4
STEPS = 2 * EPOCHS
LOSS_TOLERANCE = 1e-4  # relative
STARTS = 4  # most repetitions of the command in a trial
TEXTS = ("good morning", "good evening", "how are you", "thank you very much")
SIZES = {"d-model": 32, "d-kv": 8, "d-ff": 64, "num-layers": 1, "num-decoder-layers": 1}
LENGTH = {"epochs": EPOCHS, "clips-per-step": 8, "checkpoint-every-steps": 2, "evaluate-every-epochs": 2}
LENGTH |= {"log-every-steps": 1}


def write_corpus(path: Path, seed: int = 0) -> None:
    """A store of a few short clips."""
    rng = np.random.default_rng(seed)
    with KeypointStoreWriter(path, {"estimator": "none", "version": "1", "coordinates": "fractions"}) as writer:
        for i in range(TRAIN + DEV):
            writer.add(
                rng.uniform(0.2, 0.8, (FRAMES, 133, 3)),
                id=f"clip{i}",
                split="train" if i < TRAIN else "dev",
                language="en",
                text=TEXTS[i % len(TEXTS)],
                fps=25,
                width=64,
                height=48,
            )


def options(dropout: float) -> list[str]:
    """Command-line options: eight steps, a checkpoint after every second, an evaluation after every fourth."""
    values = SIZES | LENGTH | {"dropout-rate": dropout}
    return [text for name, value in values.items() for text in (f"--{name}", str(value))]


def losses(run: Path) -> list[float | None]:
    """The logged loss of every step; for a repeated step, the last one."""
    logged = {event["step"]: event["loss"] for event in read_events(run / "log.jsonl") if event["event"] == "step"}
    return [logged.get(step) for step in range(1, STEPS + 1)]


@dataclass
class Baseline:
    """An undisturbed run's weights and losses, and a run of the same command that was killed after step 6."""

    options: list[str]
    ranks: int
    weights: bytes
    losses: list[float | None]
    begun: Path

    @classmethod
    def make(cls, folder: Path, ranks: int, dropout: float) -> "Baseline":
        """Trains in `folder`, whose parent has the store."""
        trials = [Trial(folder / name, options(dropout), random.Random(0), ranks) for name in ("whole", "begun")]
        for trial in trials:
            trial.folder.mkdir(parents=True)
            trial.store = folder.parent / "store"
        whole, begun = trials
        whole.expect(whole.start(), 0)
        begun.expect(begun.start(_kill_after_step_6), -signal.SIGKILL)
        weights = (whole.run / "last" / "model.safetensors").read_bytes()
        return cls(whole.options, ranks, weights, losses(whole.run), begun.run)


def _kill_after_step_6(rank: int) -> None:
    from unisign_fast.training.checkpoint import Checkpoints

    save = Checkpoints.save

    def then_die(self, step, *arguments):
        save(self, step, *arguments)
        if step == 6:
            self.ranks.barrier()
            os.kill(os.getpid(), signal.SIGKILL)

    Checkpoints.save = then_die


def outcome(trial: Trial, kind: str, baseline: Baseline) -> str:
    """The outcome of repeating the command: one of RIGHT, or a description of the error."""
    status: int | None = None
    for _ in range(STARTS):
        start = trial.start()
        status, said = start.wait(), start.said
        if status is None:
            return "no end"
        if "Traceback" in said:
            return f"traceback: {said.strip().splitlines()[-1][:160]}"
        if status == 0:
            return _compared(trial.run, kind, baseline)
        if status == 2 and is_refusal(said):
            return REFUSED
    return f"status {status}"


def _compared(run: Path, kind: str, baseline: Baseline) -> str:
    """The comparison of a finished run with the undisturbed one."""
    if kind in OTHER_LAYOUT:
        pairs = zip(losses(run), baseline.losses)
        same = all(a is not None and b is not None and abs(a - b) <= LOSS_TOLERANCE * abs(b) for a, b in pairs)
        return TOLERANT if same else f"other losses: {losses(run)}"
    same = (run / "last" / "model.safetensors").read_bytes() == baseline.weights
    if kind in OTHER_WEIGHTS:
        return "the step was taken" if same else SKIPPED
    return IDENTICAL if same else "other weights"


def trials(minutes: float, seed: int, kinds: tuple[str, ...] = tuple(FAULTS)) -> Iterator[tuple[str, str, float]]:
    """(kind, outcome, seconds until the run was finished) of one fault after another, for so many minutes."""
    end = time.monotonic() + 60 * minutes
    baselines: dict[tuple[int, float], Baseline] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_corpus(work / "store")
        write_corpus(work / "other store", seed=1)
        number = 0
        while number < len(kinds) or time.monotonic() < end:
            rng, kind = random.Random(f"{seed} {number}"), kinds[number % len(kinds)]
            layout = 2 if kind in TWO_RANKS else 1, 0.0 if kind in OTHER_LAYOUT else 0.1
            if layout not in baselines:
                baselines[layout] = Baseline.make(work / "_".join(map(str, layout)), *layout)
            baseline = baselines[layout]
            trial = Trial(work / "trial", baseline.options, rng, baseline.ranks)
            shutil.rmtree(trial.folder, ignore_errors=True)
            shutil.copytree(baseline.begun, trial.run)
            shutil.copytree(work / "store", trial.store)
            start = time.monotonic()
            try:
                FAULTS[kind](trial)
                result = outcome(trial, kind, baseline)
            except AssertionError as error:
                result = f"wrong: {' '.join(str(error).split())[-300:]}"
            yield kind, result, time.monotonic() - start
            number += 1


def run(minutes: float, seed: int, kinds: tuple[str, ...] = tuple(FAULTS)) -> list[FaultRow]:
    """A row for each kind of fault; every kind is tried at least once."""
    rows = {kind: FaultRow(kind, right=RIGHT) for kind in kinds}
    for number, (kind, result, seconds) in enumerate(trials(minutes, seed, kinds)):
        rows[kind].outcomes[result if result in RIGHT else "wrong"] += 1
        rows[kind].worst_seconds = max(rows[kind].worst_seconds, seconds)
        if result not in RIGHT:
            print(f"trial {number}, seed {seed}, {kind}: {result}", file=sys.stderr, flush=True)
    return list(rows.values())
