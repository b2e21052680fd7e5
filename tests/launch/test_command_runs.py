"""Runs as a user meets them: finished ones, ones with bad clips, and one from training to its scores."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from command_server import CLIPS, SHORT, TEXTS, assert_refused, write_store
from safetensors.torch import load_file

from unisign_fast.evaluation.predictions import read_predictions
from unisign_fast.model.config import ModelConfig
from unisign_fast.pipelines.batches.reader import ClipReader
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.pipelines.store.keypoint_store import CHUNK_FRAMES, KeypointStore, KeypointStoreWriter
from unisign_fast.text.tokenizer import train_tokenizer
from unisign_fast.training.run_data import compare_keypoint_sources, warn_of_unknown
from unisign_fast.utils.event_log import read_events

# --- a run that already exists


@pytest.mark.parametrize(
    "change, difference",
    [
        (["--learning-rate", "0.5"], "setting learning_rate was 0.001 and is now 0.5"),
        (["--parts", "hands"], "recipe parts was hands,body,face and is now hands"),
        (["--max-frames", "7"], "recipe max_frames was "),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_unchanged(
    command, short_store, stage1_run, tmp_path, change, difference
):
    before = (stage1_run / "settings.json").read_bytes(), sorted(stage1_run.rglob("*"))
    ended = command(tmp_path, "pretrain.py", "--stores", short_store, "--out", stage1_run, *SHORT, *change)
    assert_refused(ended, f"{stage1_run}/checkpoints/step_00000003: {difference}", "start another run in a new folder")
    assert before == ((stage1_run / "settings.json").read_bytes(), sorted(stage1_run.rglob("*")))


def test_a_finished_run_is_unchanged(command, short_store, stage1_run, tmp_path):
    ended = command(tmp_path, "pretrain.py", "--stores", short_store, "--out", stage1_run, *SHORT)
    assert ended.status == 0 and f"{stage1_run} is already finished; nothing to do" in ended.output, ended
    assert [event["event"] for event in read_events(stage1_run / "log.jsonl")].count("step") == 3


# --- bad clips


def test_texts_missing_for_the_task_stop_the_run(command, stage1_run, tmp_path):
    store = write_store(tmp_path / "store", gloss="")
    task = ["--task", "cslr", "--p-samp", "0", "--start-from", stage1_run / "last"]
    ended = command(tmp_path, "finetune.py", "--stores", store, "--out", "run", *task, *SHORT)
    assert_refused(ended, f"{store}: 24 of 24 clips are bad, more than 5.0%", "named in the log", "--max-bad-share")
    named = {event["clip"]: event["error"] for event in read_events(tmp_path / "run/log.jsonl") if "clip" in event}
    assert len(named) == CLIPS
    assert named["clip3"] == "clip clip3: gloss: is empty, and cslr needs it; label the clip or leave it out"


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> Path:
    """A store with a truncated video and, in another clip, a flipped bit in the keypoints."""
    store = write_store(tmp_path_factory.mktemp("data") / "store")
    video = store / "videos/5.mp4"
    video.write_bytes(video.read_bytes()[:500])
    (shard,) = [path for path in (store / "keypoints.zarr").rglob("*") if path.is_file() and path.name != "zarr.json"]
    content, row = bytearray(shard.read_bytes()), 133 * 3 * 2
    first = KeypointStore.open(store).clips[11].first_frame
    assert first < CHUNK_FRAMES, "in the first chunk, bytes are in the order of the frames"
    content[first * row] ^= 1
    shard.write_bytes(content)
    return store


@pytest.mark.parametrize("share", ["0.1", "0.05"])
def test_some_bad_clips_are_named_and_left_out_too_many_stop_the_run(command, stage1_run, damaged, tmp_path, share):
    rgb = ["--p-samp", "0.25", "--efficientnet", "random", "--start-from", stage1_run / "last", *SHORT, "--epochs", "2"]
    ended = command(tmp_path, "finetune.py", "--stores", damaged, "--out", "run", "--max-bad-share", share, *rgb)
    events = read_events(tmp_path / "run/log.jsonl")
    named = {event["clip"]: event["error"] for event in events if event["event"] == "bad_clip"}
    assert sorted(named) == ["clip11", "clip5"]
    assert f"{damaged}/videos/5.mp4: " in named["clip5"] and "; " in named["clip5"]
    assert f"{damaged}/keypoints.zarr: clip clip11: frames 132 to 143 do not match their checksum" in named["clip11"]
    if share == "0.05":
        assert_refused(ended, f"{damaged}: 2 of 24 clips are bad, more than 5.0%", "repair the clips named in the log")
        assert not (tmp_path / "run/last").exists()
        return
    assert ended.status == 0 and ended.error == "", ended
    kinds = [event["event"] for event in events]
    assert kinds.count("step") == 6 and kinds.count("bad_clip") == 2, "once in two epochs"
    assert load_file(tmp_path / "run/last/model.safetensors")


# --- from training to scores


def test_scores_of_a_run_follow_from_its_files(command, stage1_run, tmp_path):
    store = write_store(tmp_path / "store", splits=("train",) * 4 + ("dev", "test"))
    run = tmp_path / "runs/demo/slt-pose"
    ended = command(
        tmp_path, "finetune.py", "--stores", store, "--p-samp", "0", "--start-from", stage1_run / "last", *SHORT
    )
    assert ended.status == 0 and ended.error == "", ended
    assert "test: BLEU-1 " in ended.output
    rows = read_predictions(run / "predictions-test.jsonl")
    assert [row.id for row in rows] == ["clip5", "clip11", "clip17", "clip23"]
    assert [event["epoch"] for event in read_events(run / "log.jsonl") if event["event"] == "evaluation"] == [0]
    scores = json.loads((run / "scores-test.json").read_text(encoding="utf-8"))

    files = ["--predictions", run / "predictions-test.jsonl", "--json", "again.json"]
    assert command(tmp_path, "evaluate.py", *files, "--task", "slt", "--language", "zh").status == 0
    again = json.loads((tmp_path / "again.json").read_text(encoding="utf-8"))
    assert again["values"] == scores["values"] and again["signature"] == scores["signature"]

    table = command(tmp_path, "summary.py", "runs/demo")
    assert table.status == 0 and all(word in table.output for word in ("SLT", "pose-only", "BLEU-4", "tok:13a")), table


def test_a_trimmed_vocabulary_is_trained_and_untrimmed(command, short_store, tmp_path):
    tokenizer = train_tokenizer([*TEXTS, "Zebras graze quietly", "东南西北春夏秋冬"], tmp_path / "tokenizer")
    full = ["--tokenizer", tokenizer.path, "--data-fraction", "0", "--out", "full"]
    trimmed = ["--p-samp", "0", "--start-from", "full/last", "--trim-vocabulary", "True", "--out", "run", *SHORT]
    back = ["run/last", "--full", "full/last", "--out", "again"]
    for line in (
        ["pretrain.py", "--stores", short_store, *full],
        ["finetune.py", "--stores", short_store, *trimmed],
        ["convert.py", "untrim", *back],
    ):
        ended = command(tmp_path, *line)
        assert ended.status == 0 and ended.error == "", ended
    few, many = (ModelConfig.load(tmp_path / f"{name}/last/config.json").mt5.vocab_size for name in ("run", "full"))
    assert few < many and f"again: {few} trained rows of {many}" in ended.output
    assert (tmp_path / "again/spiece.model").read_bytes() == tokenizer.path.read_bytes()
    ended = command(tmp_path, "convert.py", "untrim", "full/last", "--full", "nowhere", "--out", "third")
    assert_refused(ended, "--full nowhere: is not a readable folder or hub id", "give it with --full")


def test_keypoints_of_different_estimators_cause_a_warning(tmp_path, capsys):
    """Training on one estimator's keypoints and testing on another's lowers scores without any other sign."""
    stores = []
    for split, version in (("train", "1"), ("test", "1"), ("dev", "2")):
        with KeypointStoreWriter(
            tmp_path / split, {"estimator": "e", "version": version, "coordinates": "c"}
        ) as writer:
            writer.add(np.ones((2, 133, 3)), id="a", split=split, language="en", text="t", fps=25.0, width=8, height=8)
        stores.append(KeypointStore.open(tmp_path / split))
    compare_keypoint_sources(stores[:2])
    assert capsys.readouterr().err == ""
    compare_keypoint_sources(stores)
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1 and warning.startswith(f"warning: keypoints of {tmp_path / 'dev'} are from ")


def test_texts_that_the_tokenizer_cannot_write_cause_a_warning(tmp_path, capsys):
    """Their characters become an unknown token, which is never generated."""
    with KeypointStoreWriter(tmp_path / "s", {"estimator": "e", "version": "1", "coordinates": "c"}) as writer:
        for number, text in enumerate(["今天", "tea", "tea"]):
            labels = dict(id=str(number), split="train", language="en", text=text)
            writer.add(np.ones((2, 133, 3)), fps=25.0, width=8, height=8, **labels)
    store = KeypointStore.open(tmp_path / "s")
    for texts, percent in ((["今天", "tea"], None), (["tea", "a cup of tea"], r"1\d\.\d")):
        tokenizer = train_tokenizer(texts, tmp_path / texts[0])
        warn_of_unknown(ClipReader([store], DataSettings(p_samp=0), tokenizer).clips("train"), tokenizer)
        warning = capsys.readouterr().err
        assert (
            re.match(rf"warning: {percent}% of the targets' tokens are unknown to ", warning)
            if percent
            else not warning
        )
