"""Scoring a model on a split: the same in any batch, on any number of ranks, and again from the predictions alone."""

import json
import re
import shutil
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_training import ROOT, TWO_RANKS, run_script
from transformers.modeling_outputs import BaseModelOutput

from unisign_fast.checkpoints.model_folder import save_model
from unisign_fast.evaluation.evaluate import GenerationSettings, evaluate_split, frame_budget, length_batches
from unisign_fast.evaluation.metrics import score
from unisign_fast.evaluation.predictions import read_predictions
from unisign_fast.inference.translator import Translation
from unisign_fast.kernels.dispatch import as_device
from unisign_fast.kernels.packing import Packing
from unisign_fast.model.beam_search import search_hypotheses
from unisign_fast.model.config import ModelConfig, MT5Shape
from unisign_fast.model.efficientnet import EfficientNet
from unisign_fast.model.mt5 import build_mt5
from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.batches.reader import ClipReader
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.pipelines.store.keypoint_store import KeypointStore, KeypointStoreWriter
from unisign_fast.text.tokenizer import END, PAD, train_tokenizer
from unisign_fast.utils.distributed import Ranks

TEXTS = ["我喜欢茶。", "他喜欢水。", "我明天去学校。", "她今天很高兴。"]
CLIPS, DATA = 13, DataSettings(p_samp=0.0, max_frames=12)
ALONE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """Clips of 2 to 19 frames, each in a single posture; one has no text, and one has text in the train split."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("data") / "store"
    with KeypointStoreWriter(folder, {"estimator": "test", "version": "1", "coordinates": "fractions"}) as writer:
        for i in range(CLIPS):
            posture, frames = rng.uniform(0.2, 0.8, (133, 3)), int(rng.integers(2, 20))
            keypoints = np.repeat(posture[None] + [0, 0, 0.2], frames, axis=0)
            size = {"fps": 25.0, "width": 64, "height": 64}
            text = "" if i == 5 else TEXTS[i % len(TEXTS)]
            split = "train" if i == 8 else "test"
            writer.add(keypoints, id=f"clip{i}", split=split, language="zh", text=text, gloss="我 茶", **size)
    return folder


@pytest.fixture(scope="module")
def model(store, tmp_path_factory) -> Path:
    """A model folder, trained until it tells clips apart."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(TEXTS, folder / "tokenizer")
    shape = dict(d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=2, num_heads=4, dropout_rate=0.1)
    config = ModelConfig(
        mt5=MT5Shape(vocab_size=len(tokenizer), **shape), pose_channels=(8, 8, 16, 32), projection_std=1.0
    )
    torch.manual_seed(3)
    model = UniSign(config)
    reader = ClipReader([KeypointStore.open(store)], DATA, tokenizer)
    batch = reader.batch(reader.clips("test"), range(CLIPS - 1), epoch=0, training=False).batch
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss, tokens = model(batch)
        optimizer.zero_grad()
        (loss / tokens).backward()
        optimizer.step()
    save_model(folder / "model", config, model.state_dict(), tokenizer, DATA)
    return folder / "model"


def evaluate(store: Path, folder: Path, split: str = "test", **generation):
    model, tokenizer = UniSign.load(folder)
    reader = ClipReader([KeypointStore.open(store)], DATA, tokenizer)
    return evaluate_split(model, tokenizer, reader, split, ALONE, GenerationSettings(max_new_tokens=12, **generation))


def command(*arguments: object, start=(sys.executable,)) -> tuple[int, str]:
    return run_script([*start, *map(str, (ROOT / "launch/evaluate.py", *arguments))], COLUMNS="120")


def test_batches_hold_every_clip_once_longest_first_within_the_budget():
    frames = np.array([10, 256, 90, 3, 256, 128, 90])
    batches = length_batches(frames, 512)
    assert batches == [[1, 4], [5, 2, 6, 0], [3]]
    for batch in batches:
        assert len(batch) * max(64, frames[batch].max()) <= 512
    assert length_batches(frames, 1) == [[1], [4], [5], [2], [6], [0], [3]], "a clip alone may be longer"
    assert [len(batch) for batch in length_batches(np.full(10, 1), 256)] == [4, 4, 2], "short clips count, too"


