"""Loops that are compiled for CPUs: exp and what is made of it, moments, and the softmax of attention."""

import numba
import numpy as np
import pytest
import torch

from kernels.exponential import exp, sigmoid
from kernels.loops import BLOCK, parallel, run
from kernels.moments import block_moments, merged
from unisign_fast.clip_attention import clip_attention
from unisign_fast.packing import Packing


@parallel
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
def test_moments_of_rows_in_several_pieces(shape):
    torch.manual_seed(0)
    rows = torch.randn(shape) * torch.rand(shape[1]) + 100
    pieces = rows.split(max(1, len(rows) // 3))
    mean, var = merged([block_moments(piece) for piece in pieces])
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
    for place in range(3):
        logits = [0.0, 1.0, 2.0]
        logits[place] = float("nan")
        assert np.isnan(attended(logits, [1.0, 1.0, 1.0])), "what is no number shows"
