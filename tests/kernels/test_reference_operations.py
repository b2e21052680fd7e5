"""The operations' PyTorch references against restatements in loops, and the independence of `kernels`."""

import itertools
import math
import os
import pkgutil
import subprocess
import sys
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

import unisign_fast.kernels
from unisign_fast.kernels.deferred_activation.reference import DeferredActivation, deferred_activation, with_batch_stats
from unisign_fast.kernels.deformable_attention.reference import deformable_attention
from unisign_fast.kernels.deformable_offsets.reference import deformable_offsets
from unisign_fast.kernels.graph_conv.reference import graph_conv
from unisign_fast.kernels.position_bias.reference import position_bias
from unisign_fast.kernels.temporal_conv.reference import Clips, temporal_conv

ROOT = Path(__file__).resolve().parents[2]
CLIPS = [  # frames of each clip: ragged, one-frame clips, one clip shorter than the taps reach, none
    [6, 1, 9, 2], [1, 1, 1], [1], [40], [3, 0, 4], [],
]  # fmt: skip


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def random(*shape: int, grad: bool = False) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=grad)


def check_gradients(operation, *arguments) -> None:
    assert gradcheck(operation, arguments)


# --- graph convolution


@pytest.mark.parametrize("frames, joints, hops, inputs, outputs", [(4, 5, 2, 3, 6), (2, 3, 1, 4, 2), (0, 5, 2, 3, 6)])
def test_graph_conv_sums_over_hops_and_joints(frames, joints, hops, inputs, outputs):
    x, adjacency = random(frames, joints, inputs), random(hops, joints, joints)
    weight, bias = random(hops, outputs, inputs), random(hops, outputs)
    expected = torch.zeros(frames, joints, outputs, dtype=torch.float64)
    for f in range(frames):
        for to in range(joints):
            for k in range(hops):
                for source in range(joints):
                    expected[f, to] += adjacency[k, source, to] * (weight[k] @ x[f, source] + bias[k])
    torch.testing.assert_close(
        graph_conv(DeferredActivation(x), adjacency, weight, bias, None, False).out.conv_out_FVO, expected
    )


def test_graph_conv_gradients():
    shapes = (3, 4, 2), (2, 4, 4), (2, 3, 2), (2, 3)
    check_gradients(
        lambda x, *parameters: graph_conv(DeferredActivation(x), *parameters, None, False).out.conv_out_FVO,
        *(random(*shape, grad=True) for shape in shapes),
    )


def test_graph_conv_gives_its_input_computed_and_the_shortcut_with_moments():
    x = DeferredActivation(*(random(*shape) for shape in ACTIVATION[:4]))
    shapes = (2, 4, 4), (2, 5, 3), (2, 5), (5, 3), (5,)
    adjacency, weight, bias, *shortcut = (random(*shape) for shape in shapes)
    x_FVC, out, beside = graph_conv(x, adjacency, weight, bias, tuple(shortcut), True)
    assert torch.equal(x_FVC, deferred_activation(x))
    torch.testing.assert_close(
        out.conv_out_FVO, graph_conv(DeferredActivation(x_FVC), adjacency, weight, bias, None, False).out[0]
    )
    torch.testing.assert_close(beside.conv_out_FVO, x_FVC @ shortcut[0].T + shortcut[1])
    for result in (out, beside):
        torch.testing.assert_close(result.mean_O, result.conv_out_FVO.mean((0, 1)))
        torch.testing.assert_close(result.var_O, result.conv_out_FVO.var((0, 1), correction=0))


# --- activation and moments

ACTIVATION = (3, 4, 3), (3,), (3,), (3, 4, 3), (3,), (3,)  # F 3, V 4, C 3


@pytest.mark.parametrize("relu_before_residual", [False, True])
@pytest.mark.parametrize("made_of", [1, 3, 4, 6])
def test_activation_is_what_it_says(made_of, relu_before_residual):
    tensors = [random(*shape, grad=True) for shape in ACTIVATION[:made_of]]
    conv_out, scale, shift, residual, residual_scale, residual_shift = [*tensors, *[None] * (6 - made_of)]
    expected = conv_out if made_of == 1 else conv_out * scale + shift
    expected = expected.clamp(min=0) if relu_before_residual else expected
    if made_of > 3:
        expected = expected + (residual if made_of == 4 else residual * residual_scale + residual_shift)
    result = deferred_activation(DeferredActivation(*tensors, relu_before_residual=relu_before_residual))
    torch.testing.assert_close(result, conv_out if made_of == 1 else expected.clamp(min=0))
    check_gradients(
        lambda *inputs: deferred_activation(DeferredActivation(*inputs, relu_before_residual=relu_before_residual)),
        *tensors,
    )


def test_activation_is_rounded_once():
    tensors = [random(*shape).to(torch.bfloat16 if len(shape) == 3 else torch.float32) for shape in ACTIVATION]
    exact = deferred_activation(DeferredActivation(*(tensor.double() for tensor in tensors)))
    torch.testing.assert_close(deferred_activation(DeferredActivation(*tensors)), exact.bfloat16(), rtol=2**-8, atol=0)


