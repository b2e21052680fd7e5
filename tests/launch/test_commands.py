"""The commands as a user meets them: what they say and how they end when the input is wrong, and when one clip is.

Importing what training needs takes seconds, so one process does it and forks for every command.
"""

import gc
import json
import os
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from safetensors.torch import load_file
from toy_training import OF_ONE_PROCESS
from video_files import write_video

from unisign_fast.evaluation.predictions import read_predictions
from unisign_fast.model.config import ModelConfig
from unisign_fast.pipelines.batches.reader import ClipReader
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.pipelines.store.keypoint_store import CHUNK_FRAMES, KeypointStore, KeypointStoreWriter
from unisign_fast.text.tokenizer import train_tokenizer
from unisign_fast.training.run_data import compare_keypoint_sources, warn_of_unknown
from unisign_fast.utils.event_log import read_events

ROOT = Path(__file__).resolve().parents[2]
SIDE, FRAMES, CLIPS = 64, 12, 24
TEXTS = ["我喜欢茶。", "他喜欢水。", "我明天去学校。"]
STREAMS = ("in", "out", "err")  # files in the working folder of a command
# One epoch of three steps, everything logged.
SHORT = ["--epochs", "1", "--clips-per-step", "8", "--log-every-steps", "1"]


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    output: str
    error: str


def serve() -> None:
    """Run the commands that arrive on stdin, each in a fork of this process; their statuses go to stdout."""
    import deepspeed  # noqa: F401
    from transformers import MT5ForConditionalGeneration  # noqa: F401

    import unisign_fast.training.run  # noqa: F401

    gc.freeze()  # or every child takes a second for its last garbage collection
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            signal.alarm(100)  # a command that hangs must not take the tests with it
            folder, *sys.argv = json.loads(line)
            os.chdir(folder)
            for number, name in enumerate(STREAMS):
                os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
            runpy.run_path(sys.argv[0], run_name="__main__")
            sys.exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


Command = Callable[..., Ended]  # (working folder, script of launch/, arguments...)


