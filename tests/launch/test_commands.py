"""The commands as a user meets them: how they answer wrong input, and what their help shows."""

import os
import re
import subprocess
import sys

import pytest
from command_server import STREAMS, Ended, assert_refused
from conftest import ROOT

# --- wrong input

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
    "trimming a vocabulary made for the corpus": (
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
    "a file instead of a run": ("pretrain.py --stores {store} --out {store}/store.json", ["store.json: is a file"]),
    "a used folder for a new run": (
        "pretrain.py --stores {store} --out {stage1} --resume never",
        ["{stage1}: is not an empty folder; name a new folder, or resume with --resume auto"],
    ),
    "too small a corpus": ("prepare.py demo --clips 3", ["--clips: 3 is not in [60, 5000]"]),
    "no poses": (
        "prepare.py convert --format unisign --poses x --videos y --labels z --out w",
        ["--poses: x: is not a folder"],
    ),
    "nothing to merge": ("prepare.py merge --out m", ["STORES: no store is named; name one or more"]),
    "a camera and a video": ("translate.py a.mp4 --live 0", ["--live: a camera cannot be combined with other inputs"]),
    "no predictions": ("evaluate.py --predictions x --task slt --language zh", ["x: there is no such file"]),
    "no runs": ("summary.py", ["runs/demo: no run there has test scores; train with launch/finetune.py"]),
}


@pytest.mark.parametrize("line, words", REFUSED.values(), ids=REFUSED)
def test_wrong_input_is_reported_in_one_line_and_leaves_nothing_behind(
    command, short_store, stage1_run, tmp_path, line, words
):
    places = {"store": short_store, "stage1": stage1_run, "here": tmp_path}
    ended = command(tmp_path, *(argument.format(**places) for argument in line.split()))
    assert_refused(ended, *(word.format(**places) for word in words))
    assert {path.name for path in tmp_path.iterdir()} == set(STREAMS)


def test_a_separate_process_prints_nothing_else(short_store):
    """Without the fork, so that anything that imports print on stderr is seen."""
    command = [sys.executable, ROOT / "launch/finetune.py", "--stores", short_store, "--start-from", short_store]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert_refused(
        Ended(done.returncode, done.stdout, done.stderr),
        f"--start-from: {short_store} holds no trained model",
    )


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
