"""benchmarks/evaluation.py: both evaluation methods write the same texts."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.evaluation import compare, evaluation, random_model
from unisign_fast.evaluation.evaluate import GenerationSettings
from unisign_fast.model.batch_norm import BatchNorm
from unisign_fast.utils.console import run_command

CLIPS, ROUNDS = 6, 2


def test_both_methods_write_the_same_texts(tmp_path):
    """One clip at a time, so that the published evaluation pads nothing."""
    model, tokenizer, reader = random_model(tmp_path, CLIPS, torch.device("cpu"), "demo")
    for module in model.modules():
        if isinstance(module, BatchNorm) and module.running_mean.dim() == 2:
            module.running_mean[1] += 3  # of the right hand; the published way has one mixture
    compare(model, tokenizer, reader, "train", GenerationSettings(4, 6), (1,), ROUNDS, tmp_path / "rows.json")
    published, ours = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert published["way"] == "published, batches of 1" and ours["way"] == "ours"
    assert published["same_texts"] == ours["same_texts"] == published["clips"] == CLIPS
    assert published["score"] == ours["score"] and ours["times_as_long"] == 1


def test_a_missing_model_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        run_command(evaluation, ["--model", str(tmp_path)])
    assert ended.value.code == 2 and f"{tmp_path}" in capsys.readouterr().err
