"""Released checkpoints load strictly, both ways, and the published numbers come out of them."""

import copy
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from published_case import Difference, compare
from torch import Tensor

from benchmarks.baseline.restatement import make_case
from unisign_fast.model.config import ModelConfig, MT5Shape, published_settings
from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.errors import InputError
from unisign_fast.published.convert import load_published, model_from_published, to_published

ROOT = Path(__file__).resolve().parents[2]
SHAPE = MT5Shape(
    vocab_size=24, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=2, num_heads=4, dropout_rate=0.0
)
POSE = published_settings(ModelConfig(mt5=SHAPE, pose_channels=(8, 8, 16, 32)))
RGB = replace(POSE, rgb=True)


def published_weights(config: ModelConfig) -> dict[str, Tensor]:
    """The published table of a model in which nothing is zero, one, or equal by accident."""
    torch.manual_seed(5)
    model = UniSign(config)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "running_mean" in name or name.endswith(("norm.bias", "part_bias", ".1.bias")):
                tensor.normal_(0, 0.1)
            elif "running_var" in name or name.endswith(("norm.weight", ".1.weight")):
                tensor.uniform_(0.7, 1.3)
            elif ".gate." in name:
                tensor.normal_(0.05, 0.2)
    return {name: tensor.clone() for name, tensor in to_published(model).items()}


@pytest.fixture(scope="module")
def pose_weights() -> dict[str, Tensor]:
    return published_weights(POSE)


@pytest.fixture(scope="module")
def rgb_weights() -> dict[str, Tensor]:
    return published_weights(RGB)


@pytest.fixture(scope="module")
def pose_case(pose_weights) -> dict:
    return make_case(pose_weights, asdict(SHAPE), [9, 9, 9], rgb=False)


def stages(case: dict) -> dict[str, Difference]:
    model = model_from_published(case["state_dict"], "case", dropout_rate=0.0)
    return {difference.stage: difference for difference in compare(case, model)}


def run_command(content: object, path: Path) -> subprocess.CompletedProcess:
    torch.save(content, path)
    command = [sys.executable, "tests/parity/compare.py", str(path)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize("rgb", [False, True])
def test_base_model_has_the_released_files_keys_and_shapes(rgb):
    with torch.device("meta"):
        table = to_published(UniSign(published_settings(ModelConfig(rgb=rgb))))
    assert len(table) == (1012 if rgb else 627)
    shapes = {name: tuple(tensor.shape) for name, tensor in table.items()}
    expected = {
        "part_para": (1024,),
        "proj_linear.face_all.weight": (64, 3),
        "gcn_modules.left.layer1_0.gcn.A": (2, 21, 21),
        "gcn_modules.right.layer1_0.gcn.conv.weight": (256, 64, 1, 1),
        "gcn_modules.body.layer2_0.residual.0.weight": (256, 128, 1, 1),
        "gcn_modules.body.layer2_0.residual.1.running_var": (256,),
        "fusion_gcn_modules.face_all.layer0_2.gcn.conv.bias": (512,),
        "fusion_gcn_modules.body.layer0_0.tcn.0.weight": (256, 256, 5, 1),
        "pose_proj.weight": (768, 1024),
        "mt5_model.lm_head.weight": (250112, 768),
    }
    if rgb:
        expected |= {
            "rgb_support_backbone.0.8.0.weight": (1280, 320, 1, 1),
            "rgb_proj.weight": (256, 1280, 1, 1),
            "fusion_pose_rgb_linear.weight": (256, 256),
            "fusion_pose_rgb_DA.cross_attn.in_proj_weight": (768, 256),
            "fusion_pose_rgb_DA.cross_attn.in_proj_bias": (768,),
            "fusion_pose_rgb_DA.to_q.weight": (256, 32, 1),
            "fusion_pose_rgb_DA.to_v.weight": (256, 32, 1, 1),
            "fusion_pose_rgb_DA.to_offsets.0.weight": (32, 1, 1),
            "fusion_pose_rgb_DA.to_offsets.2.weight": (2, 32, 1),
            "fusion_pose_rgb_DA.rel_pos_bias.mlp.1.0.weight": (64, 64),
            "fusion_pose_rgb_DA.rel_pos_bias.mlp.2.weight": (1, 64),
            "fusion_pose_rgb_DA.pe_layer.positional_encoding_gaussian_matrix": (2, 128),
            "fusion_gate.0.weight": (256, 512, 1),
            "fusion_gate.2.bias": (1,),
        }
    assert {name: shapes.get(name) for name in expected} == expected


def test_a_released_file_survives_the_round_trip(rgb_weights, tmp_path):
    path = tmp_path / "released.pth"
    torch.save({"model": rgb_weights}, path)
    model = load_published(path)
    assert model.config == replace(RGB, mt5=replace(SHAPE, dropout_rate=0.1))
    again = to_published(model)
    assert again.keys() == rgb_weights.keys()
    assert all(torch.equal(again[name], weight) for name, weight in rgb_weights.items())


def test_bfloat16_weights_load_as_float32(pose_weights, tmp_path):
    path = tmp_path / "released.pth"
    torch.save({"model": {n: w.bfloat16() if w.is_floating_point() else w for n, w in pose_weights.items()}}, path)
    model = load_published(path)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.part_bias, pose_weights["part_para"].bfloat16().float())


