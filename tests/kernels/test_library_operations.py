"""Operations whose GPU backend is a library's, dropout, and attention: what `test_kernels.py` does not ask of all."""

import numpy as np
import pytest
import torch

from unisign_fast.kernels import dispatch
from unisign_fast.kernels.dropout.op import dropout, dropout_seeds
from unisign_fast.kernels.geglu.op import geglu
from unisign_fast.kernels.launch import compiling_for
from unisign_fast.kernels.packing import Packing
from unisign_fast.kernels.registry import LIBRARY_SPECS, SPECS
from unisign_fast.kernels.residual_rms_norm.op import residual_rms_norm
from unisign_fast.kernels.spec import KernelSpec
from unisign_fast.kernels.testing import check, make_inputs, repair_interpreter, results_and_gradients
from unisign_fast.kernels.varlen_attention.op import varlen_attention
from unisign_fast.kernels.varlen_attention.reference import padded_heads, split_heads

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BACKENDS = [(spec, name) for spec in LIBRARY_SPECS for name in ("gpu", "cpu") if getattr(spec.operation, name)]
CASES = [(*one, case) for one in BACKENDS for case in one[0].cases]
IDS = [f"{spec.name}-{backend}-{case.reason}" for spec, backend, case in CASES]


@pytest.fixture(scope="module", autouse=True)
def interpreter() -> None:
    if DEVICE == "cpu":
        repair_interpreter()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("spec, backend, case", CASES, ids=IDS)
def test_each_backend_equals_the_reference(spec: KernelSpec, backend, case, dtype):
    if backend == "cpu" and DEVICE == "cuda":
        pytest.skip("for CPUs")
    rows = check(spec, backend, case.shape, dtype, DEVICE)
    assert [(error, allowed) for error, allowed in rows if not error <= allowed] == []


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("spec", LIBRARY_SPECS, ids=lambda spec: spec.name)
def test_the_gpu_backend_equals_the_reference_at_training_size(spec: KernelSpec, dtype):
    for case in spec.training:
        rows = check(spec, "gpu", case.shape, dtype, DEVICE)
        assert [(error, allowed) for error, allowed in rows if not error <= allowed] == [], case.reason


@pytest.mark.parametrize("spec", LIBRARY_SPECS, ids=lambda spec: spec.name)
def test_meta_tensors_take_the_gpu_path(spec: KernelSpec):
    """Forward and backward: the reference's shapes and types."""
    for case in spec.training:
        inputs = make_inputs(spec, case.shape, torch.bfloat16, "meta")
        expected = results_and_gradients(spec.operation.reference, inputs)
        with dispatch.as_device("cuda"):
            assert spec.operation.backend(*inputs) == "gpu"
            result = results_and_gradients(spec.operation, inputs)
        assert [(y.shape, y.dtype) for y in result] == [(y.shape, y.dtype) for y in expected]


def _shares(operation, p: float) -> None:
    torch.manual_seed(0)
    x = torch.full((333, 1001), 2.0, requires_grad=True)
    y = operation(x, p)
    y.sum().backward()
    share = (y > 0).float().mean().item()
    assert share == pytest.approx(1 - p, abs=4e-3) and y.mean().item() == pytest.approx(2.0 * (p < 1), abs=0.03)
    assert torch.equal(2 * x.grad, y.detach()), "the gradient passes where the value did"
    torch.manual_seed(0)
    assert torch.equal(operation(x, p), y), "follows from torch's seed"
    assert not torch.equal(operation(x, p), y) or p == 1, "every draw differs"


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("p", [0.1, 0.73, 1.0])
def test_dropout_keeps_its_share_and_the_mean(p, backend):
    _shares(getattr(dropout, backend), p)


def test_dropout_of_neighbors_is_independent():
    torch.manual_seed(0)
    mask = (dropout.cpu(torch.ones(2**20), 0.5) > 0).float()
    for apart in (1, 2, 3, 4):
        assert abs((mask[apart:] * mask[:-apart]).mean().item() - 0.25) < 3e-3


