"""Forward kernels of BatchNorm + SiLU in Triton: the normalized and activated map, and its mean over a crop's cells."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import launch, operator
from .triton_tiles import WARPS, Map, crop_tile, share_of, stat


@triton.jit
def bn_silu_apply(
    x, stats, bounds, y,
    HW: tl.constexpr, C: tl.constexpr, P: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    ACTIVATE: tl.constexpr,
):  # fmt: skip
    """y = silu(scale * x + shift)."""
    part = tl.program_id(2)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    first, end = share_of(bounds, part)
    scale, shift = stat(stats, 2, part, column, C, P)[None, :], stat(stats, 3, part, column, C, P)[None, :]
    for crop in range(first, end):
        for row in range(0, HW, ROWS):
            offset, mask = crop_tile(crop, row, column, HW, C, ROWS)
            z = tl.load(x + offset, mask, 0).to(tl.float32) * scale + shift
            if ACTIVATE:
                z *= tl.sigmoid(z)
            tl.store(y + offset, z.to(y.dtype.element_ty), mask)


@triton.jit
def bn_silu_mean(
    x, stats, bounds, mean,
    HW: tl.constexpr, C: tl.constexpr, P: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """mean [N, C] over the cells of silu(scale * x + shift)."""
    part = tl.program_id(2)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    first, end = share_of(bounds, part)
    scale, shift = stat(stats, 2, part, column, C, P)[None, :], stat(stats, 3, part, column, C, P)[None, :]
    for crop in range(first, end):
        total = tl.zeros([COLUMNS], tl.float32)
        for row in range(0, HW, ROWS):
            offset, mask = crop_tile(crop, row, column, HW, C, ROWS)
            z = tl.load(x + offset, mask, 0).to(tl.float32) * scale + shift
            total += tl.sum(tl.where(mask, z * tl.sigmoid(z), 0), 0)
        tl.store(mean + crop * C + column, (total / HW).to(mean.dtype.element_ty), column < C)


@operator("bn_silu_apply")
def apply(x_RC: Tensor, cells: int, stats: Tensor, bounds: Tensor, activate: bool) -> Tensor:
    """y [R, C] = silu(scale * x + shift), without SiLU as asked."""
    x, y_RC = Map(x_RC, cells, bounds), torch.empty_like(x_RC)
    tensors, flags = (x_RC, stats, bounds, y_RC), {"P": x.parts, "ACTIVATE": activate}
    launch(bn_silu_apply, x.grid(padding=True), *tensors, warps=WARPS, stages=1, **x.sizes(), **flags)
    return y_RC


@operator("bn_silu_mean")
def mean(x_RC: Tensor, cells: int, stats: Tensor, bounds: Tensor) -> Tensor:
    """[N, C]: the means of the activated map."""
    x = Map(x_RC, cells, bounds)
    result = x_RC.new_empty(x.crops, x.channels)
    tensors = x_RC, stats, bounds, result
    launch(bn_silu_mean, x.grid(padding=True), *tensors, warps=WARPS, stages=1, P=x.parts, **x.sizes())
    return result
