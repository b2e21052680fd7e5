"""Model folders: saved and loaded whole, the start of a later stage, and pretrained mT5 from a folder."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from refusals import refusal
from safetensors.torch import load_file, save_file
from test_unisign import POSE, RGB, make_batch
from transformers import MT5Config, MT5ForConditionalGeneration

from unisign_fast.checkpoints.model_folder import FILES, TIED, require_model_folder, save_model, start_from
from unisign_fast.model.config import ModelConfig, MT5Shape
from unisign_fast.model.mt5 import LanguageModel
from unisign_fast.model.unisign import UniSign
from unisign_fast.text.tokenizer import Tokenizer, train_tokenizer
from unisign_fast.training.initial_weights import load_pretrained_mt5, pretrained_shape, pretrained_tokenizer

HEAD = replace(POSE, head="classifier", head_classes=("茶", "水"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    return train_tokenizer(["我喜欢茶。", "I like tea."], tmp_path_factory.mktemp("tokenizer"))


def build(config: ModelConfig, seed: int) -> UniSign:
    """A model whose tensors all differ from their initial values."""
    torch.manual_seed(seed)
    model = UniSign(config)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if tensor.is_floating_point() else torch.full_like(tensor, 7))
    return model.eval()


@pytest.fixture(scope="module")
def saved(tokenizer, tmp_path_factory):
    """Folders of trained models by configuration, each written once."""
    root, folders = tmp_path_factory.mktemp("models"), {}

    def folder(config: ModelConfig) -> Path:
        if config not in folders:
            folders[config] = root / str(len(folders))
            save_model(folders[config], config, build(config, seed=1).state_dict(), tokenizer)
        return folders[config]

    return folder


def equal_weights(model: UniSign, other: UniSign) -> set[str]:
    others = other.state_dict()
    return {name for name, value in model.state_dict().items() if name in others and torch.equal(value, others[name])}


# --- saved and loaded


@pytest.mark.parametrize("config", [POSE, replace(RGB, gate="published"), HEAD], ids=["pose", "rgb", "head"])
def test_a_model_is_loaded_bit_for_bit(saved, tokenizer, config):
    folder = saved(config)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    model, loaded_codec = UniSign.load(folder)
    assert model.config == config
    expected = build(config, seed=1).state_dict()
    result = model.state_dict()
    assert list(result) == list(expected) and all(torch.equal(result[name], expected[name]) for name in result)
    assert loaded_codec.target_ids("茶") == tokenizer.target_ids("茶")
    assert not set(TIED) & set(load_file(folder / "model.safetensors")), "one embedding is stored once"


def test_embeddings_stay_one_and_the_output_head_stays_its_own(saved):
    mt5 = UniSign.load(saved(POSE))[0].language_model.mt5
    assert mt5.shared.weight is mt5.encoder.embed_tokens.weight is mt5.decoder.embed_tokens.weight
    assert mt5.lm_head.weight is not mt5.shared.weight and not torch.equal(mt5.lm_head.weight, mt5.shared.weight)


def test_saving_again_replaces(saved, tokenizer, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(saved(POSE), folder)
    other = build(POSE, seed=2)
    save_model(folder, POSE, other.state_dict(), Tokenizer(folder))
    assert len(equal_weights(UniSign.load(folder)[0], other)) == len(other.state_dict())


# --- the start of a later stage


def test_stage_2_starts_from_stage_1_with_a_new_rgb_branch(saved):
    model, fresh = build(RGB, seed=2), build(RGB, seed=2)
    start_from(model, saved(POSE))
    names = set(model.state_dict())
    new = {name for name in names if name.startswith("rgb.")}
    assert new and equal_weights(model, fresh) >= new
    assert equal_weights(model, build(POSE, seed=1)) == names - new


def test_rgb_pose_stage_3_starts_from_all_of_stage_2(saved):
    model = build(RGB, seed=2)
    start_from(model, saved(RGB))
    assert equal_weights(model, build(RGB, seed=1)) == set(model.state_dict())


def test_pose_only_stage_3_starts_from_stage_1(saved):
    model = build(POSE, seed=2)
    start_from(model, saved(POSE))
    assert equal_weights(model, build(POSE, seed=1)) == set(model.state_dict())


@pytest.mark.parametrize("features", ["sign", "encoder"])
def test_a_task_head_starts_from_stage_1(saved, features):
    config = replace(HEAD, head_features=features)
    model, fresh = build(config, seed=2), build(config, seed=2)
    assert (model.language_model is None) == (features == "sign")
    start_from(model, saved(POSE))
    names = set(model.state_dict())
    new = {name for name in names if name.startswith("head.")}
    assert new and equal_weights(model, fresh) >= new
    assert equal_weights(model, build(POSE, seed=1)) == names - new


def test_a_model_computes_the_same_as_the_one_it_starts_from(saved):
    model, batch = build(POSE, seed=2), make_batch([5, 3])
    start_from(model, saved(POSE))
    with torch.no_grad():
        assert torch.equal(model(batch), build(POSE, seed=1)(batch))


def test_stage_1_does_not_start_from_rgb(saved):
    """Silently dropping a trained RGB branch would lose weights."""
    said = refusal(start_from, build(POSE, seed=2), saved(RGB))
    assert "rgb." in said and "is unknown" in said and "model.safetensors" in said


@pytest.mark.parametrize(
    "other, words",
    [
        (replace(POSE, parts="hands,body"), ["pose_encoders.face.", "is unknown", "and 67 more; "]),
        (replace(POSE, part_bias=False), ["1 entries do not fit: part_bias is unknown"]),
        (replace(POSE, pose_channels=(8, 8, 16, 64)), ["part_bias is (128,) instead of (256,)"]),
        (replace(POSE, mt5=replace(POSE.mt5, vocab_size=72)), ["mt5.shared.weight is (64, 32) instead of (72, 32)"]),
        (replace(RGB, fusion="cross"), ["rgb."]),
    ],
)
def test_starting_from_another_shape_is_named(saved, other, words):
    source = saved(RGB if other.rgb else POSE)
    said = refusal(start_from, build(other, seed=2), source)
    assert said.startswith(f"{source / 'model.safetensors'}: ") and "do not fit" in said
    assert all(word in said for word in words), said


# --- broken folders


@pytest.fixture
def broken(saved, tmp_path) -> Path:
    """A good folder, for a test to break."""
    shutil.copytree(saved(POSE), tmp_path / "model")
    return tmp_path / "model"


def change_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def test_a_missing_weight_is_named(broken):
    change_weights(broken, lambda weights: weights.pop("projection.bias"))
    for said in (refusal(UniSign.load, broken), refusal(start_from, build(POSE, seed=2), broken)):
        assert said.startswith(f"{broken / 'model.safetensors'}: 1 entries do not fit: projection.bias is missing; ")


def test_a_missing_layer_is_not_taken_for_a_new_one(broken):
    change_weights(broken, lambda weights: [weights.pop(f"projection.{name}") for name in ("weight", "bias")])
    assert "2 entries do not fit: projection.weight is missing, " in refusal(start_from, build(POSE, seed=2), broken)


def test_the_missing_embedding_is_named(broken):
    change_weights(broken, lambda weights: weights.pop("language_model.mt5.shared.weight"))
    assert "language_model.mt5.shared.weight is missing" in refusal(UniSign.load, broken)


def test_a_weight_of_another_shape_is_named(broken):
    change_weights(broken, lambda weights: weights.update({"projection.bias": torch.zeros(5)}))
    for said in (refusal(UniSign.load, broken), refusal(start_from, build(POSE, seed=2), broken)):
        assert "1 entries do not fit: projection.bias is (5,) instead of (32,); " in said


def test_half_an_rgb_branch_is_not_filled_up(saved, tmp_path):
    shutil.copytree(saved(RGB), tmp_path / "model")
    change_weights(tmp_path / "model", lambda weights: weights.pop("rgb.projection.weight"))
    said = refusal(start_from, build(RGB, seed=2), tmp_path / "model")
    assert "1 entries do not fit: rgb.projection.weight is missing" in said


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_truncated_weights_are_named(broken, kept):
    path = broken / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    for said in (refusal(UniSign.load, broken), refusal(start_from, build(POSE, seed=2), broken)):
        assert said.startswith(f"{path}: is not a complete safetensors file") and "copy it again" in said


@pytest.mark.parametrize("name", FILES[:4])
def test_a_missing_file_is_named(broken, name):
    (broken / name).unlink()
    assert refusal(UniSign.load, broken).startswith(f"{broken / name}: ")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"mt5": {}}', '{"mt5": 3}', '{"mt5": {"layers": 3}}', "null", b"\xff\xfe"]
)
def test_a_broken_config_is_named(broken, content):
    path = broken / "config.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert refusal(UniSign.load, broken).startswith(f"{path}: is not a model configuration")


def test_unknown_and_wrong_settings_in_a_config_are_named(broken):
    path = broken / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"colour": 1}))
    assert "colour" in refusal(UniSign.load, broken)
    path.write_text(json.dumps({k: v for k, v in values.items() if k != "pose_channels"}))
    assert "pose_channels" in refusal(UniSign.load, broken)


def test_a_folder_without_a_model_is_named(tmp_path):
    said = refusal(require_model_folder, tmp_path, "--start-from", "give one")
    assert said == f"--start-from: {tmp_path} holds no trained model; give one"


# --- pretrained mT5


SMALL = MT5Shape(vocab_size=64, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_decoder_layers=1, num_heads=4)


@pytest.fixture(scope="module")
def pretrained(tokenizer, tmp_path_factory) -> Path:
    """A folder like google/mt5-base: transformers' files, a separate output head, the tokenizer."""
    folder = tmp_path_factory.mktemp("mt5")
    torch.manual_seed(5)
    mt5 = MT5ForConditionalGeneration(MT5Config(**asdict(SMALL), tie_word_embeddings=False))
    mt5.lm_head.weight = torch.nn.Parameter(torch.randn(64, 16))
    mt5.config.tie_word_embeddings = False
    mt5.save_pretrained(folder)
    tokenizer.save(folder)
    return folder


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_pretrained_mt5_loads_exactly(pretrained, tmp_path, file):
    folder = tmp_path / "mt5"
    shutil.copytree(pretrained, folder)
    expected = load_file(folder / "model.safetensors")
    if file == "pytorch_model.bin":  # the form in which mT5-Base is released: embeddings thrice, an unused relic
        (folder / "model.safetensors").unlink()
        copies = {f"{stack}.embed_tokens.weight": expected["shared.weight"] for stack in ("encoder", "decoder")}
        relic = {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": torch.zeros(32, 4)}
        torch.save(expected | copies | relic, folder / file)
    torch.manual_seed(0)
    assert pretrained_shape(str(folder)) == SMALL
    ours = LanguageModel(pretrained_shape(str(folder)), 0.0)
    load_pretrained_mt5(ours, str(folder))
    result = ours.mt5.state_dict()
    assert set(result) >= set(expected)
    assert all(torch.equal(result[name], expected[name]) for name in expected)
    mt5 = ours.mt5
    assert mt5.shared.weight is mt5.encoder.embed_tokens.weight is mt5.decoder.embed_tokens.weight
    assert torch.equal(mt5.lm_head.weight, expected["lm_head.weight"])
    assert not torch.equal(mt5.lm_head.weight, mt5.shared.weight), "a separate output head"


def test_the_pretrained_tokenizer_is_loaded_too(pretrained, tokenizer):
    assert pretrained_tokenizer(str(pretrained)).target_ids("茶") == tokenizer.target_ids("茶")


def load_all(source: str) -> None:
    pretrained_tokenizer(source)
    load_pretrained_mt5(LanguageModel(pretrained_shape(source), 0.0), source)


@pytest.mark.parametrize("function", [pretrained_shape, pretrained_tokenizer, load_all])
def test_missing_mt5_says_what_to_download(tmp_path, function):
    said = refusal(function, str(tmp_path / "none"))
    assert said.startswith(f"--mt5 {tmp_path / 'none'}: ")
    assert "config.json, pytorch_model.bin or model.safetensors, and spiece.model of google/mt5-base" in said


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "spiece.model"])
def test_a_file_missing_from_mt5s_folder_is_named(pretrained, tmp_path, name):
    shutil.copytree(pretrained, tmp_path / "mt5")
    (tmp_path / "mt5" / name).unlink()
    said = refusal(load_all, str(tmp_path / "mt5"))
    assert str(tmp_path / "mt5") in said and name in said and len(said) < 500


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"d_model": 16}'])
def test_a_broken_mt5_config_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    said = refusal(pretrained_shape, str(tmp_path))
    assert said.startswith(f"{tmp_path / 'config.json'}: is not an mT5 configuration")


def test_truncated_mt5_weights_are_named(pretrained, tmp_path):
    shutil.copytree(pretrained, tmp_path / "mt5")
    path = tmp_path / "mt5" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert str(tmp_path / "mt5") in refusal(load_all, str(tmp_path / "mt5"))


def test_mt5_weights_of_another_shape_are_named(pretrained):
    other = LanguageModel(replace(SMALL, d_ff=32), 0.0)
    assert "instead of" in refusal(load_pretrained_mt5, other, str(pretrained))


def test_incomplete_mt5_weights_are_not_filled_with_random_ones(pretrained, tmp_path):
    shutil.copytree(pretrained, tmp_path / "mt5")
    change_weights(tmp_path / "mt5", lambda weights: weights.pop("lm_head.weight"))
    assert "lm_head.weight" in refusal(load_all, str(tmp_path / "mt5"))