@pytest.mark.parametrize("backend", ["gpu", "cpu"])
def test_the_gate_drops_its_share_and_the_gradient_passes_where_the_value_did(backend):
    torch.manual_seed(0)
    x = torch.randn(20, 2 * 1000, device=DEVICE if backend == "gpu" else "cpu").requires_grad_()
    whole = geglu.reference(x, 0.0, None)
    y = getattr(geglu, backend)(x, 0.3, torch.tensor([5], device=x.device) if backend == "gpu" else None)
    (grad,) = torch.autograd.grad(y.sum(), x)
    (grad_whole,) = torch.autograd.grad((whole * (y != 0) / 0.7).sum(), x)
    assert (y != 0).float().mean().item() == pytest.approx(0.7, abs=0.02)
    torch.testing.assert_close(y, whole * (y != 0) / 0.7, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(grad, grad_whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["gpu", "cpu"])
def test_the_residual_drops_its_share_and_the_gradient_passes_where_the_value_did(backend):
    torch.manual_seed(0)
    device = DEVICE if backend == "gpu" else "cpu"
    x, branch, scale = torch.zeros(60, 768, device=device), torch.ones(60, 768, device=device), torch.ones(768)
    branch.requires_grad_()
    seeds = [torch.tensor([seed], device=device) if backend == "gpu" else None for seed in (5, 5, 6)]
    z, again, other = (
        getattr(residual_rms_norm, backend)(x, branch, scale.to(device), 1e-6, 0.3, seed)[0] for seed in seeds
    )
    (grad,) = torch.autograd.grad(z.sum(), branch)
    torch.testing.assert_close(z, (z != 0) / 0.7)
    assert torch.equal(grad, z), "the same mask both ways"
    assert (z != 0).float().mean().item() == pytest.approx(0.7, abs=0.01)
    assert ((z != 0) & (other != 0)).float().mean().item() == pytest.approx(0.49, abs=0.01), "independent of the seed"
    if backend == "gpu":
        assert torch.equal(z, again), "follows from the seed"
    for apart in (1, 2, 3, 4, 768):
        both = (z.flatten()[apart:] != 0) & (z.flatten()[:-apart] != 0)
        assert both.float().mean().item() == pytest.approx(0.49, abs=0.01), "neighbors are independent"


def test_seeds_are_drawn_for_a_gpu_only():
    assert dropout_seeds(2, torch.empty(1)) == [None, None]
    with dispatch.forcing("gpu"):
        one, other = dropout_seeds(2, torch.empty(1))
    assert one.shape == other.shape == (1,) and one.dtype == torch.int64 and one != other


def attended(logit_S: list[float], value_S: list[float], backend: str) -> float:
    """Attention of one query with these logits."""
    keys, device = len(logit_S), DEVICE if backend == "gpu" else "cpu"
    packings = Packing([1], torch.device(device)), Packing([keys], torch.device(device))
    projected = torch.zeros(1, 1, device=device), torch.tensor([[0.0, value] for value in value_S], device=device)
    bias = torch.tensor(logit_S, device=device).view(1, 1, keys)
    return getattr(varlen_attention, backend)(projected, bias, *packings, 1, False, 0.0, None).item()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, about the infinities and NaN that are asked for
@pytest.mark.parametrize("backend", ["gpu", "cpu"])
def test_softmax_of_far_apart_logits(backend):
    masked = torch.finfo(torch.float32).min / 2
    assert attended([500.0, masked, 500.0], [1.0, 1e38, 3.0], backend) == 2.0, "what is masked weighs nothing at all"
    never = float("-inf")
    assert attended([never] * 64 + [0.0, never], [1.0] * 64 + [3.0, 1.0], backend) == 3.0, "a tile that weighs nothing"
    assert np.isnan(attended([never] * 70, [1.0] * 70, backend)), "nothing to attend to"
    assert attended([-1e4, -1e4 + 1], [0.0, 1.0], backend) == pytest.approx(1 / (1 + np.exp(-1)), rel=1e-5)
    for keys in (3, 70):
        for place in (0, keys // 2, keys - 1):
            logits = [0.1 * key for key in range(keys)]
            logits[place] = float("nan")
            assert np.isnan(attended(logits, [1.0] * keys, backend)), "what is no number shows"


def test_attention_on_a_cpu_drops_weights_and_recomputes_the_same():
    """One sequence after the other, with the masks that dropout draws for each in turn."""
    torch.manual_seed(0)
    queries, keys, p = Packing([3, 1, 5], torch.device("cpu")), Packing([4, 6, 2], torch.device("cpu")), 0.3
    inputs = [torch.randn(9, 8, requires_grad=True), torch.randn(12, 16, requires_grad=True)]
    bias = torch.randn(2, 5, 6, requires_grad=True)
    torch.manual_seed(1)
    result = varlen_attention.cpu(tuple(inputs), bias, queries, keys, 2, False, p, None)
    torch.manual_seed(1)
    expected = []
    for query, key_value in zip(inputs[0].split(queries.lengths), inputs[1].split(keys.lengths)):
        one, other, third = (x.unflatten(1, (2, 4)).transpose(0, 1) for x in (query, *key_value.chunk(2, 1)))
        weights = (one @ other.mT + bias[:, : one.shape[1], : other.shape[1]]).softmax(-1)
        expected.append((dropout.cpu(weights, p) @ third).transpose(0, 1).flatten(1))
    torch.testing.assert_close(result, torch.cat(expected), rtol=1e-5, atol=1e-6)
    upstream = torch.randn(result.shape)
    pairs = (torch.autograd.grad(y, [*inputs, bias], upstream) for y in (result, torch.cat(expected)))
    for mine, plain in zip(*pairs):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-5)


def test_attention_ignores_the_bias_beyond_the_longest_sequence():
    packing = Packing([5, 3], torch.device(DEVICE))
    qkv, bias = torch.randn(8, 3 * 2 * 8), torch.randn(2, 5, 5)
    padded = torch.full((2, 64, 64), torch.nan)
    padded[:, :5, :5] = bias
    qkv, bias, padded = (x.to(DEVICE).requires_grad_() for x in (qkv, bias, padded))
    runs = []
    for one in (bias, padded):
        result = varlen_attention.gpu((qkv,), one, packing, packing, 2, False, 0.0, None)
        runs.append([result, *torch.autograd.grad(result.square().sum(), [qkv, one])])
    runs[0][2] = torch.nn.functional.pad(runs[0][2], (0, 59, 0, 59))
    assert all(map(torch.equal, *runs))


@pytest.mark.skipif(DEVICE == "cuda", reason="the tiles are those of the GPU")
def test_attention_with_the_tiles_of_another_gpu():
    """Backward passes write and read the gradient of the logits in tiles of different sizes."""
    spec = next(spec for spec in SPECS if spec.operation is varlen_attention)
    causal = next(case for case in spec.cases if case.shape.get("causal"))
    with compiling_for(80):
        rows = check(spec, "gpu", causal.shape, torch.bfloat16, DEVICE)
    assert [(error, allowed) for error, allowed in rows if not error <= allowed] == []


def test_attention_on_a_gpu_drops_its_share_and_redraws_the_same_mask():
    """The mask is read off from uniform weights and values that are unit vectors; then results and gradients of other
    inputs are those that autograd gives with that mask.
    """
    lengths, heads, p = [100, 3, 70], 2, 0.3
    packing, rows, width = Packing(lengths, torch.device(DEVICE)), sum(lengths), max(lengths)

    def attend(qkv, bias, seed: int) -> torch.Tensor:
        seeds = torch.tensor([seed], device=DEVICE)
        return varlen_attention.gpu((qkv,), bias, packing, packing, heads, False, p, seeds)

    values = torch.eye(width, device=DEVICE)[packing.position_P]
    qkv = torch.cat([torch.zeros(rows, 2 * heads * width, device=DEVICE), values, values], 1)
    mask, again, other = (packing.pad(attend(qkv, None, seed) != 0) for seed in (5, 5, 6))
    assert torch.equal(mask, again), "follows from the seed"
    mask_BHSS, other_BHSS = (split_heads(x, heads).float() for x in (mask, other))
    real = (packing.mask_BS[:, None, :, None] & packing.mask_BS[:, None, None, :]).expand_as(mask_BHSS)
    assert mask_BHSS[real].mean().item() == pytest.approx(0.7, abs=0.01)
    assert (mask_BHSS * other_BHSS)[real].mean().item() == pytest.approx(0.49, abs=0.01), "independent of the seed"
    for axis in (1, 2, 3):
        both = (mask_BHSS * mask_BHSS.roll(1, axis))[0]
        assert both.mean().item() == pytest.approx(0.49, abs=0.02), "neighbors are independent"

    generator = torch.Generator().manual_seed(0)
    qkv, bias = torch.randn(rows, 3 * heads * 16, generator=generator), torch.randn(heads, width, width)
    qkv, bias = (x.to(DEVICE).requires_grad_() for x in (qkv, bias))
    query, key, value = padded_heads([packing.pad(qkv)], heads)
    logits = (query @ key.mT + bias).masked_fill(~packing.mask_BS[:, None, None], -torch.inf)
    expected = packing.pack(((logits.softmax(-1) * mask_BHSS / 0.7) @ value).transpose(1, 2).flatten(2))
    result, upstream = attend(qkv, bias, 5), torch.randn_like(expected)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
    for ours, plain in zip(*(torch.autograd.grad(y, [qkv, bias], upstream) for y in (result, expected))):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
