"""SiLU of a batch-normalised map, compiled for CPUs, is PyTorch's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import batch_norm, silu

from unisign_fast.kernels.cpu.loops import BLOCK
from unisign_fast.model.batch_norm import EPS, BatchNorm2d
from unisign_fast.model.norm_silu import NormSiLU, moments, norm_silu
from unisign_fast.model.remade import Remade, normalized_silu

SHAPES = [(3, 16, 9, 7), (9, 33, 1, 1), (40, 96, 12, 12), (1, BLOCK + 3, 2, 2)]  # one block, several; a row is more


def random_map(shape: tuple[int, ...], spread: float = 1.0) -> Tensor:
    """Channels of various means and spreads, the channels last in memory."""
    offset, scale = 3 * torch.randn(1, shape[1], 1, 1), spread * (0.1 + torch.rand(1, shape[1], 1, 1))
    return (torch.randn(shape) * scale + offset).contiguous(memory_format=torch.channels_last)


def inputs(shape: tuple[int, ...], spread: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x_NCHW, weight_C, bias_C = random_map(shape), spread * (0.5 + torch.rand(shape[1])), torch.randn(shape[1])
    return x_NCHW.requires_grad_(), weight_C.requires_grad_(), bias_C.requires_grad_()


def ours(x_NCHW: Tensor, weight_C: Tensor, bias_C: Tensor) -> Tensor:
    return NormSiLU.apply(x_NCHW, weight_C, bias_C, *moments(x_NCHW))[0]


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
        assert distance(mine, theirs) < 3e-5  # of x: what the moments take away is nearly everything
    for mine, theirs in zip(moments(tensors[0]), (exact[0].mean((0, 2, 3)), exact[0].var((0, 2, 3), correction=0))):
        assert distance(mine, theirs) < 3e-7


def test_large_numbers_saturate_and_what_is_not_a_number_stays_so():
    x_NCHW = torch.tensor([-1e4, -200.0, -88.0, -1.0, 0.0, 1.0, 88.0, 200.0, 1e30, float("nan")]).view(1, 1, 1, -1)
    one_C = torch.ones(1)
    y_NCHW = norm_silu(x_NCHW.contiguous(memory_format=torch.channels_last), one_C, 0 * one_C)
    torch.testing.assert_close(y_NCHW, silu(x_NCHW), rtol=3e-7, atol=1e-30, equal_nan=True)


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
        from unisign_fast.model.norm_silu import norm_silu
        x_NCHW = torch.ones(2, 8, 4, 4).contiguous(memory_format=torch.channels_last)
        for _ in range(2):
            norm_silu(x_NCHW, torch.ones(8), torch.ones(8))
            print(torch.get_num_threads(), numba.get_num_threads())
    """
    one = os.environ | {"OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-c", script]
    result = subprocess.run(run, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2], env=one)
    assert result.stdout.split() == ["1"] * 4


@pytest.mark.parametrize("part", [0, 1])
def test_running_statistics_follow_as_in_torchs_way(part):
    torch.manual_seed(0)
    fast, plain = BatchNorm2d(16, parts=2), BatchNorm2d(16, parts=2)
    x_NCHW = random_map((6, 16, 5, 5)).requires_grad_()
    per_part = [0, 0]
    per_part[part] = len(x_NCHW)
    y = normalized_silu(fast, x_NCHW, per_part)
    assert isinstance(y, Remade) and torch.equal(y.make(), y.tensor)
    torch.testing.assert_close(y.tensor, silu(plain(x_NCHW, per_part)), rtol=1e-5, atol=1e-5)  # torch errs
    for mine, theirs in zip(fast.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
