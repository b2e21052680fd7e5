"""launch/convert.py: checkpoints in the authors' format to model folders and back, without a bit changed."""

import pickle
import runpy
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from refusals import refusal
from safetensors.torch import load_file, save_file
from test_published_checkpoint import POSE, RGB, published_weights

from unisign_fast.checkpoints.model_folder import load_data_settings, save_model
from unisign_fast.model.config import ModelConfig
from unisign_fast.model.unisign import UniSign
from unisign_fast.published.convert import load_published
from unisign_fast.text.tokenizer import Tokenizer, train_tokenizer

COMMANDS = runpy.run_path(str(Path(__file__).parents[2] / "launch/convert.py"))
convert, export = COMMANDS["import_published"], COMMANDS["export_published"]
UNUSED = "fusion_pose_rgb_linear"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    """With more pieces than the checkpoints of the other tests have embeddings."""
    return train_tokenizer(["我喜欢茶。", "I like tea."], tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def tables(tokenizer) -> dict[bool, dict]:
    """Published tables, pose-only and RGB-pose, whose unused layer isn't zero."""
    result = {}
    for config in (POSE, RGB):
        table = published_weights(_wide(config, tokenizer))
        result[config.rgb] = {n: torch.randn_like(t) if n.startswith(UNUSED) else t for n, t in table.items()}
    return result


def _wide(config: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    return replace(config, mt5=replace(config.mt5, vocab_size=len(tokenizer) + 3))


def write_checkpoint(path: Path, table: dict, kind: torch.dtype = torch.float32) -> Path:
    weights = OrderedDict((name, t.to(kind) if t.is_floating_point() else t) for name, t in table.items())
    torch.save({"model": weights}, path)
    return path


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rgb", [False, True])
def test_there_and_back_without_a_bit_changed(tables, tokenizer, tmp_path, rgb, kind, capsys):
    source = write_checkpoint(tmp_path / "theirs.pth", tables[rgb], kind)
    convert(source, tokenizer.path, tmp_path / "ours", task="islr", max_frames=64)
    export(str(tmp_path / "ours"), tmp_path / "new/again.pth")
    before, after = (torch.load(path, weights_only=True) for path in (source, tmp_path / "new/again.pth"))
    assert after.keys() == {"model"} and type(after["model"]) is OrderedDict
    before, after = before["model"], after["model"]
    assert after.keys() == before.keys() and (f"{UNUSED}.weight" in after) == rgb
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype and torch.equal(after[name], tensor), name
    assert str(kind).removeprefix("torch.") in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["again.pth"]


def test_the_folder_is_the_model(tables, tokenizer, tmp_path):
    source = write_checkpoint(tmp_path / "theirs.pth", tables[True], torch.bfloat16)
    convert(source, tokenizer.path.parent, tmp_path / "ours")
    model, _ = UniSign.load(tmp_path / "ours")
    expected = load_published(source)
    assert model.config == expected.config and model.config.gate == "published"
    assert all(torch.equal(model.state_dict()[name], t) for name, t in expected.state_dict().items())
    data = load_data_settings(tmp_path / "ours")
    assert (data.task, data.max_frames, data.p_samp, data.sampling) == ("slt", 256, 0.1, "published")
    assert "Uni-Sign, RGB-pose" in (tmp_path / "ours/README.md").read_text()


def test_a_trained_model_is_exported_with_an_unused_layer_of_zeros_and_the_mixture_of_its_hands(
    tables, tokenizer, tmp_path
):
    source = write_checkpoint(tmp_path / "theirs.pth", tables[True])
    model = load_published(source)
    statistics = model.pose_encoders["hand"].blocks[0].graph_norm.running_mean
    statistics[1] += 1.9
    save_model(tmp_path / "ours", model.config, model.state_dict(), tokenizer)
    export(str(tmp_path / "ours"), tmp_path / "again.pth")
    after = torch.load(tmp_path / "again.pth", weights_only=True)["model"]
    assert not after[f"{UNUSED}.weight"].any() and torch.equal(after["part_para"], tables[True]["part_para"])
    for hand in ("left", "right"):
        torch.testing.assert_close(after[f"gcn_modules.{hand}.layer0_0.gcn.bn.running_mean"], statistics[0] + 1)
    left, right = load_published(tmp_path / "again.pth").pose_encoders["hand"].blocks[0].graph_norm.running_mean
    assert torch.equal(left, right) and not torch.equal(left, statistics[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("pose_proj.bias"), ["1 entries do not fit: pose_proj.bias is missing"]),
        (lambda t: t.update(extra=torch.zeros(1)), ["extra is unknown"]),
        (
            lambda t: [t.pop("fusion_gate.0.bias"), t.update({"fusion_gate.2.weight": torch.zeros(3)})],
            ["2 entries", "fusion_gate.0.bias is missing", "fusion_gate.2.weight is (3,)"],
        ),
        (lambda t: t.pop(f"{UNUSED}.bias"), [f"{UNUSED}.bias is missing"]),
        (lambda t: t.update({"proj_linear.left.bias": torch.ones(8)}), ["proj_linear.right.bias differ"]),
    ],
)
def test_keys_that_do_not_fit_are_named_and_nothing_is_written(tables, tokenizer, tmp_path, change, words):
    table = dict(tables[True])
    change(table)
    source = write_checkpoint(tmp_path / "theirs.pth", table)
    said = refusal(convert, source, tokenizer.path, tmp_path / "ours")
    assert said.startswith(f"{source}: ") and all(word in said for word in words), said
    assert not (tmp_path / "ours").exists()


class Runs:
    """Unpickled, it would write a file."""

    def __reduce__(self):
        return Path.touch, (Path("/tmp/unpickled-and-run"),)


def test_a_pickle_that_runs_something_is_refused(tokenizer, tmp_path):
    for number, content in enumerate((pickle.dumps({"model": Runs()}, protocol=2), b"", b"not a checkpoint")):
        source = tmp_path / f"{number}.pth"
        source.write_bytes(content)
        problem = "is not a weight file" if number else "contains getattr, which cannot be loaded"
        assert f"{source}: {problem}" in refusal(convert, source, tokenizer.path, tmp_path / "ours")
    torch.save({"model": {"part_para": Runs()}}, tmp_path / "saved.pth")
    assert "contains getattr, which" in refusal(convert, tmp_path / "saved.pth", tokenizer.path, tmp_path / "ours")
    assert not Path("/tmp/unpickled-and-run").exists() and not (tmp_path / "ours").exists()


def test_other_mistakes_are_told(tables, tokenizer, tmp_path):
    source = write_checkpoint(tmp_path / "theirs.pth", tables[False])
    assert "none.pth: does not exist" in refusal(convert, tmp_path / "none.pth", tokenizer.path, tmp_path / "ours")
    assert "--out: " in refusal(convert, source, tokenizer.path, tmp_path)
    small = write_checkpoint(tmp_path / "small.pth", published_weights(POSE))
    said = refusal(convert, small, tokenizer.path, tmp_path / "ours")
    assert said.startswith("--tokenizer: ") and "only 24 embeddings" in said


def test_a_folder_that_does_not_fit_is_named(tables, tokenizer, tmp_path):
    convert(write_checkpoint(tmp_path / "theirs.pth", tables[False]), tokenizer.path, tmp_path / "ours")
    weights = load_file(tmp_path / "ours/model.safetensors")
    save_file({n: t for n, t in weights.items() if n != "part_bias"}, tmp_path / "ours/model.safetensors")
    said = refusal(export, str(tmp_path / "ours"), tmp_path / "again.pth")
    assert "ours/model.safetensors: 1 entries do not fit: part_bias is missing" in said
    config = ModelConfig.load(tmp_path / "ours/config.json")
    values = {**vars(config), "parts": "hands"}
    ModelConfig(**values).save(tmp_path / "ours/config.json")
    said = refusal(export, str(tmp_path / "ours"), tmp_path / "again.pth")
    assert "model: parts: 'hands' has no published form" in said
    assert not (tmp_path / "again.pth").exists()
