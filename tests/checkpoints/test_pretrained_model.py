"""Models in the ecosystem's formats: loaded from a folder or a hub id, saved with their card, and never pickled."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from test_model_folder import build, equal_weights, refusal
from test_unisign import POSE, RGB

from unisign_fast.checkpoints.model_folder import (
    load_data_settings,
    save_model,
    write_card,
)
from unisign_fast.model.config import ModelConfig
from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.text.tokenizer import train_tokenizer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[ModelConfig, Path]:
    """A model folder of either kind."""
    root = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer(["我喜欢茶。", "I like tea."], root / "tokenizer")
    for config in (POSE, RGB):
        save_model(root / str(config.rgb), config, build(config, seed=1).state_dict(), tokenizer)
    return {config: root / str(config.rgb) for config in (POSE, RGB)}


def test_a_pretrained_model_can_be_saved_with_all_that_came_with_it(folders, tmp_path):
    shutil.copytree(folders[POSE], tmp_path / "model")
    data = DataSettings(task="islr", max_frames=64, p_samp=0.0)
    (tmp_path / "model/preprocessor_config.json").write_text(json.dumps(asdict(data)))
    (tmp_path / "model/README.md").write_text("a card\n")
    model = UniSign.from_pretrained(str(tmp_path / "model"))
    assert not model.training and model.companions.data == data
    model.projection.bias.data += 1
    model.save_pretrained(str(tmp_path / "other"))
    again = UniSign.from_pretrained(tmp_path / "other")
    assert len(equal_weights(again, model)) == len(model.state_dict())
    assert again.companions.data == data and again.companions.card == "a card\n"
    assert "no tokenizer" in refusal(build(POSE, seed=1).save_pretrained, tmp_path / "third")


def test_nothing_in_a_folder_is_a_pickle(folders, tmp_path):
    shutil.copytree(folders[POSE], tmp_path / "model")
    weights = {name: value.clone() for name, value in load_file(folders[POSE] / "model.safetensors").items()}  # no map
    torch.save(weights, tmp_path / "model/model.safetensors")
    assert "is not a complete safetensors file" in refusal(UniSign.from_pretrained, tmp_path / "model")


SCORES = {
    "values": {"BLEU-4": 25.273},
    "intervals": {"BLEU-4": [24.1, 26.5]},
    "signature": "BLEU-4 nrefs:1",
    "count": 1077,
    "split": "test",
    "language": "zh",
}


def test_the_card_tells_data_recipe_and_scores(folders, tmp_path):
    shutil.copytree(folders[RGB], tmp_path / "model")
    write_card(
        tmp_path / "model",
        ModelConfig.load(tmp_path / "model" / "config.json"),
        {"stores": ["csl_daily"], "train": {"epochs": 20}},
        SCORES,
    )
    card = ModelCard.load(tmp_path / "model/README.md")
    assert "RGB-pose" in card.text and "trained on: csl_daily" in card.text and '"epochs": 20' in card.text
    assert "| BLEU-4 | 25.27 | 24.10 to 26.50 |" in card.text and "1077 clips" in card.text
    (result,) = card.data.eval_results
    assert (result.metric_name, result.metric_value, result.dataset_name) == ("BLEU-4", 25.27, "csl_daily")
    assert card.data.language == "zh" and card.data.library_name == "unisign_fast"
    write_card(
        tmp_path / "model", ModelConfig.load(tmp_path / "model" / "config.json"), {"stores": ["csl_daily"]}, None
    )
    card = ModelCard.load(tmp_path / "model/README.md")
    assert card.data.eval_results is None and "## Scores\n\nNot recorded." in card.text


HUB_SCRIPT = """
from unisign_fast.pipelines.errors import InputError
from unisign_fast.checkpoints.model_folder import find_model
from unisign_fast.model.unisign import UniSign

print(UniSign.from_pretrained("somebody/unisign").config.parts)
for source in ("somebody/else", "no folder: no hub id"):
    try:
        find_model(source)
    except InputError as error:
        print(error)
"""


def test_a_hub_id_is_found_offline_where_it_was_downloaded_before(folders, tmp_path):
    repository = tmp_path / "hub/models--somebody--unisign"
    shutil.copytree(folders[POSE], repository / "snapshots/0123456789")
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0123456789")
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("HF_HUB_CACHE", None)
    command = [sys.executable, "-c", HUB_SCRIPT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    outcome, unreachable, impossible = done.stdout.splitlines()
    assert outcome == POSE.parts
    assert unreachable.startswith("somebody/else: is not a folder or a cached download, and the hub is unreachable (")
    assert "put config.json, model.safetensors, spiece.model, preprocessor_config.json of somebody/else" in unreachable
    assert impossible.startswith("no folder: no hub id: is neither a folder nor a hub id; ")


@pytest.mark.parametrize("content", ["", "[]", '{"colour": 1}', '{"p_samp": 7}', '{"task": "other"}'])
def test_broken_data_settings_are_named(folders, tmp_path, content):
    broken = tmp_path / "model"
    shutil.copytree(folders[POSE], broken)
    path = broken / "preprocessor_config.json"
    path.write_text(content)
    assert refusal(UniSign.load, broken).startswith(f"{path}: ")
    assert refusal(load_data_settings, broken).startswith(f"{path}: ")