@pytest.mark.parametrize("p_samp, frames", [(0.0, 4096), (0.1, 4096), (0.5, 2048), (1.0, 1024)])
def test_a_batch_has_no_more_crops_than_the_kernels_of_a_gpu_address(p_samp, frames):
    data = DataSettings(p_samp=p_samp)
    assert frame_budget(4096, data) == frames and frame_budget(100, data) == 100
    hands = frames // data.max_frames * round(p_samp * data.max_frames)
    with torch.device("meta"):
        backbone = EfficientNet(parts=2).bfloat16().eval()
        crops = torch.empty(2 * hands, 3, data.crop_size, data.crop_size, dtype=torch.bfloat16)
    with as_device("cuda"), torch.no_grad():
        backbone(crops, (hands, hands))  # raises TooManyElements


def test_predictions_do_not_depend_on_the_batch(store, model):
    alone, together = (evaluate(store, model, frames_per_batch=frames) for frames in (1, 8192))
    assert alone.rows == together.rows and alone.scores.values == together.scores.values
    assert len({row.prediction for row in alone.rows}) > 2, "clips are told apart"
    assert [row.id for row in alone.rows] == [f"clip{i}" for i in range(CLIPS) if i not in (5, 8)]


def test_texts_end_at_the_limit(store, model):
    loaded, tokenizer = UniSign.load(model)
    reader = ClipReader([KeypointStore.open(store)], DATA, tokenizer)
    short = evaluate_split(loaded, tokenizer, reader, "test", ALONE, GenerationSettings(beams=2, max_new_tokens=1))
    assert all(len(tokenizer.target_ids(row.prediction)) <= 3 for row in short.rows)


@pytest.mark.parametrize("max_new_tokens", [1, 12, 40])
@pytest.mark.parametrize("beams", [1, 2, 4])
def test_beam_search_matches_transformers(beams, max_new_tokens):
    """Random models, whose texts end at different lengths, some not at all."""
    lengths = [9, 1, 30, 4, 17, 8]
    packing = Packing(lengths, torch.device("cpu"))
    ended = set()
    for seed in range(10):
        torch.manual_seed(seed)
        shape = MT5Shape(vocab_size=24, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=2, num_heads=4)
        mt5 = build_mt5(shape).eval()
        mt5.lm_head.weight.data *= 4  # confident continuations, different in each model
        for block in mt5.decoder.block:
            torch.nn.init.normal_(block.layer[1].layer_norm.weight, 1.0, 2.0)
        hidden_PD = 2 * torch.randn(sum(lengths), 32)
        result = [texts[0].tokens for texts in search_hypotheses(mt5, hidden_PD, packing, beams, max_new_tokens)]
        expected = mt5.generate(
            encoder_outputs=BaseModelOutput(packing.pad(hidden_PD)),
            attention_mask=packing.mask_BS.long(),
            num_beams=beams,
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )
        for tokens, (_, *whole) in zip(result, expected.tolist(), strict=True):
            assert tokens == whole[: len(tokens)] and set(whole[len(tokens) :]) <= {PAD, END}  # END pads
            ended.add(len(tokens))
    assert max_new_tokens == 1 or len(ended) > 2, "they end at different lengths"


def test_a_bad_clip_is_left_out_and_named(store, model):
    result = evaluate(store, model)
    (bad,) = result.bad_clips
    assert "clip clip5: text: is empty, and slt needs it" in bad and result.scores.count == CLIPS - 2


def test_a_split_without_a_good_clip_is_refused(store, model):
    with pytest.raises(InputError, match="no clip is 'dev'"):
        evaluate(store, model, split="dev")


