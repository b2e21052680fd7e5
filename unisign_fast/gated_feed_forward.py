"""mT5's gated feed-forward on a CPU: of what lies between its products of matrices, nothing is kept.

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


def gated_feed_forward(x_RM: Tensor, gate_FM: Tensor, up_FM: Tensor, down_MF: Tensor, p: float) -> Tensor:
    """[R, M]: (gelu(x gate^T) * (x up^T)) down^T, with dropout `p` before the last product; gelu by its tanh form."""
    return _GatedFeedForward.apply(x_RM, gate_FM, up_FM, down_MF, p)


class _GatedFeedForward(Function):
    @staticmethod
    def forward(ctx, x_RM, gate_FM, up_FM, down_MF, p: float):
        gate_RF, up_RF = x_RM @ gate_FM.T, x_RM @ up_FM.T
        mask_RF, ctx.scale = kept(gate_RF.shape, p) if p else (None, 1.0)
        gated_RF = gelu(gate_RF, approximate="tanh").mul_(up_RF)
        if p:
            gated_RF.mul_(mask_RF).mul_(ctx.scale)
        ctx.save_for_backward(x_RM, gate_FM, up_FM, down_MF, gate_RF, up_RF, mask_RF)
        return gated_RF @ down_MF.T

    @staticmethod
    @once_differentiable
    def backward(ctx, of_y_RM: Tensor):
        """Of x and the three weights."""
        x_RM, gate_FM, up_FM, down_MF, gate_RF, up_RF, mask_RF = ctx.saved_tensors
        of_gate_RF = of_y_RM @ down_MF  # of what is gated, until the loop has passed
        of_up_RF, gated_RF = torch.empty_like(up_RF), torch.empty_like(up_RF)
        for first in range(0, len(x_RM), ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            of_gated, gate, up = of_gate_RF[rows], gate_RF[rows], up_RF[rows]
            active = gelu(gate, approximate="tanh")
            torch.mul(active, up, out=gated_RF[rows])
            if mask_RF is not None:
                gated_RF[rows].mul_(mask_RF[rows]).mul_(ctx.scale)
                of_gated.mul_(mask_RF[rows]).mul_(ctx.scale)
            torch.mul(of_gated, active, out=of_up_RF[rows])
            of_gate_RF[rows] = torch.ops.aten.gelu_backward(of_gated.mul_(up), gate, approximate="tanh")
        of_down_MF = of_y_RM.T @ gated_RF
        of_x_RM = (of_gate_RF @ gate_FM).addmm_(of_up_RF, up_FM)
        return of_x_RM, of_gate_RF.T @ x_RM, of_up_RF.T @ x_RM, of_down_MF, None
