"""Loops that are compiled for CPUs: exp and what is made of it, batch_stats, and the softmax of attention."""

import numba
import numpy as np
import pytest
import torch

from unisign_fast.kernels.cpu.batch_stats import row_moments
from unisign_fast.kernels.cpu.exponential import exp, sigmoid
from unisign_fast.kernels.cpu.loops import BLOCK, array, run
from unisign_fast.kernels.deferred_activation.cpu_kernel import deferred_activation as on_cpu
from unisign_fast.kernels.deferred_activation.reference import DeferredActivation, deferred_activation
from unisign_fast.kernels.temporal_conv.cpu_kernel import temporal_conv
from unisign_fast.model.clip_attention import clip_attention
from unisign_fast.model.dropout import kept
from unisign_fast.model.gated_product import gated_product
from unisign_fast.model.norm_silu import norm_silu
from unisign_fast.kernels.packing import Packing

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


@pytest.mark.parametrize("shape", [(0, 4), (1, 4), (3 * BLOCK // 64 + 5, 64), (2, BLOCK + 1)])
def test_moments_of_rows_in_several_blocks(shape):
    torch.manual_seed(0)
    rows = torch.randn(shape) * torch.rand(shape[1]) + 100
    mean, var = row_moments(rows)
    exact = rows.double()
    if not len(rows):
        assert not mean.any() and not var.any()
        return
    torch.testing.assert_close(mean.double(), exact.mean(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(var.double(), exact.var(0, correction=0), rtol=1e-3, atol=1e-9)


def attended(logit_S: list[float], value_S: list[float]) -> float:
    """Of one query, whose logits these are."""
    keys = len(logit_S)
    packings = Packing([1], torch.device("cpu")), Packing([keys], torch.device("cpu"))
    bias_HST = torch.tensor(logit_S).view(1, 1, keys)
    value_PD = torch.tensor(value_S).view(keys, 1)
    return clip_attention(torch.zeros(1, 1), torch.zeros(keys, 1), value_PD, *packings, 1, bias_HST, 0.0).item()


def test_softmax_of_far_apart_logits():
    masked = torch.finfo(torch.float32).min / 2
    assert attended([500.0, masked, 500.0], [1.0, 1e38, 3.0]) == 2.0, "what is masked weighs nothing at all"
    assert attended([-1e4, -1e4 + 1], [0.0, 1.0]) == pytest.approx(1 / (1 + np.exp(-1)), rel=1e-5)
    for keys in (3, 70):
        for place in (0, keys // 2, keys - 1):
            logits = [0.1 * key for key in range(keys)]
            logits[place] = NAN
            assert np.isnan(attended(logits, [1.0] * keys)), "what is no number shows"


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
    cu_seqlens, weight_TOC, bias_O = torch.tensor([0, 31, 90]), torch.randn(5, 96, 96), torch.randn(96)
    leaves = [x.requires_grad_() for x in (conv_out_FVC, scale_C, shift_C, weight_TOC, bias_O)]
    result, before = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        out = temporal_conv(
            DeferredActivation(conv_out_FVC, scale_C, shift_C), cu_seqlens, weight_TOC, bias_O, batch_stats=True
        )
        mask, _ = kept(torch.Size([333, 1001]), 0.3)
        result.append([mask, *out, *torch.autograd.grad(sum(x.square().sum() for x in out), leaves)])
    torch.set_num_threads(before)
    for one, two in zip(*result, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6 * one.abs().max().item())  # torch's own products
    assert torch.equal(result[0][0], result[1][0])


def test_every_draw_of_dropout_is_another():
    torch.manual_seed(0)
    first, second = (kept(torch.Size([2**20]), 0.5)[0].float() for _ in range(2))
    assert abs((first * second).mean().item() - 0.25) < 3e-3


def test_bfloat16_is_computed_in_float32():
    torch.manual_seed(0)
    packing = Packing([5, 9], torch.device("cpu"))
    queries, keys, values, bias = *torch.randn(3, 14, 8), torch.randn(2, 9, 9)
    gate, up, down = *torch.randn(2, 14, 16), torch.randn(8, 16)
    for call, inputs in [
        (lambda q, k, v, b: clip_attention(q, k, v, packing, packing, 2, b, 0.0), [queries, keys, values, bias]),
        (lambda gate, up, down: gated_product(gate, up, down, 0.0), [gate, up, down]),
    ]:
        short = [x.bfloat16().requires_grad_() for x in inputs]
        exact = [x.detach().float().requires_grad_() for x in short]
        result, expected = call(*short), call(*exact)
        upstream = torch.randn(result.shape).bfloat16()
        pairs = zip(
            torch.autograd.grad(result, short, upstream), torch.autograd.grad(expected, exact, upstream.float())
        )
        for mine, theirs in [(result, expected), *pairs]:
            assert mine.dtype == torch.bfloat16 and (mine - theirs).norm() < 2e-2 * theirs.norm()


def test_nothing_is_written_to_a_copy():
    short_NCHW = torch.ones(2, 8, 4, 4, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    with pytest.raises(AssertionError, match="bfloat16"):
        norm_silu(short_NCHW, torch.ones(8), torch.ones(8))
    with pytest.raises(AssertionError):
        run(both, torch.ones(4), torch.ones(4, 2)[:, 0], torch.ones(4))
    assert array(torch.ones(4, 2)[:, 0]).flags.c_contiguous
