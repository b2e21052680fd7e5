"""A run resumes after kill -9 as if nothing had happened; best and last weights; mismatching checkpoints are
refused."""

import os
import re
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from toy_training import TWO_RANKS, Toy, run_script, toy_batch

from unisign_fast.pipelines.batches.batch_sampler import Budget
from unisign_fast.pipelines.batches.loader import BatchLoader
from unisign_fast.pipelines.batches.reader import ClipReader
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.pipelines.store.keypoint_store import KeypointStore, KeypointStoreWriter
from unisign_fast.training.interruption import Interrupted
from unisign_fast.training.metrics_logger import MetricsLogger
from unisign_fast.training.run_fingerprint import check_fingerprint, run_fingerprint
from unisign_fast.training.settings import TrainSettings
from unisign_fast.training.trainer import Trainer, Validation, check_run_folder, step_seed
from unisign_fast.utils.distributed import Ranks, free_port, start_ranks
from unisign_fast.utils.event_log import EventLog, read_events

CLIPS, STEPS, EPOCHS = 13, 20, 5  # four clips a step: four steps an epoch, the last with one clip
SETTINGS = TrainSettings(
    epochs=EPOCHS,
    clips_per_step=4,
    frames_per_device=1,  # every clip a micro-batch of its own
    learning_rate=0.01,
    precision="fp32",
    checkpoint_every_steps=3,
    evaluate_every_epochs=2,
    log_every_steps=1,
    max_bad_share=0.5,
)


class FakeTokenizer:
    """One token per letter."""

    fingerprint = "letters"

    def prompt_ids(self, language: str) -> list[int]:
        return [1]

    def target_ids(self, text: str) -> list[int]:
        return [ord(letter) % 7 for letter in text]


class DyingModel(nn.Module):
    """A toy with dropout that kills its process before the forward pass number `at` (none at 0)."""

    def __init__(self, at: int):
        super().__init__()
        self.dropout, self.toy = nn.Dropout(0.3), Toy()
        self._left = at

    def forward(self, batch):
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        weight = self.dropout(torch.ones(2))[:1]
        return self.toy(batch) * torch.cat([weight, torch.ones(1)])

    def target_count(self, batch):
        return self.toy.target_count(batch)


class SignalAt:
    """A hook that sends SIGTERM to this process before forward pass number `at`."""

    def __init__(self, at: int):
        self.left = at

    def __call__(self, *_arguments) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def die_when_opened(pattern: str, run: Path) -> None:
    """Kill this process when it opens a file of the run to sync it to disk."""

    def watch(event: str, arguments: tuple) -> None:
        if event == "open" and Path(str(arguments[0])).match(f"{run}/{pattern}") and arguments[1] is None:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def train(run: Path, store: Path) -> None:
    """Run by each rank. DIE is "RANK:pass:NUMBER", "RANK:path:PATTERN" or "RANK:signal:NUMBER"."""
    ranks = start_ranks()
    rank, kind, what = os.environ.get("DIE", "-1::").split(":")
    dies = ranks.rank == int(rank)
    torch.manual_seed(0)
    model = DyingModel(int(what) if dies and kind == "pass" else 0)
    if dies and kind == "path":
        die_when_opened(what, run)
    if dies and kind == "signal":
        model.toy.register_forward_pre_hook(SignalAt(int(what)))
    reader = ClipReader(
        [KeypointStore.open(store)], DataSettings(task="cslr", p_samp=0.0, crop_size=2), FakeTokenizer()
    )

    def open_loader(on_bad_clip) -> BatchLoader:
        return BatchLoader(
            reader,
            reader.clips("train"),
            clips_per_step=SETTINGS.clips_per_step,
            budget=Budget(SETTINGS.frames_per_device, 800),
            on_bad_clip=on_bad_clip,
            rank=ranks.rank,
            ranks=ranks.world_size,
            max_bad_share=SETTINGS.max_bad_share,
        )

    def evaluate(epoch: int) -> dict[str, float]:
        return {"loss": model(toy_batch([1, 2, 3]))[0].item() + (1.0 if epoch == EPOCHS - 1 else 0.0)}

    trainer = Trainer(
        model,
        open_loader,
        SETTINGS,
        run,
        ranks,
        recipe={"model": "toy", "sizes": (1, 2)},
        save_weights=lambda folder, state: save_file(state, folder / "model.safetensors"),
        validation=Validation(evaluate, "loss", "min"),
    )
    trainer.resume()
    try:
        trainer.train()
    except Interrupted as stop:
        print(stop)
        ranks.leave(stop.status)
    ranks.leave()


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "store"
    rng = np.random.default_rng(0)
    fields = {"split": "train", "language": "en", "fps": 25.0, "width": 64, "height": 64}
    with KeypointStoreWriter(path, {"estimator": "random", "version": "1", "coordinates": "fractions"}) as writer:
        for i in range(CLIPS):
            gloss = "" if i == 6 else "abcdefghijklmnop"[: 2 + i]  # a clip without its target is a bad one
            writer.add(rng.random((5 + i, 133, 3)), id=f"clip{i}", text="text", gloss=gloss, **fields)
    return path


