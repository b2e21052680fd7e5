"""Backward kernels of BatchNorm + SiLU in Triton: the sums for the statistics' gradients, then the map's gradient."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import cdiv, launch, operator
from .triton_stats import MERGED_COLUMNS
from .triton_tiles import WARPS, Map, crop_row, crop_tile, share_of, stat, store_pair


@triton.jit
def _grad_normal(values, upstream, mask, scale, shift, ACTIVATE: tl.constexpr):
    """The gradient of z = scale * values + shift, zero where the tile has no cell."""
    if ACTIVATE:
        z = values * scale + shift
        sigmoid = tl.sigmoid(z)
        upstream *= sigmoid * (1 + z * (1 - sigmoid))
    return tl.where(mask, upstream, 0)


@triton.jit
def bn_silu_sums(
    grad, x, stats, bounds, partial,
    HW: tl.constexpr, C: tl.constexpr, P: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    ACTIVATE: tl.constexpr,
):  # fmt: skip
    """partial [P, 2, programs, C]: sums of the gradient of z, and of its products with the normalized x."""
    part = tl.program_id(2)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    first, end = share_of(bounds, part)
    mean, rstd = stat(stats, 0, part, column, C, P)[None, :], stat(stats, 1, part, column, C, P)
    scale, shift = stat(stats, 2, part, column, C, P)[None, :], stat(stats, 3, part, column, C, P)[None, :]
    total, product = tl.zeros([COLUMNS], tl.float32), tl.zeros([COLUMNS], tl.float32)
    for crop in range(first, end):
        for row in range(0, HW, ROWS):
            offset, mask = crop_tile(crop, row, column, HW, C, ROWS)
            values = tl.load(x + offset, mask, 0).to(tl.float32)
            grad_z = _grad_normal(values, tl.load(grad + offset, mask, 0).to(tl.float32), mask, scale, shift, ACTIVATE)
            total += tl.sum(grad_z, 0)
            product += tl.sum(grad_z * (values - mean), 0)
    store_pair(partial, part, column, total, product * rstd, C)


@triton.jit
def merge_sums(
    partial, sums, grad_weight, grad_bias,
    C: tl.constexpr, P: tl.constexpr, PROGRAMS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """sums [P, 2, C] over the programs, and the gradients of weight and bias, which sum over the parts as well."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    mask = column < C
    program = tl.arange(0, PROGRAMS)
    weight_total, bias_total = tl.zeros([COLUMNS], tl.float32), tl.zeros([COLUMNS], tl.float32)
    for part in tl.static_range(P):
        at = partial + (part * 2 * PROGRAMS + program[:, None]) * C + column[None, :]
        total = tl.sum(tl.load(at, mask[None, :], 0), 0)
        product = tl.sum(tl.load(at + PROGRAMS * C, mask[None, :], 0), 0)
        tl.store(sums + part * 2 * C + column, total, mask)
        tl.store(sums + (part * 2 + 1) * C + column, product, mask)
        bias_total += total
        weight_total += product
    tl.store(grad_weight + column, weight_total.to(grad_weight.dtype.element_ty), mask)
    tl.store(grad_bias + column, bias_total.to(grad_bias.dtype.element_ty), mask)


@triton.jit
def bn_silu_backward(
    grad, x, stats, bounds, gate, grad_mean, sums, grad_x,
    HW: tl.constexpr, C: tl.constexpr, P: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    ACTIVATE: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    """The gradient of x. `sums` [P, 2, C] are summed over all ranks."""
    part = tl.program_id(2)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    first, end = share_of(bounds, part)
    mean, rstd = stat(stats, 0, part, column, C, P), stat(stats, 1, part, column, C, P)
    scale, shift = stat(stats, 2, part, column, C, P), stat(stats, 3, part, column, C, P)
    per_value = stat(stats, 4, part, column, C, P)
    is_real = (column < C) & (part < P)
    slope = rstd * per_value * tl.load(sums + (part * 2 + 1) * C + column, is_real, 0)
    constant = per_value * tl.load(sums + part * 2 * C + column, is_real, 0)
    scale, shift = scale[None, :], shift[None, :]
    for crop in range(first, end):
        crop_gate, crop_grad = scale, shift  # unused unless GATED
        if GATED:
            crop_gate = crop_row(gate, crop, column, C)[None, :]
            crop_grad = crop_row(grad_mean, crop, column, C)[None, :] / HW
        for row in range(0, HW, ROWS):
            offset, mask = crop_tile(crop, row, column, HW, C, ROWS)
            values, upstream = (
                tl.load(x + offset, mask, 0).to(tl.float32),
                tl.load(grad + offset, mask, 0).to(tl.float32),
            )
            if GATED:
                upstream = upstream * crop_gate + crop_grad
            grad_z = _grad_normal(values, upstream, mask, scale, shift, ACTIVATE)
            result = scale * (grad_z - constant[None, :] - slope[None, :] * (values - mean[None, :]))
            tl.store(grad_x + offset, result.to(grad_x.dtype.element_ty), mask)


@operator("bn_silu_backward_sums")
def backward_sums(
    grad_RC: Tensor, x_RC: Tensor, cells: int, stats: Tensor, bounds: Tensor, activate: bool, weight_C: Tensor
) -> list[Tensor]:  # fmt: skip
    """`sums` [P, 2, C] of this rank, and the gradients of weight and bias."""
    x = Map(x_RC, cells, bounds)
    grid, sizes, flags = x.grid(padding=False), x.sizes(), {"P": x.parts, "ACTIVATE": activate}
    partial = x.partial(grid[0])
    warps = WARPS if sizes["ROWS"] > 16 else 2  # 4 spill on sm_100
    launch(bn_silu_sums, grid, grad_RC, x_RC, stats, bounds, partial, warps=warps, stages=1, **sizes, **flags)
    return _merged_sums(partial, weight_C)


def _merged_sums(partial: Tensor, weight_C: Tensor) -> list[Tensor]:
    """`sums` [P, 2, C] of this rank, and the gradients of weight and bias, from partial sums [P, 2, programs, C]."""
    parts, _, programs, channels = partial.shape
    sums, *grads = partial.new_empty(parts, 2, channels), torch.empty_like(weight_C), torch.empty_like(weight_C)
    sizes = {"C": channels, "P": parts, "PROGRAMS": programs, "COLUMNS": MERGED_COLUMNS}
    grid = (cdiv(channels, MERGED_COLUMNS),)
    launch(merge_sums, grid, partial, sums, *grads, warps=WARPS, stages=1, **sizes)
    return [sums, *grads]


merged_sums = operator("bn_merged_sums")(_merged_sums)


@operator("bn_silu_backward")
def backward_map(
    grad_RC: Tensor, x_RC: Tensor, cells: int, stats: Tensor, bounds: Tensor, gate: list[Tensor], activate: bool,
    sums: Tensor,
) -> Tensor:  # fmt: skip
    """The gradient of x [R, C]; `sums` of all ranks; gate: empty, or the gate [N, C] and the gradient of the activated
    map's mean.
    """
    x, grad_x_RC = Map(x_RC, cells, bounds), torch.empty_like(x_RC)
    tensors = grad_RC, x_RC, stats, bounds, *(gate or [stats, stats]), sums, grad_x_RC
    sizes = x.sizes() | {"P": x.parts, "ACTIVATE": activate, "GATED": bool(gate)}
    launch(bn_silu_backward, x.grid(padding=True), *tensors, warps=2 * WARPS, stages=1, **sizes)  # 4 spill in float32
    return grad_x_RC