@pytest.fixture(scope="module")
def command(tmp_path_factory) -> Command:
    kept = {name: value for name, value in os.environ.items() if name not in OF_ONE_PROCESS}
    ours = {
        "PYTHONPATH": os.environ["PYTHONPATH"],
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "DS_ACCELERATOR": "cpu",
    }
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path_factory.mktemp("hub")), "COLUMNS": "120"}
    server = subprocess.Popen(
        [sys.executable, __file__],
        env={**kept, **ours, **offline},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

    def run(folder: Path, script: str, *arguments: object) -> Ended:
        line = json.dumps([str(folder), str(ROOT / "launch" / script), *map(str, arguments)])
        print(line, file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        return Ended(status, *((folder / name).read_text(encoding="utf-8") for name in STREAMS[1:]))

    yield run
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def assert_refused(ended: Ended, *words: object) -> None:
    """Status 2, and one line on stderr: where, what, and what to do."""
    assert ended.status == 2, ended
    assert re.fullmatch(r"error: [^\n]+: [^\n]+; [^\n]+\n", ended.error), ended.error
    assert all(str(word) in ended.error for word in words), ended.error


def write_store(folder: Path, splits: tuple[str, ...] = ("train",), gloss: str = "我 茶") -> Path:
    """A store of short clips, each with its video; they take turns in the splits."""
    rng = np.random.default_rng(0)
    (folder / "videos").mkdir(parents=True)
    pictures = [np.full((SIDE, SIDE, 3), 10 * i, np.uint8) for i in range(FRAMES)]
    with KeypointStoreWriter(folder, {"estimator": "test", "version": "1", "coordinates": "fractions"}) as writer:
        for i in range(CLIPS):
            write_video(folder / "videos" / f"{i}.mp4", pictures)
            keypoints = rng.uniform(0.2, 0.8, (FRAMES, 133, 3))
            keypoints[:, 91:, :2] = 0.5 + rng.uniform(-0.15, 0.15, (FRAMES, 42, 2))
            writer.add(
                keypoints,
                id=f"clip{i}",
                split=splits[i % len(splits)],
                language="zh",
                text=TEXTS[i % len(TEXTS)],
                gloss=gloss,
                fps=25.0,
                width=SIDE,
                height=SIDE,
                source=f"videos/{i}.mp4",
            )
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return write_store(tmp_path_factory.mktemp("data") / "store")


@pytest.fixture(scope="module")
def stage1(command, store, tmp_path_factory) -> Path:
    """A finished run of stage 1 in a new folder."""
    folder = tmp_path_factory.mktemp("run")
    ended = command(folder, "pretrain.py", "--stores", store, "--out", "stage1", *SHORT, "--resume", "never")
    assert ended.status == 0 and ended.error == "", ended
    return folder / "stage1"


# --- input that is wrong from the start

REFUSED = {
    "no store": ("pretrain.py --stores none", ["none: is not a store", "written by launch/prepare.py"]),
    "a folder that is no store": ("pretrain.py --stores {here}", ["{here}: is not a store"]),
    "no stores for base": ("pretrain.py --recipe base", ["--stores: no keypoint store is given; name one"]),
    "p_samp": ("finetune.py --stores {store} --p-samp 1.5", ["--p-samp: 1.5 is not valid; give a share in [0, 1]"]),
    "stage 1 with RGB": ("pretrain.py --stores {store} --p-samp 0.1", ["--p-samp: stage 1 is pose-only; leave it out"]),
    "stage 2 without": ("pretrain.py --stores {store} --stage 2 --p-samp 0", ["--p-samp: stage 2 ", "a share above 0"]),
    "a stage of another command": ("pretrain.py --stores {store} --stage 3", ["--stage: 3 is not", "choose 1 or 2"]),
    "crops": ("finetune.py --stores {store} --crop-size 160", ["--crop-size: 160 gives", "give 128 pixels or fewer"]),
    "fraction": ("pretrain.py --stores {store} --data-fraction 1.5", ["--data-fraction: 1.5 is not valid"]),
    "too small a fraction": (
        "pretrain.py --stores {store} --start-from {stage1}/last --data-fraction 0.01",
        ["--data-fraction: 0.01 of 24 clips is less than one clip; give a larger share, or 0 to train nothing"],
    ),
    "trimming what is made to measure": (
        "pretrain.py --stores {store} --trim-vocabulary True",
        ["--trim-vocabulary: a random mT5 already has only the corpus's vocabulary; leave it out, or "],
    ),
    "no stage before": ("pretrain.py --stores {store} --stage 2", ["--start-from: runs/demo/stage1/last holds no"]),
    "no model": ("finetune.py --stores {store} --start-from {here}", ["--start-from: {here} holds no trained model"]),
    "other parts": (
        "finetune.py --stores {store} --start-from {stage1}/last --parts hands",
        ["--parts: {stage1}/last was trained with hands,body,face; use the same"],
    ),
    "a model of another shape": (
        "finetune.py --recipe base --p-samp 0 --stores {store} --start-from {stage1}/last",
        ["{stage1}/last/model.safetensors: ", " entries do not fit: ", " is missing, ", " more; "],
    ),
    "no mT5 on the hub": (
        "pretrain.py --recipe base --stores {store}",
        ["--mt5 google/mt5-base: ", "download config.json, pytorch_model.bin", "give it with --mt5"],
    ),
    "no mT5 in a folder": (
        "pretrain.py --recipe base --stores {store} --mt5 {here}",
        ["--mt5 {here}: has no spiece.model; download config.json, pytorch_model.bin"],
    ),
    "no tokenizer": ("pretrain.py --stores {store} --tokenizer {here}", ["{here}/spiece.model: does not exist"]),
    "a file in place of a run": ("pretrain.py --stores {store} --out {store}/store.json", ["store.json: is a file"]),
    "a used folder for a new run": (
        "pretrain.py --stores {store} --out {stage1} --resume never",
        ["{stage1}: is not an empty folder; name a new folder, or resume with --resume auto"],
    ),
    "too small a corpus": ("prepare.py demo --clips 3", ["--clips: 3 is not in [60, 5000]"]),
    "no poses": (
        "prepare.py convert --format unisign --poses x --videos y --labels z --out w",
        ["--poses: x: is not a folder"],
    ),
    "nothing to merge": ("prepare.py merge --out m", ["STORES: none is named; name one or more"]),
    "a camera and a video": ("translate.py a.mp4 --live 0", ["--live: a camera is translated alone"]),
    "no predictions": ("evaluate.py --predictions x --task slt --language zh", ["x: there is no such file"]),
    "no runs": ("summary.py", ["runs/demo: no run there has test scores; train with launch/finetune.py"]),
}


@pytest.mark.parametrize("line, words", REFUSED.values(), ids=REFUSED)
def test_wrong_input_is_told_in_one_line_and_leaves_nothing_behind(command, store, stage1, tmp_path, line, words):
    places = {"store": store, "stage1": stage1, "here": tmp_path}
    ended = command(tmp_path, *(argument.format(**places) for argument in line.split()))
    assert_refused(ended, *(word.format(**places) for word in words))
    assert {path.name for path in tmp_path.iterdir()} == set(STREAMS)


def test_a_process_of_its_own_says_no_more(store):
    """Without the fork: what imports may say on stderr comes along."""
    command = [sys.executable, ROOT / "launch/finetune.py", "--stores", store, "--start-from", store]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert_refused(Ended(done.returncode, done.stdout, done.stderr), f"--start-from: {store} holds no trained model")


SCREEN = 50  # lines of 80 columns


@pytest.mark.parametrize(
    "line, shown",
    [
        ("pretrain.py --help", ["--clips-per-step", "(default: 8)", "(default: demo)", "--help-all"]),
        ("pretrain.py --stage 2 --help-all", ["(default: hands,body,face)", "(default: 0.9 0.999)", "(default: 0.1)"]),
        ("pretrain.py --recipe base --help", ["(default: 512)", "(default: google/mt5-base)"]),
        ("pretrain.py --stage 2 --help", ["--p-samp", "(default: 0.1)"]),
        ("finetune.py --task islr --help", ["(default: islr)", "(default: 0.1)", "(default: data/demo/words)"]),
        ("prepare.py --help", ["demo", "convert"]),
        ("prepare.py demo --help", ["(default: data/demo)"]),
        ("prepare.py convert --help", ["--poses PATH", "(required)", "(default: 0.05)", "rtmlib"]),
        ("evaluate.py --help", ["(default: published)"]),
        ("prepare.py poses --help", ["--videos PATH", "(default: 2)"]),
        ("prepare.py crops --help", ["--quality INT", "(default: 90)"]),
        ("convert.py --help", ["import", "export"]),
        ("translate.py --help", ["--live", "Camera"]),
        ("report.py --help", ["--faces"]),
        ("ablate.py --help", ["(default: 0 1 2)"]),
        ("summary.py --help", ["(default: runs/demo)"]),
    ],
)
def test_help_shows_the_defaults(command, tmp_path, line, shown):
    ended = command(tmp_path, *line.split())
    assert ended.status == 0 and ended.error == ""
    text = " ".join(re.sub("[│╭╮╰╯─]", " ", ended.output).split())
    assert [words for words in shown if words not in text] == []
    assert len(text) > 200 or "summary" in line
    assert "--help-all" in line or ended.output.count("\n") <= SCREEN, "one screen"


# --- a run that is there already


@pytest.mark.parametrize(
    "change, said",
    [
        (["--learning-rate", "0.5"], "setting learning_rate was 0.001 and is now 0.5"),
        (["--parts", "hands"], "recipe parts was hands,body,face and is now hands"),
        (["--max-frames", "7"], "recipe max_frames was "),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_left_alone(command, store, stage1, tmp_path, change, said):
    before = (stage1 / "settings.json").read_bytes(), sorted(stage1.rglob("*"))
    ended = command(tmp_path, "pretrain.py", "--stores", store, "--out", stage1, *SHORT, *change)
    assert_refused(ended, f"{stage1}/checkpoints/step_00000003: {said}", "start another in a new folder")
    assert before == ((stage1 / "settings.json").read_bytes(), sorted(stage1.rglob("*")))


def test_a_finished_run_is_left_alone(command, store, stage1, tmp_path):
    ended = command(tmp_path, "pretrain.py", "--stores", store, "--out", stage1, *SHORT)
    assert ended.status == 0 and f"{stage1} is already finished; nothing to do" in ended.output, ended
    assert [event["event"] for event in read_events(stage1 / "log.jsonl")].count("step") == 3


# --- bad clips


def test_texts_missing_for_the_task_stop_the_run(command, stage1, tmp_path):
    store = write_store(tmp_path / "store", gloss="")
    task = ["--task", "cslr", "--p-samp", "0", "--start-from", stage1 / "last"]
    ended = command(tmp_path, "finetune.py", "--stores", store, "--out", "run", *task, *SHORT)
    assert_refused(ended, f"{store}: 24 of 24 clips are bad, more than 5.0%", "named in the log", "--max-bad-share")
    named = {event["clip"]: event["error"] for event in read_events(tmp_path / "run/log.jsonl") if "clip" in event}
    assert len(named) == CLIPS
    assert named["clip3"] == "clip clip3: gloss: is empty, and cslr needs it; label the clip or leave it out"


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> Path:
    """A store with a video cut short and, in another clip, a flipped bit among the keypoints."""
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
def test_some_bad_clips_are_named_and_left_out_too_many_stop_the_run(command, stage1, damaged, tmp_path, share):
    rgb = ["--p-samp", "0.25", "--efficientnet", "random", "--start-from", stage1 / "last", *SHORT, "--epochs", "2"]
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


# --- all the way


def test_scores_of_a_run_can_be_had_from_its_files(command, stage1, tmp_path):
    store = write_store(tmp_path / "store", splits=("train",) * 4 + ("dev", "test"))
    run = tmp_path / "runs/demo/slt-pose"
    ended = command(
        tmp_path, "finetune.py", "--stores", store, "--p-samp", "0", "--start-from", stage1 / "last", *SHORT
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


def test_a_trimmed_vocabulary_is_trained_and_given_back(command, store, tmp_path):
    tokenizer = train_tokenizer([*TEXTS, "Zebras graze quietly", "东南西北春夏秋冬"], tmp_path / "tokenizer")
    full = ["--tokenizer", tokenizer.path, "--data-fraction", "0", "--out", "full"]
    trimmed = ["--p-samp", "0", "--start-from", "full/last", "--trim-vocabulary", "True", "--out", "run", *SHORT]
    back = ["run/last", "--full", "full/last", "--out", "again"]
    for line in (
        ["pretrain.py", "--stores", store, *full],
        ["finetune.py", "--stores", store, *trimmed],
        ["convert.py", "untrim", *back],
    ):
        ended = command(tmp_path, *line)
        assert ended.status == 0 and ended.error == "", ended
    few, many = (ModelConfig.load(tmp_path / f"{name}/last/config.json").mt5.vocab_size for name in ("run", "full"))
    assert few < many and f"again: {few} trained rows of {many}" in ended.output
    assert (tmp_path / "again/spiece.model").read_bytes() == tokenizer.path.read_bytes()
    ended = command(tmp_path, "convert.py", "untrim", "full/last", "--full", "nowhere", "--out", "third")
    assert_refused(ended, "--full nowhere: is not a readable folder or hub id", "give it with --full")


def test_keypoints_of_another_origin_are_warned_of(tmp_path, capsys):
    """Training on one estimator's keypoints and testing on another's lowers scores, and nothing else would say why."""
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


def test_a_language_that_the_tokenizer_does_not_know_is_warned_of(tmp_path, capsys):
    """Its characters become one unknown token, which no output can hold."""
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


if __name__ == "__main__":
    serve()
