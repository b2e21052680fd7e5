"""BatchNorm + SiLU + convolution: precision on a CPU, running statistics, padding, ranks, what is kept and counted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import batch_norm, silu

from unisign_fast.kernels.bn_silu import cpu_kernel, triton_stats
from unisign_fast.kernels.bn_silu.convolution import Conv, convolve, rows
from unisign_fast.kernels.bn_silu.cpu_kernel import BLOCK
from unisign_fast.kernels.bn_silu.op import bucketed_crops
from unisign_fast.kernels.bn_silu.reference import EPS, Norm, Parts
from unisign_fast.kernels.bn_silu.spec import SPEC
from unisign_fast.kernels.deferred_activation.reference import with_batch_stats
from unisign_fast.kernels.dispatch import forcing
from unisign_fast.kernels.testing import check, leaves, make_inputs, repair_interpreter, results_and_gradients

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FAST = ["gpu"] if DEVICE == "cuda" else ["gpu", "cpu"]
SHAPES = [(3, 16, 9, 7), (9, 33, 1, 1), (40, 96, 12, 12), (1, 5, BLOCK + 3, 2)]  # one block, several
TWO_HANDS = SPEC.cases[0].shape
BEFORE_CONVOLUTIONS = {  # what a CPU alone fuses: the convolution that follows, behind a gate or not
    "depthwise": TWO_HANDS | {"O": -3},
    "1x1 behind a gate": SPEC.cases[1].shape | {"E": 6, "O": 16},
    "a gate alone, behind an empty part": SPEC.cases[2].shape | {"E": 5},
}


@pytest.fixture(scope="module", autouse=True)
def interpreter() -> None:
    if DEVICE == "cpu":
        repair_interpreter()


def random_map(shape: tuple[int, ...], spread: float = 1.0) -> Tensor:
    """Channels of various means and spreads, the channels last in memory."""
    offset, scale = 3 * torch.randn(1, shape[1], 1, 1), spread * (0.1 + torch.rand(1, shape[1], 1, 1))
    return (torch.randn(shape) * scale + offset).contiguous(memory_format=torch.channels_last)


def inputs(shape: tuple[int, ...], spread: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x_NCHW, weight_C, bias_C = random_map(shape), spread * (0.5 + torch.rand(shape[1])), torch.randn(shape[1])
    return x_NCHW.requires_grad_(), weight_C.requires_grad_(), bias_C.requires_grad_()


def ours(x_NCHW: Tensor, weight_C: Tensor, bias_C: Tensor) -> Tensor:
    zeros, ones = torch.zeros_like(bias_C.detach()), torch.ones_like(bias_C.detach())
    norm = Norm(weight_C, bias_C, zeros, ones, torch.tensor(0), 0.1)
    return SPEC.operation.cpu(x_NCHW, Parts.of([len(x_NCHW)], x_NCHW), norm, True)


def distance(result: Tensor, exact: Tensor) -> float:
    return ((result - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_torch_in_float64(shape):
    tensors = inputs(shape)
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    y_NCHW, expected = ours(*tensors), silu(batch_norm(exact[0], None, None, *exact[1:], True, eps=EPS))
    assert y_NCHW.is_contiguous(memory_format=torch.channels_last) and distance(y_NCHW, expected) < 3e-6
    upstream = random_map(shape)
    result = torch.autograd.grad(y_NCHW, tensors, upstream)
    for mine, theirs in zip(result, torch.autograd.grad(expected, exact, upstream.double()), strict=True):
        assert distance(mine, theirs) < 3e-5  # mean of x: subtracting it removes nearly everything
    moments = exact[0].mean((0, 2, 3)), exact[0].var((0, 2, 3), correction=0)
    for mine, theirs in zip(with_batch_stats(rows(tensors[0])[:, None], True)[1:], moments):
        assert distance(mine, theirs) < 3e-7


def test_large_numbers_saturate_and_what_is_not_a_number_stays_so():
    x_R1 = torch.tensor([-1e4, -200.0, -88.0, -1.0, 0.0, 1.0, 88.0, 200.0, 1e30, float("nan")])[:, None]
    stats = torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0]).view(1, 5, 1)
    y_R1 = cpu_kernel.apply(x_R1, 1, stats, torch.tensor([0, len(x_R1), len(x_R1)]), True)
    torch.testing.assert_close(y_R1, silu(x_R1), rtol=3e-7, atol=1e-30, equal_nan=True)


def test_any_number_of_threads_gives_the_same_to_the_last_bit():
    result, before = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        tensors = inputs((40, 96, 12, 12))
        y_NCHW = ours(*tensors)
        result.append([y_NCHW, *torch.autograd.grad(y_NCHW.square().sum(), tensors)])
    torch.set_num_threads(before)
    assert all(map(torch.equal, *result))


def test_torch_keeps_its_number_of_threads():
    script = """if True:
        import numba, torch
        from unisign_fast.kernels.bn_silu.cpu_kernel import apply
        for _ in range(2):
            apply(torch.ones(32, 8), 16, torch.ones(1, 5, 8), torch.tensor([0, 2, 2]), True)
            print(torch.get_num_threads(), numba.get_num_threads())
    """
    one = os.environ | {"OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-c", script]
    result = subprocess.run(run, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2], env=one)
    assert result.stdout.split() == ["1"] * 4


@pytest.mark.parametrize("version", FAST)
@pytest.mark.parametrize("case", [case for case in SPEC.cases if case.shape["training"]], ids=lambda case: case.reason)
def test_running_statistics_follow_as_in_the_reference(case, version):
    """Those of an empty part, and of one with a single value, stay."""
    norms = []
    for name in ("reference", version):
        arguments = make_inputs(SPEC, case.shape, torch.float32, DEVICE)
        for _ in range(2):
            getattr(SPEC.operation, name)(*arguments)
        norms.append(arguments[2])
    for mine, expected in zip(*(norm[2:5] for norm in norms), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-6)
    assert norms[0].num_batches_tracked == 2 * sum(n > 0 for n in case.shape["parts"])


@pytest.mark.parametrize("version", ["reference", *FAST])
def test_padding_takes_no_part(version):
    """The same results and gradients with and without it; whatever it holds, it becomes zero and gets no gradient."""
    shape = SPEC.cases[1].shape | {"padding": 0}
    bare = make_inputs(SPEC, shape, torch.float32, DEVICE)
    crops, operation = len(bare[0]), getattr(SPEC.operation, version)
    x_NCHW = torch.cat([bare[0].detach(), torch.full_like(bare[0][:2].detach(), 7.0)]).requires_grad_()
    padded = x_NCHW, Parts.of(shape["parts"], x_NCHW), *make_inputs(SPEC, shape, torch.float32, DEVICE)[2:]
    y_NCHW, expected = operation(*padded), operation(*bare)
    torch.testing.assert_close(y_NCHW[:crops], expected, rtol=1e-6, atol=1e-6)
    assert not y_NCHW[crops:].any()
    upstream = torch.randn(y_NCHW.shape, generator=torch.Generator().manual_seed(3)).to(DEVICE)
    grads = torch.autograd.grad(y_NCHW, leaves(padded), upstream)
    assert not grads[0][crops:].any()
    for mine, theirs in zip(grads, torch.autograd.grad(expected, leaves(bare), upstream[:crops]), strict=True):
        torch.testing.assert_close(mine[: len(theirs)], theirs, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(padded[2][2:5], bare[2][2:5], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


def test_sums_of_two_ranks_give_the_statistics_of_all_crops():
    """The kernels of several ranks, whose one reduction is an addition here; the second rank has no left hand."""
    whole = make_inputs(SPEC, TWO_HANDS | {"parts": (2, 4)}, torch.float32, DEVICE)
    x_NCHW, parts, norm = whole[0].detach(), whole[1], whole[2]
    tensors = [tensor.detach() for tensor in norm[:5]]
    cells = x_NCHW.shape[2:].numel()

    def partial(x_NCHW: Tensor, bounds: Tensor) -> Tensor:
        return triton_stats.partial_moments(rows(x_NCHW), cells, bounds)

    moved = [tensor.clone() for tensor in tensors]
    expected = triton_stats.stats_alone(partial(x_NCHW, parts.bounds), cells, parts.bounds, *moved, norm.momentum)
    shares = [(x_NCHW[:3], (2, 1)), (x_NCHW[3:], (0, 3))]
    bounds = [Parts.of(counts, x).bounds for x, counts in shares]
    each = zip(shares, bounds)
    sums = sum(
        triton_stats.rank_sums(partial(x, rank_parts), cells, rank_parts, *tensors) for (x, _), rank_parts in each
    )
    result = triton_stats.stats_of_sums(sums, *tensors, norm.momentum)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(tensors, moved, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    assert tensors[4] == 2


@pytest.mark.skipif(DEVICE == "cuda", reason="for CPUs")
@pytest.mark.parametrize("shape", BEFORE_CONVOLUTIONS.values(), ids=BEFORE_CONVOLUTIONS)
def test_gate_and_convolution_on_a_cpu_equal_the_reference(shape):
    assert all(error <= allowed for error, allowed in check(SPEC, "cpu", shape, torch.float32, DEVICE))


def test_a_gpu_leaves_gates_and_convolutions_to_mbconv():
    *_, excitation, conv = arguments = make_inputs(
        SPEC, BEFORE_CONVOLUTIONS["1x1 behind a gate"], torch.float32, DEVICE
    )
    for refused in ((*arguments[:5], excitation), (*arguments[:5], None, conv)):
        with forcing("gpu"), pytest.raises(ValueError, match="mbconv has the excitation and the convolution"):
            SPEC.operation(*refused)


@pytest.mark.skipif(DEVICE == "cuda", reason="for CPUs")
@pytest.mark.parametrize("name", ["depthwise", "1x1 behind a gate"])
def test_what_the_convolution_read_is_recomputed_to_the_last_bit_and_not_kept(name):
    shape = BEFORE_CONVOLUTIONS[name]
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    arguments = make_inputs(SPEC, shape, torch.float32, DEVICE)
    x_NCHW, conv = arguments[0], arguments[-1]
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        result = results_and_gradients(SPEC.operation.cpu, arguments)
    size = x_NCHW.numel()
    assert [tensor.data_ptr() for tensor in kept if tensor.numel() == size] == [x_NCHW.data_ptr()]

    def in_two(*arguments):
        return convolve(SPEC.operation.cpu(*arguments[:-1]), conv)

    expected = results_and_gradients(in_two, (*make_inputs(SPEC, shape, torch.float32, DEVICE)[:-1], conv))
    assert all(map(torch.equal, result, expected))


def test_convolutions_are_torchs():
    torch.manual_seed(0)
    x_NCHW = random_map((3, 8, 5, 5)).double()
    for weight, stride, groups in ((torch.randn(6, 8, 1, 1), 1, 1), (torch.randn(8, 1, 3, 3), 2, 8)):
        conv = Conv(weight.double(), stride, groups)
        expected = torch.conv2d(x_NCHW, conv.weight, None, stride, weight.shape[-1] // 2, 1, groups)
        torch.testing.assert_close(convolve(x_NCHW, conv), expected)
        assert convolve(x_NCHW, conv).is_contiguous(memory_format=torch.channels_last)


def test_crops_fall_into_sixteen_buckets_a_doubling_on_a_gpu_only():
    like = torch.empty(0)
    assert bucketed_crops(777, like) == 777 or DEVICE == "cuda"
    with forcing("gpu"):
        sizes = [bucketed_crops(crops, like) for crops in range(4096)]
    assert sizes[:33] == list(range(33)) and sizes[777] == 800 and sizes[4095] == 4096
    assert all(crops <= size <= crops * 17 / 16 for crops, size in enumerate(sizes))
    assert len(set(sizes[2049:])) == 16
