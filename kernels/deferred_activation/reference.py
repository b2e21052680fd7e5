"""Activations and batch statistics in plain PyTorch, the reference for every faster version.

BatchNorm, residual and ReLU between two convolutions need no separate pass over memory: a convolution computes the
batch statistics of its output, BatchNorm converts them to a scale and a shift per channel, and the next convolution
applies these on load (a `DeferredActivation`).
"""

from typing import NamedTuple

import torch
from torch import Tensor

ROWS_AT_ONCE = 2048  # fit a core's cache


class DeferredActivation(NamedTuple):
    """relu(conv_out * scale + shift + residual * residual_scale + residual_shift), not computed yet; `conv_out` itself
    without a scale. A residual without a scale is added as it is; if `relu_before_residual`, to
    relu(conv_out * scale + shift).
    """

    conv_out_FVC: Tensor
    scale_C: Tensor | None = None  # scales and shifts in float32
    shift_C: Tensor | None = None
    residual_FVC: Tensor | None = None
    residual_scale_C: Tensor | None = None
    residual_shift_C: Tensor | None = None
    relu_before_residual: bool = False

    @property
    def plain(self) -> bool:
        """Whether the activation is just `conv_out_FVC`."""
        return self.scale_C is None

    def slots(self) -> tuple[Tensor | None, ...]:
        """All six possible tensors, in order; None where absent."""
        *slots, _ = self
        return tuple(slots)

    def tensors(self) -> list[Tensor]:
        """The tensors that are present, in order: one, three, four or six."""
        return [tensor for tensor in self.slots() if tensor is not None]


class ConvOutput(NamedTuple):
    """A convolution's output, and its batch statistics over rows (frame, joint) in float32, if requested."""

    conv_out_FVO: Tensor
    mean_O: Tensor | None = None
    var_O: Tensor | None = None  # biased


def deferred_activation(x: DeferredActivation, joint_mean: bool = False) -> Tensor:
    """x_FVC: the activation computed, in float32 at least, and rounded once to the dtype of `conv_out`; or, if
    `joint_mean`, its mean over the joints, [F, C].
    """
    x_FVC = x.conv_out_FVC if x.plain else before_relu(x).relu().to(x.conv_out_FVC.dtype)
    return x_FVC.mean(1) if joint_mean else x_FVC


def before_relu(x: DeferredActivation) -> Tensor:
    """The value [F, V, C] before the last ReLU, in float32 at least. `x` must not be plain."""
    assert x.scale_C is not None and x.shift_C is not None
    exact = torch.promote_types(x.conv_out_FVC.dtype, torch.float32)
    y_FVC = torch.addcmul(x.shift_C, x.conv_out_FVC.to(exact), x.scale_C)
    if x.relu_before_residual:
        y_FVC = y_FVC.relu()
    if x.residual_scale_C is not None:
        assert x.residual_FVC is not None and x.residual_shift_C is not None
        y_FVC = y_FVC + torch.addcmul(x.residual_shift_C, x.residual_FVC.to(exact), x.residual_scale_C)
    elif x.residual_FVC is not None:
        y_FVC = y_FVC + x.residual_FVC
    return y_FVC


def with_batch_stats(conv_out_FVO: Tensor, batch_stats: bool) -> ConvOutput:
    """The output with its batch statistics over all rows in float32 at least; zeros without rows."""
    if not batch_stats:
        return ConvOutput(conv_out_FVO)
    exact = torch.promote_types(conv_out_FVO.dtype, torch.float32)
    return ConvOutput(conv_out_FVO, *_BatchStats.apply(conv_out_FVO.flatten(0, 1).to(exact)))


class _BatchStats(torch.autograd.Function):
    """Mean and biased variance of rows [R, C].

    On a CPU, they are computed with sum(), which adds pairwise, in chunks that fit the cache. torch's CPU batch_norm
    and var_mean do not add pairwise, and err by 2e-5 at 30,000 rows in float32.
    """

    @staticmethod
    def forward(ctx, rows_RC):
        count = max(1, rows_RC.shape[0])
        if rows_RC.is_cpu or not len(rows_RC):
            mean_C = rows_RC.sum(0) / count
            var_C = sum((rows - mean_C).square_().sum(0) for rows in rows_RC.split(ROWS_AT_ONCE)) / count
        else:
            var_C, mean_C = torch.var_mean(rows_RC, 0, correction=0)
        ctx.save_for_backward(rows_RC, mean_C)
        return mean_C, var_C

    @staticmethod
    def backward(ctx, grad_mean_C, grad_var_C):
        rows_RC, mean_C = ctx.saved_tensors
        count = max(1, rows_RC.shape[0])
        slope_C = 2 * grad_var_C / count
        return torch.addcmul(grad_mean_C / count - mean_C * slope_C, rows_RC, slope_C)
