"""One real clip of CSL-News, from its published files to a sentence: conversion, overfitting, generation."""

import json
import subprocess
import sys
from pathlib import Path

import torch

from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.batches.reader import ClipReader
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.pipelines.store.keypoint_store import KeypointStore

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, *options: object) -> None:
    subprocess.run([sys.executable, f"launch/{script}.py", *map(str, options)], cwd=ROOT, check=True)


def test_csl_news_is_learned_by_heart(shared, tmp_path):
    news, store, out = shared / "csl_news", tmp_path / "store", tmp_path / "run"
    files = (
        "--poses",
        news / "pose_format",
        "--videos",
        news / "rgb_format",
        "--labels",
        news / "CSL_News_Labels.json",
    )
    run("prepare", "convert", "--format", "unisign", *files, "--out", store, "--split", "train")
    tokenizer = "--tokenizer", shared / "mt5_tokenizer_zh"
    run("pretrain", "--stores", store, *tokenizer, "--out", out, "--epochs", 120, "--log-every-steps", 1)
    steps = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    losses = [step["loss"] for step in steps if step["event"] == "step"]
    assert losses[0] > 5 and losses[-1] < 0.05

    model, tokenizer = UniSign.load(out / "last")
    reader = ClipReader([KeypointStore.open(store)], DataSettings(p_samp=0), tokenizer)
    clips = reader.clips("train")
    (ref,) = clips
    assert len(tokenizer) == 32596 and (ref.clip.frames, ref.clip.width, ref.clip.height) == (87, 204, 170)
    batch = reader.batch(clips, [0], epoch=0, training=False).batch
    with torch.no_grad():
        (tokens,) = model.eval().generate(batch)
    assert tokenizer.decode(tokens) == ref.clip.text == "每天十八点为您直播的共同关注。"
