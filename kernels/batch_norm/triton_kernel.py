"""BatchNorm's per-channel arithmetic in Triton: one launch forward and one backward, instead of 25 and 18."""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ..launch import cdiv, launch, operator
from .reference import EPS

CHANNELS, WARPS = 128, 4  # of a program


@triton.jit(do_not_specialize=["rows"])
def batch_norm_forward(
    mean, var, weight, bias, running_mean, running_var, batches, count, scale, shift, rows, momentum,
    COUNTED: tl.constexpr, C: tl.constexpr, CHANNELS: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """Scale and shift; updates the running statistics. COUNTED: `count` holds the number of rows."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < C
    mean_C, var_C = tl.load(mean + channel, inside, 0), tl.load(var + channel, inside, 0)
    scale_C = tl.load(weight + channel, inside, 0).to(tl.float32) / tl.sqrt_rn(var_C + EPS)
    tl.store(scale + channel, scale_C, inside)
    tl.store(shift + channel, tl.load(bias + channel, inside, 0).to(tl.float32) - mean_C * scale_C, inside)
    number = rows.to(tl.float32)
    if COUNTED:
        number = tl.load(count)
    share = tl.where(number > 1, momentum, 0)
    unbiased = var_C * number / tl.maximum(number - 1, 1)
    before, before_var = tl.load(running_mean + channel, inside, 0), tl.load(running_var + channel, inside, 0)
    tl.store(running_mean + channel, before + share * (mean_C - before), inside)
    tl.store(running_var + channel, before_var + share * (unbiased - before_var), inside)
    if tl.program_id(0) == 0:
        tl.store(batches, tl.load(batches) + (number > 0).to(tl.int64))


@triton.jit
def batch_norm_backward(
    grad_scale, grad_shift, mean, var, weight, grad_mean, grad_var, grad_weight, grad_bias,
    C: tl.constexpr, CHANNELS: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < C
    mean_C = tl.load(mean + channel, inside, 0)
    inverse = 1 / tl.sqrt_rn(tl.load(var + channel, inside, 0) + EPS)
    weight_C = tl.load(weight + channel, inside, 0).to(tl.float32)
    upstream_shift = tl.load(grad_shift + channel, inside, 0)
    upstream_scale = tl.load(grad_scale + channel, inside, 0) - mean_C * upstream_shift
    tl.store(grad_mean + channel, -weight_C * inverse * upstream_shift, inside)
    tl.store(grad_var + channel, -0.5 * upstream_scale * weight_C * inverse * inverse * inverse, inside)
    tl.store(grad_weight + channel, (upstream_scale * inverse).to(grad_weight.dtype.element_ty), inside)
    tl.store(grad_bias + channel, upstream_shift.to(grad_bias.dtype.element_ty), inside)


@operator("batch_norm", mutates=("running_mean_C", "running_var_C", "batches"))
def scale_and_shift(
    mean_C: Tensor, var_C: Tensor, weight_C: Tensor, bias_C: Tensor, running_mean_C: Tensor, running_var_C: Tensor,
    batches: Tensor, count: Tensor | None, rows: int, momentum: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Scale and shift; updates the running statistics."""
    scale_C, shift_C = torch.empty_like(mean_C), torch.empty_like(mean_C)
    sizes = {"COUNTED": count is not None, "C": len(mean_C), "CHANNELS": CHANNELS, "EPS": EPS}
    grid = (cdiv(len(mean_C), CHANNELS),)
    launch(
        batch_norm_forward, grid, mean_C, var_C, weight_C, bias_C, running_mean_C, running_var_C, batches,
        mean_C if count is None else count, scale_C, shift_C, rows, momentum, **sizes, warps=WARPS, stages=1,
    )  # fmt: skip
    return scale_C, shift_C


@operator("batch_norm_backward")
def scale_and_shift_backward(
    grad_scale_C: Tensor, grad_shift_C: Tensor, mean_C: Tensor, var_C: Tensor, weight_C: Tensor, bias_C: Tensor
) -> list[Tensor]:
    """Gradients of mean, variance, weight and bias."""
    grads = [torch.empty_like(x) for x in (mean_C, var_C, weight_C, bias_C)]
    grid, sizes = (cdiv(len(mean_C), CHANNELS),), {"C": len(mean_C), "CHANNELS": CHANNELS, "EPS": EPS}
    vectors = grad_scale_C, grad_shift_C, mean_C, var_C, weight_C
    launch(batch_norm_backward, grid, *vectors, *grads, **sizes, warps=WARPS, stages=1)
    return grads


class BatchNorm(Function):
    """An autograd Function, because a custom operator that updates its arguments cannot have a gradient."""

    @staticmethod
    def forward(ctx, mean_C, var_C, weight_C, bias_C, *rest):
        ctx.save_for_backward(mean_C, var_C, weight_C, bias_C)
        return scale_and_shift(mean_C, var_C, weight_C, bias_C, *rest)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_scale_C, grad_shift_C):
        return *scale_and_shift_backward(grad_scale_C, grad_shift_C, *ctx.saved_tensors), *[None] * 6