@pytest.mark.parametrize("option", ["beams", "max_new_tokens", "frames_per_batch"])
def test_impossible_settings_are_named(option):
    with pytest.raises(InputError, match=f"--{option.replace('_', '-')}: 0 is not valid"):
        GenerationSettings(**{option: 0})


def test_two_ranks_give_what_one_does_and_the_scores_follow_from_the_file(store, model, tmp_path):
    options = ["--model", model, "--stores", store, "--task", "slt", "--max-new-tokens", 12, "--frames-per-batch", 128]
    status, output = command(*options, "--out", tmp_path, start=TWO_RANKS)
    assert status == 0 and "left out: " in output and output.count("BLEU-4 ") == 1, output
    rows = read_predictions(tmp_path / "predictions-test.jsonl")
    assert rows == evaluate(store, model, frames_per_batch=128).rows
    written = json.loads((tmp_path / "scores-test.json").read_text())
    again = score("slt", [r.prediction for r in rows], [r.reference for r in rows], "zh").plain()
    assert {name: written[name] for name in again} == json.loads(json.dumps(again))
    assert [written[name] for name in ("beams", "split", "language")] == [4, "test", "zh"]
    assert len(written["bad_clips"]) == 1


def described(section: str) -> set[str]:
    """The fields in the first column of a section's table in docs/evaluation.md."""
    page = (ROOT / "docs/evaluation.md").read_text()
    (body,) = [part for part in page.split("\n## ") if part.startswith(section)]
    columns = [line.split("|")[1] for line in body.splitlines() if line.startswith("| `")]
    return {name for column in columns for name in re.findall("`(.*?)`", column)}


def test_a_model_is_the_baseline_of_another_and_every_field_is_described(store, model, tmp_path):
    """Task and language are the model's and the clips'; an untrained language causes a warning."""
    other = tmp_path / "other"
    shutil.copytree(model, other)
    weights = load_file(other / "model.safetensors")
    weights["language_model.mt5.lm_head.weight"] *= -1
    save_file(weights, other / "model.safetensors")
    (other / "README.md").write_text("---\nlanguage: de\n---\n")
    options = ["--model", other, "--stores", store, "--max-new-tokens", 12, "--out", tmp_path / "out"]
    status, output = command(*options, "--baseline", model)
    assert status == 0 and f"warning: {other}: its model card names de as training languages, not zh" in output
    written = json.loads((tmp_path / "out/scores-test.json").read_text())
    expected = evaluate(store, model).scores.values
    for metric, value in written["values"].items():
        assert written["differences"][metric]["value"] == pytest.approx(value - expected[metric], abs=1e-3)
    assert written["values"]["BLEU-1"] < expected["BLEU-1"]
    assert (written["task"], written["language"]) == ("slt", "zh")
    assert set(written) | {"classes"} == described("`scores-SPLIT.json`")
    rows = [json.loads(line) for line in (tmp_path / "out/predictions-test.jsonl").open()]
    assert {name for row in rows for name in row} == described("`predictions-SPLIT.jsonl`")
    lines = described("Lines of `launch/translate.py`")
    assert lines | {"beams"} == {field.name for field in fields(Translation)}
    status, output = command(*options[:-1], tmp_path / "again", "--baseline", tmp_path / "out")
    assert status == 0 and " +0.00 " in output and " 1.0000 " in output, output


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--task slt", ["--model, --predictions: exactly one of them is required"]),
        (
            "--task slt --model {model} --predictions x",
            ["--model, --predictions: exactly one of them is required"],
        ),
        ("--task slt --model {model} --out x", ["--stores: is required with --model"]),
        ("--task slt --model {model} --stores {store}", ["--out: is required with --model"]),
        ("--predictions x", ["--task: is required with --predictions"]),
        ("--task slt --predictions {store}/manifest.jsonl", ["line 1: prediction: is missing"]),
    ],
)
def test_options_without_those_they_need_are_refused(store, model, line, words):
    status, output = command(*line.format(store=store, model=model).split())
    assert status == 2 and output.startswith("error: ") and output.count("\n") == 1, output
    assert all(word in output for word in words), output
