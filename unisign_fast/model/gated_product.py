"""What mT5's gated feed-forward does behind its gate and its way up, on a CPU, keeping nothing in between.

The backward pass computes the gate and dropout again, which costs less than a way to memory.

R rows; M model width, F that of the feed-forward.
"""

import math

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from unisign_fast.kernels.cpu.exponential import ONE, sigmoid
from unisign_fast.kernels.cpu.loops import array, parallel, run
from unisign_fast.model.dropout import drop, kept

SLOPE, CUBIC = map(np.float32, (math.sqrt(8 / math.pi), 0.044715 * math.sqrt(8 / math.pi)))
THREE = np.float32(3)


def gated_product(gate_RF: Tensor, up_RF: Tensor, down_MF: Tensor, p: float) -> Tensor:
    """[R, M]: (gelu(gate) * up) down^T, with dropout `p` before the product; gelu by its tanh form, in float32."""
    assert gate_RF.shape == up_RF.shape, (gate_RF.shape, up_RF.shape)
    return _GatedProduct.apply(gate_RF, up_RF, down_MF, p)


class _GatedProduct(Function):
    @staticmethod
    def forward(ctx, gate_RF, up_RF, down_MF, p: float):
        mask_RF, ctx.scale = kept(gate_RF.shape, p) if p else (None, 1.0)
        gated_RF = torch.empty(gate_RF.shape)
        run(_gated, array(gate_RF), array(up_RF), mask_RF, ctx.scale, gated_RF)
        ctx.save_for_backward(gate_RF, up_RF, down_MF, mask_RF)
        return gated_RF.to(down_MF.dtype) @ down_MF.T

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y_RM: Tensor):
        """Of gate, way up and the weight."""
        gate_RF, up_RF, down_MF, mask_RF = ctx.saved_tensors
        grad_gate_RF = (grad_y_RM @ down_MF).float()  # of what is gated, until the loops have passed
        grad_up_RF, gated_RF = torch.empty(up_RF.shape), torch.empty(up_RF.shape)
        run(_gated_backward, array(gate_RF), array(up_RF), mask_RF, ctx.scale, grad_gate_RF, grad_up_RF, gated_RF)
        dtype = down_MF.dtype
        return grad_gate_RF.to(dtype), grad_up_RF.to(dtype), grad_y_RM.T @ gated_RF.to(dtype), None


@numba.njit(inline="always")
def _share(x):
    """gelu(x) / x, of its tanh form."""
    return sigmoid(x * (SLOPE + CUBIC * x * x))


@parallel
def _gated(gate_RF, up_RF, mask_RF, scale, gated_RF):
    rows, width = gated_RF.shape
    for r in numba.prange(rows):
        for f in range(width):
            x = gate_RF[r, f]
            gated_RF[r, f] = x * _share(x) * up_RF[r, f]
        drop(gated_RF[r], None if mask_RF is None else mask_RF[r], scale)


@parallel
def _gated_backward(gate_RF, up_RF, mask_RF, scale, grad_gate_RF, grad_up_RF, gated_RF):
    """A loop for each array written: of more of them the compiler cannot tell that they do not overlap."""
    rows, width = gated_RF.shape
    for r in numba.prange(rows):
        drop(grad_gate_RF[r], None if mask_RF is None else mask_RF[r], scale)
        for f in range(width):
            x = gate_RF[r, f]
            grad_up_RF[r, f] = x * _share(x)
        for f in range(width):
            gated_RF[r, f] = grad_up_RF[r, f] * up_RF[r, f]
        drop(gated_RF[r], None if mask_RF is None else mask_RF[r], scale)
        for f in range(width):
            grad_up_RF[r, f] *= grad_gate_RF[r, f]
        for f in range(width):
            x = gate_RF[r, f]
            share = _share(x)
            slope = share + x * share * (ONE - share) * (SLOPE + THREE * CUBIC * x * x)
            grad_gate_RF[r, f] *= up_RF[r, f] * slope