def test_moments_and_their_gradients():
    conv_out = random(5, 3, 2, grad=True)
    check_gradients(lambda conv_out: with_batch_stats(conv_out, True)[1:], conv_out)
    assert with_batch_stats(conv_out, False)[1:] == (None, None)
    for moment in with_batch_stats(conv_out[:0], True)[1:]:
        assert torch.equal(moment, torch.zeros(2).double())


# --- temporal convolution


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("lengths", CLIPS)
def test_temporal_conv_is_a_convolution_of_each_clip_alone(lengths, kernel_size):
    joints, inputs, outputs = 3, 4, 2
    x, weight, bias = random(sum(lengths), joints, inputs), random(kernel_size, outputs, inputs), random(outputs)
    expected = []
    for clip_TVC in x.split(lengths):
        if len(clip_TVC):
            y_VOT = torch.nn.functional.conv1d(
                clip_TVC.permute(1, 2, 0), weight.permute(1, 2, 0), bias, padding=kernel_size // 2
            )
            expected.append(y_VOT.permute(2, 0, 1))
    clips = Clips.of(torch.tensor([0, *accumulate(lengths)]), sum(lengths))
    result = temporal_conv(DeferredActivation(x), clips, weight, bias, False).conv_out_FVO
    torch.testing.assert_close(result, torch.cat(expected) if expected else x.new_zeros(0, joints, outputs))


@pytest.mark.parametrize("lengths", [[4, 1, 2], []])
def test_temporal_conv_gradients(lengths):
    clips = Clips.of(torch.tensor([0, *accumulate(lengths)]), sum(lengths))
    x, weight, bias = random(sum(lengths), 2, 3, grad=True), random(5, 2, 3, grad=True), random(2, grad=True)
    if lengths:
        check_gradients(
            lambda x, *parameters: temporal_conv(DeferredActivation(x), clips, *parameters, True)[:],
            x,
            weight,
            bias,
        )
        return
    temporal_conv(DeferredActivation(x), clips, weight, bias, False).conv_out_FVO.sum().backward()
    assert x.grad.shape == x.shape and not weight.grad.any() and not bias.grad.any()


# --- keypoint offsets


def test_keypoint_offsets_look_around_each_keypoint():
    crops, joints, groups, width, reach = 2, 3, 2, 4, 0.6
    x, weight, reference = random(crops, joints, groups * width), random(groups, width, width), random(crops, joints, 2)
    scale, shift, out = random(width), random(width), random(2, width)
    query, position = deformable_offsets(x, weight, scale, shift, out, reference, reach)
    for n, v, g in itertools.product(range(crops), range(joints), range(groups)):
        own = slice(g * width, (g + 1) * width)
        torch.testing.assert_close(query[n, v, own], weight[g] @ x[n, v, own])
        hidden = torch.nn.functional.gelu(query[n, v, own] * scale + shift)
        torch.testing.assert_close(position[n, g, v], reference[n, v] + reach * torch.tanh(out @ hidden))


def test_keypoint_offsets_gradients():
    shapes = (2, 3, 4), (2, 2, 2), (2,), (2,), (2, 2), (2, 3, 2)
    check_gradients(lambda *inputs: deformable_offsets(*inputs, 0.6), *(random(*shape, grad=True) for shape in shapes))


# --- position bias


def bias_layers(hidden: int, grad: bool = False) -> list[tuple[Tensor, Tensor]]:
    sizes = [(hidden, 2), (hidden, hidden), (1, hidden)]
    return [(random(*size, grad=grad), random(size[0], grad=grad)) for size in sizes]


@pytest.mark.parametrize("crops", [2, 0])
def test_position_bias_of_every_pair(crops):
    groups, joints, layers = 3, 4, bias_layers(5)
    reference, position = random(crops, joints, 2), random(crops, groups, joints, 2)
    expected = torch.zeros(crops, groups, joints, joints, dtype=torch.float64)
    for n in range(crops):
        for g in range(groups):
            for i in range(joints):
                for j in range(joints):
                    distance = (reference[n, i] - position[n, g, j]).tolist()
                    values = [math.copysign(math.log(1 + abs(d)), d) for d in distance]
                    for number, (weight, bias) in enumerate(layers):
                        if number:
                            values = [max(0.0, value) for value in values]
                        sums = [sum(w * v for w, v in zip(row, values)) for row in weight.tolist()]
                        values = [s + b for s, b in zip(sums, bias.tolist())]
                    (expected[n, g, i, j],) = values
    torch.testing.assert_close(position_bias(reference, position, layers), expected)


def test_position_bias_gradients():
    def flat(reference, position, *weights):
        return position_bias(reference, position, list(zip(weights[::2], weights[1::2])))

    weights = [tensor for layer in bias_layers(3, grad=True) for tensor in layer]
    check_gradients(flat, random(2, 3, 2, grad=True), random(2, 2, 3, 2, grad=True), *weights)


