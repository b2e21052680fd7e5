"""SiLU of a batch-normalised map on a CPU, in one pass over memory and two back, compiled by numba.

PyTorch takes three passes and five, and keeps the normalised map.

Maps lie channels last: R rows (crop, place) of C channels, in blocks of rows that fit a core's cache. Sums are taken
block by block and then over the blocks, so that they don't depend on the number of threads.
"""

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from unisign_fast.kernels.cpu.batch_stats import row_moments
from unisign_fast.kernels.cpu.exponential import ONE, sigmoid
from unisign_fast.kernels.cpu.loops import block_count, block_rows, parallel, run
from unisign_fast.model.batch_norm import EPS


class NormSiLU(Function):
    """y = silu(z), z = (x - mean) / sqrt(var + EPS) * weight + bias, with the `moments` of x itself, as in training;
    then what `norm_silu` makes y of again: scale and shift.
    """

    @staticmethod
    def forward(ctx, x_NCHW, weight_C, bias_C, mean_C, var_C):
        inverse_C = torch.rsqrt(var_C + EPS)
        scale_C = weight_C * inverse_C
        shift_C = bias_C - mean_C * scale_C
        ctx.save_for_backward(x_NCHW, scale_C, shift_C, mean_C, inverse_C)
        ctx.mark_non_differentiable(scale_C, shift_C)
        return norm_silu(x_NCHW, scale_C, shift_C), scale_C, shift_C

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y_NCHW: Tensor, *_):
        """Of the map, whose functions the moments are, and of weight and bias."""
        x_NCHW, scale_C, shift_C, mean_C, inverse_C = ctx.saved_tensors
        grad_normal_NCHW = torch.empty_like(x_NCHW)
        x_RC, grad_normal_RC = _rows(x_NCHW), _rows(grad_normal_NCHW)
        grad_y_RC = _rows(grad_y_NCHW.contiguous(memory_format=torch.channels_last))
        sums_BC, products_BC = np.zeros((2, block_count(*x_RC.shape), x_RC.shape[1]), np.float32)
        rows = block_rows(x_RC.shape[1])
        run(_normal_backward, grad_y_RC, x_RC, scale_C, shift_C, mean_C, grad_normal_RC, rows, sums_BC, products_BC)
        grad_bias_C, along_C = (
            torch.from_numpy(x_BC.sum(0, dtype=np.float64)).float() for x_BC in (sums_BC, products_BC)
        )
        grad_mean_C, slope_C = scale_C * grad_bias_C / len(x_RC), scale_C * inverse_C.square() * along_C / len(x_RC)
        run(_map_backward, grad_normal_RC, x_RC, scale_C, mean_C, grad_mean_C, slope_C)
        return grad_normal_NCHW, along_C * inverse_C, grad_bias_C, None, None


def norm_silu(x_NCHW: Tensor, scale_C: Tensor, shift_C: Tensor) -> Tensor:
    """silu(x * scale + shift), channels last in float32."""
    y_NCHW = torch.empty_like(x_NCHW)
    run(_norm_silu, _rows(x_NCHW), scale_C, shift_C, _rows(y_NCHW))
    return y_NCHW


def moments(x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance [C] of each channel of a map, channels last in float32."""
    return row_moments(_rows(x_NCHW))


def _rows(x_NCHW: Tensor) -> Tensor:
    """[R, C], the same memory."""
    return x_NCHW.movedim(1, -1).view(-1, x_NCHW.shape[1])


@parallel
def _norm_silu(x_RC, scale_C, shift_C, y_RC):
    rows, channels = x_RC.shape
    for r in numba.prange(rows):
        for c in range(channels):
            z = x_RC[r, c] * scale_C[c] + shift_C[c]
            y_RC[r, c] = z * sigmoid(z)


@parallel
def _normal_backward(grad_y_RC, x_RC, scale_C, shift_C, mean_C, grad_normal_RC, rows, sums_BC, products_BC):
    """Gradient of the normalised map z, and each block's sums of it and of its product with x - mean."""
    count, channels = sums_BC.shape
    for b in numba.prange(count):
        for r in range(b * rows, min((b + 1) * rows, len(x_RC))):
            for c in range(channels):
                z = x_RC[r, c] * scale_C[c] + shift_C[c]
                gate = sigmoid(z)
                grad_normal_RC[r, c] = grad_y_RC[r, c] * gate * (ONE + z * (ONE - gate))
            # Loops of their own: of more arrays the compiler cannot tell that they do not overlap.
            for c in range(channels):
                sums_BC[b, c] += grad_normal_RC[r, c]
            for c in range(channels):
                products_BC[b, c] += grad_normal_RC[r, c] * (x_RC[r, c] - mean_C[c])


@parallel
def _map_backward(grad_normal_RC, x_RC, scale_C, mean_C, grad_mean_C, slope_C):
    """Gradient of x in the place of the normalised map's."""
    rows, channels = x_RC.shape
    for r in numba.prange(rows):
        for c in range(channels):
            grad_normal_RC[r, c] = (
                grad_normal_RC[r, c] * scale_C[c] - grad_mean_C[c] - (x_RC[r, c] - mean_C[c]) * slope_C[c]
            )
