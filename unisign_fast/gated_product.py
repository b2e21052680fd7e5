"""What mT5's gated feed-forward does behind its gate and its way up, on a CPU, keeping nothing in between.

The backward pass computes the gate and dropout again, some rows at a time, which costs less than a way to memory.

R rows; M model width, F that of the feed-forward.
"""

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import gelu

from unisign_fast.dropout import kept

ROWS_AT_ONCE = 128  # 1 MiB in float32 at mT5-Base's width


def gated_product(gate_RF: Tensor, up_RF: Tensor, down_MF: Tensor, p: float) -> Tensor:
    """[R, M]: (gelu(gate) * up) down^T, with dropout `p` before the product; gelu by its tanh form."""
    return _GatedProduct.apply(gate_RF, up_RF, down_MF, p)


class _GatedProduct(Function):
    @staticmethod
    def forward(ctx, gate_RF, up_RF, down_MF, p: float):
        mask_RF, ctx.scale = kept(gate_RF.shape, p) if p else (None, 1.0)
        gated_RF = gelu(gate_RF, approximate="tanh").mul_(up_RF)
        if p:
            gated_RF.mul_(mask_RF).mul_(ctx.scale)
        ctx.save_for_backward(gate_RF, up_RF, down_MF, mask_RF)
        return gated_RF @ down_MF.T

    @staticmethod
    @once_differentiable
    def backward(ctx, of_y_RM: Tensor):
        """Of gate, way up and the weight."""
        gate_RF, up_RF, down_MF, mask_RF = ctx.saved_tensors
        of_gate_RF = of_y_RM @ down_MF  # of what is gated, until the loop has passed
        of_up_RF, gated_RF = torch.empty_like(up_RF), torch.empty_like(up_RF)
        for first in range(0, len(up_RF), ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            of_gated, gate, up = of_gate_RF[rows], gate_RF[rows], up_RF[rows]
            active = gelu(gate, approximate="tanh")
            torch.mul(active, up, out=gated_RF[rows])
            if mask_RF is not None:
                gated_RF[rows].mul_(mask_RF[rows]).mul_(ctx.scale)
                of_gated.mul_(mask_RF[rows]).mul_(ctx.scale)
            torch.mul(of_gated, active, out=of_up_RF[rows])
            of_gate_RF[rows] = torch.ops.aten.gelu_backward(of_gated.mul_(up), gate, approximate="tanh")
        return of_gate_RF, of_up_RF, of_y_RM.T @ gated_RF, None