# --- keypoint sampling


def bilinear(map_EHW: Tensor, x: float, y: float) -> Tensor:
    """The map at x, y in [-1, 1], its corners being the corners of the outer cells; zero beyond the map."""
    channels, height, width = map_EHW.shape
    column, row = ((x + 1) * width - 1) / 2, ((y + 1) * height - 1) / 2
    value = map_EHW.new_zeros(channels)
    for r in (math.floor(row), math.floor(row) + 1):
        for c in (math.floor(column), math.floor(column) + 1):
            if 0 <= r < height and 0 <= c < width:
                value += (1 - abs(row - r)) * (1 - abs(column - c)) * map_EHW[:, r, c]
    return value


def naive_keypoint_sampling(query, maps, position, key_weight, value_weight, bias) -> Tensor:
    (crops, joints, _), (groups, width, _) = query.shape, key_weight.shape
    out = torch.zeros_like(query)
    for n in range(crops):
        for g in range(groups):
            mine = slice(g * width, (g + 1) * width)
            samples = [bilinear(maps[n, mine], x, y) for x, y in position[n, g].tolist()]
            keys, values = [key_weight[g] @ s for s in samples], [value_weight[g] @ s for s in samples]
            for i in range(joints):
                scores = [query[n, i, mine] @ keys[j] / math.sqrt(width) + bias[n, g, i, j] for j in range(joints)]
                shares = torch.stack(scores).softmax(0)
                out[n, i, mine] = sum(share * value for share, value in zip(shares, values))
    return out


def sampling_inputs(crops: int, joints: int, groups: int, width: int, side: tuple[int, int], grad: bool = False):
    channels = groups * width
    return [
        random(crops, joints, channels, grad=grad),
        random(crops, channels, *side, grad=grad),
        random(crops, groups, joints, 2, grad=grad),  # a third of such coordinates is outside the map
        random(groups, width, width, grad=grad),
        random(groups, width, width, grad=grad),
        random(crops, groups, joints, joints, grad=grad),
    ]


@pytest.mark.parametrize("side", [(4, 4), (3, 5)])
@pytest.mark.parametrize("crops", [2, 0])
def test_keypoint_sampling_attends_over_bilinear_samples(crops, side):
    inputs = sampling_inputs(crops, joints=7, groups=2, width=3, side=side)
    torch.testing.assert_close(deformable_attention(*inputs), naive_keypoint_sampling(*inputs))


def test_keypoint_sampling_at_edges_and_beyond():
    corners = [(-1, -1), (1, 1), (-1.2, 0.3), (0, 1.25), (-1.5, 1.6), (1e3, 0), (0.75, -0.75)]
    inputs = sampling_inputs(1, joints=len(corners), groups=2, width=3, side=(4, 4))
    inputs[2] = torch.tensor([corners, corners[::-1]], dtype=torch.float64)[None]
    torch.testing.assert_close(deformable_attention(*inputs), naive_keypoint_sampling(*inputs))
    inputs[2] = inputs[2].sign() * 2  # all outside: nothing but zeros to see
    inputs[2][inputs[2] == 0] = 2
    assert not deformable_attention(*inputs).any()


def test_keypoint_sampling_gradients():
    inputs = sampling_inputs(2, joints=3, groups=2, width=2, side=(3, 4), grad=True)
    assert (inputs[2].abs() > 1 + 1 / 3).any(), "the test wants a position far outside"
    check_gradients(deformable_attention, *inputs)


# --- independence


def run_python(code: str) -> str:
    """Output of code run from the repository root, which is then first on sys.path."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_kernels_need_torch_alone():
    operations = [
        module.name
        for module in pkgutil.iter_modules(unisign_fast.kernels.__path__)
        if module.ispkg and module.name != "cpu"
    ]
    assert len(operations) >= 4
    imports = "\n".join(f"import unisign_fast.kernels.{name}.op" for name in operations)
    loaded = run_python(f"import sys, torch\nbefore = {{*sys.modules}}\n{imports}\nprint(*{{*sys.modules}} - before)")
    result = {name.removeprefix("unisign_fast.").partition(".")[0] for name in loaded.split()}
    assert "kernels" in result and not result & {"triton", "numba", "transformers", "pipelines", "model"}


def test_an_mt5_runs_beside_our_package_kernels():
    """transformers probes for a package of that name by another author."""
    code = """
import unisign_fast.kernels, torch, transformers
sizes = dict(vocab_size=16, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
mt5 = transformers.MT5ForConditionalGeneration(transformers.MT5Config(**sizes, decoder_start_token_id=0))
mt5(input_ids=torch.tensor([[3, 1]]), labels=torch.tensor([[4, 1]])).loss.backward()
print(mt5.generate(torch.tensor([[3, 1]]), max_new_tokens=2, num_beams=2).shape[0], unisign_fast.kernels.__file__)
"""
    assert run_python(code).split() == ["1", str(ROOT / "unisign_fast" / "kernels" / "__init__.py")]
