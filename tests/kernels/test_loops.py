"""Compiled CPU loops: exp and functions of it; batch statistics in chunks."""

import numba
import numpy as np
import pytest
import torch

from unisign_fast.kernels.cpu.loops import exp, run, sigmoid
from unisign_fast.kernels.deferred_activation.cpu_kernel import deferred_activation as on_cpu
from unisign_fast.kernels.deferred_activation.reference import (
    ROWS_AT_ONCE,
    DeferredActivation,
    deferred_activation,
    with_batch_stats,
)
from unisign_fast.kernels.temporal_conv.cpu_kernel import temporal_conv
from unisign_fast.kernels.temporal_conv.reference import Clips

NAN = float("nan")


@numba.njit(parallel=True)  # not kept on disk, where a change of exp would not be noticed
def both(x_N, exp_N, sigmoid_N):
    for n in numba.prange(len(x_N)):
        exp_N[n] = exp(x_N[n])
        sigmoid_N[n] = sigmoid(x_N[n])


def test_exp_and_sigmoid_to_a_rounding():
    x_N = np.concatenate([np.linspace(-80, 80, 100_001), [0.0, -1e-30, np.nan]]).astype(np.float32)
    exp_N, sigmoid_N = np.empty_like(x_N), np.empty_like(x_N)
    run(both, x_N, exp_N, sigmoid_N)
    exact_N = x_N.astype(np.float64)
    np.testing.assert_allclose(exp_N, np.exp(exact_N), rtol=1e-5)  # x log2 e is rounded before its whole part goes
    np.testing.assert_allclose(sigmoid_N, 1 / (1 + np.exp(-exact_N)), rtol=1e-5)
    near_N = abs(x_N) < 1
    np.testing.assert_allclose(exp_N[near_N], np.exp(exact_N[near_N]), rtol=2.5e-7)


@pytest.mark.parametrize("shape", [(0, 4), (1, 4), (3 * ROWS_AT_ONCE + 5, 64), (2, ROWS_AT_ONCE + 1)])
def test_moments_of_rows_in_several_chunks(shape):
    torch.manual_seed(0)
    rows = torch.randn(shape) * torch.rand(shape[1]) + 100
    mean, var = with_batch_stats(rows[:, None], True)[1:]
    exact = rows.double()
    if not len(rows):
        assert not mean.any() and not var.any()
        return
    torch.testing.assert_close(mean.double(), exact.mean(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(var.double(), exact.var(0, correction=0), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("relu_before_residual", [False, True])
def test_activations_of_what_is_no_number_are_none_as_in_the_reference(relu_before_residual):
    torch.manual_seed(0)
    conv_out_FVC, residual_FVC = torch.randn(2, 5, 3, 16)
    conv_out_FVC[1, 2, 3] = residual_FVC[3, 0, 5] = NAN
    tensors = [conv_out_FVC, *torch.randn(2, 16), residual_FVC, *torch.randn(2, 16)]
    tensors = [tensor.requires_grad_() for tensor in tensors]
    result, expected = (
        make(DeferredActivation(*tensors, relu_before_residual)) for make in (on_cpu, deferred_activation)
    )
    torch.testing.assert_close(result, expected, equal_nan=True)
    assert result.isnan().sum() == 2
    upstream = torch.randn(result.shape)
    pairs = zip(*(torch.autograd.grad(y, tensors, upstream) for y in (result, expected)))
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, equal_nan=True)


def test_any_number_of_threads_gives_the_same_to_the_last_bit():
    conv_out_FVC, scale_C, shift_C = torch.randn(90, 7, 96), torch.rand(96), torch.rand(96)
    clips, weight_TOC, bias_O = Clips.of(torch.tensor([0, 31, 90]), 90), torch.randn(5, 96, 96), torch.randn(96)
    leaves = [x.requires_grad_() for x in (conv_out_FVC, scale_C, shift_C, weight_TOC, bias_O)]
    result, before = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        out = temporal_conv(
            DeferredActivation(conv_out_FVC, scale_C, shift_C), clips, weight_TOC, bias_O, batch_stats=True
        )
        result.append([*out, *torch.autograd.grad(sum(x.square().sum() for x in out), leaves)])
    torch.set_num_threads(before)
    for one, two in zip(*result, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6 * one.abs().max().item())  # torch's own products


def test_nothing_is_written_to_a_copy():
    with pytest.raises(AssertionError, match="bfloat16"):
        run(both, torch.ones(4, dtype=torch.bfloat16), torch.ones(4), torch.ones(4))
    with pytest.raises(AssertionError):
        run(both, torch.ones(4), torch.ones(4, 2)[:, 0], torch.ones(4))