@pytest.fixture(scope="module")
def whole_run(store, tmp_path_factory) -> Path:
    """An uninterrupted run of two ranks."""
    run = tmp_path_factory.mktemp("whole") / "run"
    status, output = run_script([*TWO_RANKS, __file__, str(run), str(store)])
    assert status == 0, output[-4000:]
    return run


def losses(run: Path) -> dict[int, list[float]]:
    """Every loss logged for a step, including repeated steps."""
    result: dict[int, list[float]] = {}
    for event in read_events(run / "log.jsonl"):
        if event["event"] == "step":
            result.setdefault(event["step"], []).append(event["loss"])
    return result


def events(run: Path, kind: str) -> list[dict]:
    return [event for event in read_events(run / "log.jsonl") if event["event"] == kind]


def test_killed_runs_resume_with_the_same_losses(whole_run, store, tmp_path):
    """One rank is killed in the middle of a save, then the other between steps; the last start is DeepSpeed's."""
    run = tmp_path / "run"
    for death in ("1:path:checkpoints/step_00000006/state-00001-*", "0:pass:9"):
        status, output = run_script([*TWO_RANKS, __file__, str(run), str(store)], DIE=death)
        assert status != 0 and "SIGKILL" in output, output[-4000:]
    launcher = [str(Path(sys.executable).with_name("deepspeed")), "--num_gpus=2", f"--master_port={free_port()}"]
    status, output = run_script([*launcher, __file__, str(run), str(store)])
    assert status == 0, output[-4000:]
    assert [event["step"] for event in events(run, "resume")] == [3, 6]
    assert "not saved completely" in events(run, "checkpoint_skipped")[0]["reason"]
    expected = losses(whole_run)
    assert sorted(expected) == list(range(1, STEPS + 1)) and all(len(values) == 1 for values in expected.values())
    result = losses(run)
    assert {step: set(values) for step, values in result.items()} == {s: set(v) for s, v in expected.items()}
    assert sum(map(len, result.values())) > STEPS, "some steps were taken again"
    for name in ("best", "last"):
        a, b = (load_file(folder / name / "model.safetensors") for folder in (whole_run, run))
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_log_names_scores_and_each_bad_clip_once(whole_run):
    assert [event["clip"] for event in events(whole_run, "bad_clip")] == ["clip6"]
    assert [event["epoch"] for event in events(whole_run, "evaluation")] == [1, 3, 4]
    assert [event["step"] for event in events(whole_run, "checkpoint")] == [3, 6, 8, 9, 12, 15, 16, 18, 20]
    rates = [event["learning_rate"] for event in events(whole_run, "step")]
    assert rates[0] == 0.01 and rates[STEPS // 2] == pytest.approx(0.005) and rates[-1] < 0.001
    assert len(events(whole_run, "finished")) == 1
    assert list((whole_run / "tensorboard").iterdir())


def test_best_weights_are_those_of_the_best_score(whole_run):
    scores = [event["scores"]["loss"] for event in events(whole_run, "evaluation")]
    assert min(scores) == scores[1] < scores[2], "the test wants a best that is not the last"
    model = DyingModel(0)
    model.load_state_dict(load_file(whole_run / "best" / "model.safetensors"))
    assert model.eval()(toy_batch([1, 2, 3]))[0].item() == pytest.approx(scores[1], rel=1e-6)


def test_finished_run_does_nothing_and_says_so(whole_run, store, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole_run, run)
    status, output = run_script([*TWO_RANKS, __file__, str(run), str(store)])
    assert status == 0 and "already finished" in " ".join(output.split()), output[-4000:]
    assert losses(run) == losses(whole_run)


def test_a_run_resumes_with_another_number_of_ranks(whole_run, store, tmp_path):
    """Plain python with one rank resumes a run started by two; test_engine_state compares the losses."""
    run = tmp_path / "run"
    shutil.copytree(whole_run, run)
    shutil.rmtree(run / "checkpoints" / "step_00000020")
    status, output = run_script([sys.executable, __file__, str(run), str(store)])
    assert status == 0, output[-4000:]
    assert "ranks 2 before, 1 now: the same run" in " ".join(output.split())
    assert events(run, "resume")[0]["step"] == 18
    assert [event["step"] for event in events(run, "step")] == [*range(1, 21), 19, 20]
    rates = {event["step"]: event["learning_rate"] for event in events(whole_run, "step")}
    assert all(event["learning_rate"] == rates[event["step"]] for event in events(run, "step"))


def test_a_signal_to_one_rank_stops_all_behind_a_checkpoint(whole_run, store, tmp_path):
    run = tmp_path / "run"
    status, output = run_script([*TWO_RANKS, __file__, str(run), str(store)], DIE="1:signal:9")
    assert status != 0 and "stopped at step" in output, output[-4000:]
    (stopped,) = events(run, "stopped")
    assert stopped["signal"] == signal.SIGTERM
    assert events(run, "checkpoint")[-1]["step"] == stopped["step"] < STEPS
    status, output = run_script([*TWO_RANKS, __file__, str(run), str(store)])
    assert status == 0, output[-4000:]
    assert events(run, "resume")[0]["step"] == stopped["step"]
    assert {step: set(values) for step, values in losses(run).items()} == {
        step: set(values) for step, values in losses(whole_run).items()
    }


def test_resume_never_wants_an_empty_folder(tmp_path):
    ranks, settings = Ranks(0, 1, torch.device("cpu")), replace(SETTINGS, resume="never")
    check_run_folder(tmp_path, settings, ranks)
    check_run_folder(tmp_path / "new", settings, ranks)
    (tmp_path / "log.jsonl").touch()
    check_run_folder(tmp_path, SETTINGS, ranks)
    with pytest.raises(InputError, match="not an empty folder"):
        check_run_folder(tmp_path, settings, ranks)
    with pytest.raises(InputError, match="is a file"):
        check_run_folder(tmp_path / "log.jsonl", SETTINGS, ranks)


SIZES = {"p_samp": 0.1, "sizes": [1, 2]}
ONE = Ranks(0, 1, torch.device("cpu"))


def fingerprint(model=nn.Linear(2, 3), settings=SETTINGS, recipe=SIZES, ranks=ONE) -> dict:
    return run_fingerprint(model, settings, ranks, STEPS // EPOCHS, recipe)


def test_checkpoint_of_another_shape_or_recipe_is_refused(tmp_path):
    saved = fingerprint(recipe={"p_samp": 0.1, "sizes": (1, 2)})
    assert check_fingerprint(tmp_path, saved, fingerprint()) == []
    others = {
        "shape weight was [3, 2] and is now [3, 4]": fingerprint(nn.Linear(4, 3)),
        "recipe p_samp was 0.1 and is now 0.2": fingerprint(recipe=SIZES | {"p_samp": 0.2}),
        "setting seed was 0 and is now 1": fingerprint(settings=replace(SETTINGS, seed=1)),
        "setting epochs was 5 and is now 4": fingerprint(settings=replace(SETTINGS, epochs=4)),
        "shape bias was [3] and is now None": fingerprint(nn.Linear(2, 3, bias=False)),
    }
    for said, ours in others.items():
        with pytest.raises(InputError, match=re.escape(said)):
            check_fingerprint(tmp_path, saved, ours)


def test_ranks_stage_and_more_epochs_are_the_same_run(tmp_path):
    ours = fingerprint(settings=replace(SETTINGS, epochs=7, zero_stage=3), ranks=Ranks(0, 4, ONE.device))
    epochs, ranks, stage = check_fingerprint(tmp_path, fingerprint(), ours)
    assert epochs.startswith("epochs grow from 5 to 7: the cosine is stretched")
    assert ranks.startswith("ranks 1 before, 4 now: the same run")
    assert stage.startswith("ZeRO stage 1 before, 3 now: the same run")


def test_a_fingerprint_of_version_0_1_is_understood(tmp_path):
    """A checkpoint as 4a77829 wrote it: data by path, ranks and stage as settings, the steps of all epochs."""
    ours = fingerprint(recipe=SIZES | {"store 1": "13 clips, CRC-32C 1", "pose_channels": [1]})
    old = {"ranks": 1, "optimiser steps": STEPS, "epochs": EPOCHS, "zero_stage": 1}
    saved = {"setting": ours["setting"] | old, "recipe": SIZES | {"stores": ["a"], "start_from": None}}
    saved["setting"].pop("steps of an epoch")
    saved["shape"] = ours["shape"]
    assert check_fingerprint(tmp_path, saved, ours) == []
    assert check_fingerprint(tmp_path, saved, fingerprint(recipe=SIZES, ranks=Ranks(0, 2, ONE.device)))
    with pytest.raises(InputError, match="recipe p_samp was 0.1 and is now 0.2"):
        check_fingerprint(tmp_path, saved, fingerprint(recipe={"p_samp": 0.2, "sizes": [1, 2]}))


def test_a_step_is_reported_one_step_later_and_logged_when_due(tmp_path):
    metrics_logger = MetricsLogger(tmp_path, ONE, log_every=2)
    with metrics_logger.open(0, 10):
        row = {"learning_rate": 0.1}
        assert metrics_logger.step(1, row, torch.tensor([float("nan"), 2.0, 1.0, 4.0, 0.0])) is None
        report = metrics_logger.step(2, row, torch.tensor([1.0, 2.0, 0.0, 4.0, 1.0]))
        assert report.step == 1 and report.is_bad and not report.wants_stop and report.clips == 4
        report = metrics_logger.fetch()
        assert report.step == 2 and not report.is_bad and report.wants_stop
    (logged,) = events(tmp_path, "step")
    assert logged["step"] == 2 and logged["loss"] == 1.0 and logged["grad_norm"] == 2.0
    assert {"clips_per_s", "input_wait", "memory_gib", "learning_rate"} <= logged.keys()


def test_a_message_is_one_line_however_long(tmp_path, capsys):
    message = " ".join(f"name-{number} {number}" for number in range(40))
    MetricsLogger(tmp_path, ONE).event("note", message)
    assert capsys.readouterr().out == message + "\n"


def test_log_survives_a_torn_line(tmp_path):
    path = tmp_path / "log.jsonl"
    log = EventLog(path)
    log.write("start")
    log.close()
    path.write_bytes(path.read_bytes() + b'{"event": "ste')
    EventLog(path).write("resume", step=3)
    assert [event["event"] for event in read_events(path)] == ["start", "resume"]


def test_validation_never_prefers_nan():
    higher, lower = (Validation(lambda epoch: {}, "score", mode) for mode in ("max", "min"))
    assert higher.is_better(0.0, None) and higher.is_better(2.0, 1.0) and not higher.is_better(1.0, 1.0)
    assert lower.is_better(1.0, 2.0) and not lower.is_better(2.0, 1.0)
    assert not higher.is_better(float("nan"), None) and not lower.is_better(float("nan"), 1.0)


def test_dropout_seeds_differ_by_step_and_rank():
    seeds = {step_seed(seed, step, rank) for seed in range(3) for step in range(3) for rank in range(3)}
    assert len(seeds) == 27


if __name__ == "__main__":
    try:
        train(*(Path(argument) for argument in sys.argv[1:] if not argument.startswith("--local_rank")))
    except InputError as error:
        print(error)
        sys.exit(2)