@pytest.mark.parametrize("change, problem", [
    (lambda w: w.pop("pose_proj.bias"), "pose_proj.bias is missing"),
    (lambda w: w.update(extra=torch.zeros(1)), "extra is unknown"),
    (lambda w: w.update(part_para=torch.zeros(7)), r"part_para is \(7,\) instead of \(128,\)"),
    (lambda w: w.pop("proj_linear.body.weight"), "no entry proj_linear.body.weight"),
    (lambda w: w.update({"proj_linear.left.bias": torch.ones(8)}), "proj_linear.left.bias and proj_linear.right.bias"),
    (lambda w: w.update({"mt5_model.decoder.embed_tokens.weight": torch.ones(24, 32)}), "shared.weight differ"),
])  # fmt: skip
def test_a_file_that_does_not_fit_is_refused_by_name(pose_weights, tmp_path, change, problem):
    path, weights = tmp_path / "released.pth", dict(pose_weights)
    change(weights)
    torch.save({"model": weights}, path)
    with pytest.raises(InputError, match=problem) as error:
        load_published(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_model_that_the_published_code_does_not_know_is_not_exported():
    with pytest.raises(InputError, match="model: gate: 'live' has no published form"):
        to_published(UniSign(replace(RGB, gate="live")))
    with pytest.raises(InputError, match="model: parts"):
        to_published(UniSign(replace(POSE, parts="hands,body")))


@pytest.mark.parametrize("rgb", [False, True])
@pytest.mark.parametrize("lengths", [[11, 11, 11], [16, 8, 11]])
def test_equals_the_published_rules(pose_weights, rgb_weights, rgb, lengths):
    result = stages(make_case(rgb_weights if rgb else pose_weights, asdict(SHAPE), lengths, rgb))
    assert [str(difference) for difference in result.values() if not difference.within] == []
    assert {"eval temporal/face_all", "eval embeddings", "eval loss", "eval generated tokens"} <= result.keys()
    assert ("eval gate" in result) == rgb
    equal = len(set(lengths)) == 1
    assert ("train gradient gcn_modules.left.layer0_0.gcn.A" in result) == equal
    assert ("train gradient rgb_support_backbone.0.0.0.weight" in result) == (equal and rgb)


@pytest.mark.parametrize("change, stage", [
    (lambda c: c["eval"]["features"]["spatial/right"].mul_(1.0001), "eval spatial/right"),
    (lambda c: c["eval"]["loss"].add_(1e-3), "eval loss"),
    (lambda c: c["generated"][1].fill_(5), "eval generated tokens"),
    (lambda c: c["train"]["grad"]["pose_proj.weight"][0].mul_(1.1), "train gradient pose_proj.weight"),
    (lambda c: c["train"]["grad"].update(other=torch.ones(2)), "train gradient other"),
    (lambda c: c["train"]["bn_after"]["gcn_modules.body.layer0_0.gcn.bn.running_var"].mul_(1.001),
     "train gcn_modules.body.layer0_0.gcn.bn.running_var"),
    (lambda c: c["eval"]["inputs_embeds"][0, 0].fill_(float("nan")), "eval embeddings"),
])  # fmt: skip
def test_a_deviation_is_found(pose_case, change, stage):
    case = copy.deepcopy(pose_case)
    change(case)
    assert [name for name, difference in stages(case).items() if not difference.within] == [stage]


def test_crops_that_no_stochastic_depth_explains_are_refused(rgb_weights):
    case = make_case(rgb_weights, asdict(SHAPE), [4, 4], rgb=True)
    case["train"]["bn_after"]["rgb_support_backbone.0.4.0.block.0.1.running_var"] *= 1.5
    with pytest.raises(InputError, match="which crops stochastic depth dropped"):
        stages(case)


def test_the_command_prints_every_stage_and_tells_by_its_exit_status(pose_case, tmp_path):
    same = run_command(pose_case, tmp_path / "same.pt")
    assert same.returncode == 0, same.stderr
    assert "eval spatial/left" in same.stdout and "train gradient mt5_model.lm_head.weight" in same.stdout
    other = copy.deepcopy(pose_case)
    other["state_dict"]["pose_proj.bias"][0] += 0.1
    assert run_command(other, tmp_path / "other.pt").returncode == 1
    wrong = run_command({"model": pose_case["state_dict"]}, tmp_path / "wrong.pt")
    assert wrong.returncode == 2 and "not a dumped case" in wrong.stderr and len(wrong.stderr.splitlines()) == 1
