"""Options of the training command, in real processes: early stopping, skipped steps, Weights & Biases, lost ranks."""

import os
import random
import sys
import types
from datetime import timedelta
from pathlib import Path

import pytest

from benchmarks.faults_training import options, write_corpus
from benchmarks.faults_training_starts import FINISHED, STOPPED_BY_INPUT, Trial
from unisign_fast.utils.event_log import read_events


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "store"
    write_corpus(path)
    return path


@pytest.fixture
def trial(store, tmp_path) -> Trial:
    result = Trial(tmp_path, options(dropout=0.1), random.Random(0))
    result.store = store
    return result


def test_early_stopping_ends_the_run_once_and_for_all(trial):
    trial.options += ["--evaluate-every-epochs", "1", "--early-stopping", "1", "--learning-rate", "1e-12"]
    start = trial.start()
    assert trial.expect(start, FINISHED) == FINISHED
    assert "no better score in 1 evaluations: the run ends early" in start.said
    events = read_events(trial.run / "log.jsonl")
    assert [event["step"] for event in events if event["event"] == "step"] == [1, 2, 3, 4]  # two of four epochs
    assert (trial.run / "best/model.safetensors").exists() and (trial.run / "last/model.safetensors").exists()
    again = trial.start()
    trial.expect(again, FINISHED)
    assert "is already finished" in " ".join(again.said.split())


def spoil_every_loss(rank: int) -> None:
    from unisign_fast.model.unisign import UniSign

    forward = UniSign.forward
    UniSign.forward = lambda model, batch: forward(model, batch) * float("nan")


def test_steps_are_skipped_up_to_a_limit(trial):
    start = trial.start(spoil_every_loss, more=("--on-bad-step", "skip", "--max-skipped-steps", "1"))
    trial.expect(start, STOPPED_BY_INPUT)
    assert "skipped a step" in start.said and "2 steps had to be skipped" in start.said
    assert start.said.rstrip().endswith("lower --learning-rate, or raise --max-skipped-steps")


def stand_in_for_wandb(rank: int) -> None:
    """A module that records its arguments; the real package needs a network."""

    class Run:
        def __init__(self, **about):
            self.file = open(Path(about["dir"]) / "wandb.txt", "a")
            print(about["project"], about["resume"], file=self.file, flush=True)

        def log(self, values: dict, step: int) -> None:
            print(step, *sorted(values), file=self.file, flush=True)

        def finish(self) -> None:
            print("finished", file=self.file, flush=True)

    module = types.ModuleType("wandb")
    module.init = Run
    sys.modules["wandb"] = module


def test_weights_and_biases_gets_steps_and_scores(trial):
    trial.expect(trial.start(stand_in_for_wandb, more=("--wandb", "signs")), FINISHED)
    lines = (trial.run / "wandb.txt").read_text().splitlines()
    assert lines[0] == "signs allow" and lines[-1] == "finished"
    steps = [line.split()[0] for line in lines if "train/loss" in line]
    assert steps == [str(step) for step in range(1, 9)]
    assert [line.split()[0] for line in lines if "scores/BLEU-4" in line] == ["4", "8"]


def second_rank_dies(rank: int) -> None:
    from unisign_fast.utils import distributed

    distributed.JOIN_TIMEOUT = timedelta(seconds=3)
    if rank == 1:
        os._exit(7)


def test_a_rank_that_dies_while_starting_ends_the_others(trial):
    trial.ranks = 2
    start = trial.start(second_rank_dies)
    first = start.processes[0]
    first.join(60)
    assert first.exitcode == STOPPED_BY_INPUT
    assert "not all 2 ranks joined within 3 s" in start.said and "Traceback" not in start.said
    start.wait()
