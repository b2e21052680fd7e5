"""BatchNorm + SiLU of channels-last maps on a CPU (float32, one rank): the passes of gpu_kernel.py as compiled loops.

PyTorch takes three passes forward and five back and keeps the normalized map.
"""

from itertools import pairwise

import numba
import numpy as np
import torch
from torch import Tensor

from ..cpu.loops import ONE, parallel, run, sigmoid
from ..deferred_activation.reference import with_batch_stats
from .reference import EPS, Norm

BLOCK = 512  # rows of a partial sum: sums do not depend on the number of threads


def batch_stats(x_RC: Tensor, cells: int, bounds: Tensor, norm: Norm) -> Tensor:
    """The `stats` [P, 5, C] of triton_tiles.py. Updates the running statistics."""
    stats = []
    for (first, end), mean_C, var_C in zip(pairwise(bounds.tolist()[:-1]), *norm.running()):
        _, batch_mean_C, batch_var_C = with_batch_stats(x_RC[first * cells : end * cells, None], True)
        assert batch_mean_C is not None and batch_var_C is not None
        count = (end - first) * cells
        if count > 1:
            mean_C.lerp_(batch_mean_C, norm.momentum)
            var_C.lerp_(batch_var_C * (count / (count - 1)), norm.momentum)
        rstd_C = torch.rsqrt(batch_var_C + EPS)
        scale_C = norm.weight_C * rstd_C
        shift_C, per_value_C = norm.bias_C - batch_mean_C * scale_C, torch.full_like(rstd_C, 1 / max(1, count))
        stats.append(torch.stack([batch_mean_C, rstd_C, scale_C, shift_C, per_value_C]))
        norm.num_batches_tracked.add_(end > first)
    return torch.stack(stats)


def apply(x_RC: Tensor, cells: int, stats: Tensor, bounds: Tensor, activate: bool, *gate: Tensor) -> Tensor:
    """y [R, C] = silu(scale * x + shift), times the gate [N, C] if there is one."""
    y_RC = torch.empty_like(x_RC)
    for part, (first, end) in enumerate(pairwise(bounds.tolist()[:-1])):
        at = slice(first * cells, end * cells)
        run(_apply, x_RC[at], *stats[part, 2:4], gate[0][first:end] if gate else None, cells, y_RC[at])
    y_RC[int(bounds[-2]) * cells :] = 0
    return y_RC


def mean(x_RC: Tensor, cells: int, stats: Tensor, bounds: Tensor, grad_RC: Tensor | None = None) -> Tensor:
    """[N, C]: the means of the activated map, or the sums of its products with `grad_RC`."""
    y_RC = apply(x_RC, cells, stats, bounds, True)
    y_RC = y_RC if grad_RC is None else y_RC.mul_(grad_RC)
    return y_RC.view(-1, cells, y_RC.shape[1]).sum(1) / (cells if grad_RC is None else 1)


def backward(
    grad_RC: Tensor, x_RC: Tensor, cells: int, stats: Tensor, bounds: Tensor, activate: bool, weight_C: Tensor,
    training: bool, *gate: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, weight and bias. gate: none, or the gate [N, C] and the gradient of the activated map's mean."""
    grad_x_RC = torch.zeros_like(x_RC)
    grad_norm_2C = torch.zeros(2, x_RC.shape[1])
    for part, (first, end) in enumerate(pairwise(bounds.tolist()[:-1])):
        at = slice(first * cells, end * cells)
        mean_C, rstd_C, scale_C, shift_C, per_value_C = stats[part]
        gates = [gate[0][first:end], gate[1][first:end] / cells] if gate else [None, None]
        sums_BC, products_BC = np.zeros((2, -(-len(x_RC[at]) // BLOCK), x_RC.shape[1]), np.float32)
        values = grad_RC[at], x_RC[at], scale_C, shift_C, mean_C, *gates, cells
        run(_normal_backward, *values, grad_x_RC[at], BLOCK, sums_BC, products_BC)
        sum_C, product_C = (torch.from_numpy(x.sum(0, dtype=np.float64)).float() for x in (sums_BC, products_BC))
        slope_C = rstd_C.square() * product_C * per_value_C
        run(_map_backward, grad_x_RC[at], x_RC[at], scale_C, mean_C, sum_C * per_value_C, slope_C)
        grad_norm_2C += torch.stack([product_C * rstd_C, sum_C])
    return grad_x_RC, *grad_norm_2C


@parallel
def _apply(x_RC, scale_C, shift_C, gate_NC, cells, y_RC):
    rows, channels = x_RC.shape
    for r in numba.prange(rows):
        for c in range(channels):
            z = x_RC[r, c] * scale_C[c] + shift_C[c]
            y_RC[r, c] = z * sigmoid(z)
        if gate_NC is not None:
            for c in range(channels):
                y_RC[r, c] *= gate_NC[r // cells, c]


@parallel
def _normal_backward(
    grad_RC, x_RC, scale_C, shift_C, mean_C, gate_NC, grad_mean_NC, cells, grad_z_RC, rows, sums_BC, products_BC
):
    """Gradient of z = scale * x + shift, and each block's sums of it and of its product with x - mean."""
    count, channels = sums_BC.shape
    for b in numba.prange(count):
        for r in range(b * rows, min((b + 1) * rows, len(x_RC))):
            for c in range(channels):
                grad = grad_RC[r, c]
                if gate_NC is not None:
                    grad = grad * gate_NC[r // cells, c] + grad_mean_NC[r // cells, c]
                z = x_RC[r, c] * scale_C[c] + shift_C[c]
                gate = sigmoid(z)
                grad_z_RC[r, c] = grad * gate * (ONE + z * (ONE - gate))
            # Separate loops: with more arrays in one, the compiler cannot tell that they do not overlap.
            for c in range(channels):
                sums_BC[b, c] += grad_z_RC[r, c]
            for c in range(channels):
                products_BC[b, c] += grad_z_RC[r, c] * (x_RC[r, c] - mean_C[c])


@parallel
def _map_backward(grad_z_RC, x_RC, scale_C, mean_C, grad_mean_C, slope_C):
    """Gradient of x, written over that of z."""
    rows, channels = x_RC.shape
    for r in numba.prange(rows):
        for c in range(channels):
            slope = (x_RC[r, c] - mean_C[c]) * slope_C[c]
            grad_z_RC[r, c] = (grad_z_RC[r, c] - grad_mean_C[c] - slope) * scale_C[c]
