"""Forward kernels of BatchNorm + SiLU in Triton: the normalized and activated map, and its mean over a crop's cells."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import launch
from .triton_tiles import WARPS, Map, crop_row, crop_tile, share_of, stat


@triton.jit
def bn_silu_apply(
    x, stats, bounds, gate, y,
    HW: tl.constexpr, C: tl.constexpr, P: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    ACTIVATE: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    """y = gate * silu(scale * x + shift)."""
    part = tl.program_id(2)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    first, end = share_of(bounds, part)
    scale, shift = stat(stats, 2, part, column, C, P)[None, :], stat(stats, 3, part, column, C, P)[None, :]
    for crop in range(first, end):
        if GATED:
            crop_gate = crop_row(gate, crop, column, C)[None, :]
        for row in range(0, HW, ROWS):
            offset, mask = crop_tile(crop, row, column, HW, C, ROWS)
            z = tl.load(x + offset, mask, 0).to(tl.float32) * scale + shift
            if ACTIVATE:
                z *= tl.sigmoid(z)
            if GATED:
                z *= crop_gate
            tl.store(y + offset, z.to(y.dtype.element_ty), mask)


@triton.jit
def bn_silu_mean(
    x, stats, bounds, grad, mean,
    HW: tl.constexpr, C: tl.constexpr, P: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    WEIGHTED: tl.constexpr,
):  # fmt: skip
    """mean [N, C] over the cells of silu(scale * x + shift); WEIGHTED: the sum of its products with `grad`."""
    part = tl.program_id(2)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    first, end = share_of(bounds, part)
    scale, shift = stat(stats, 2, part, column, C, P)[None, :], stat(stats, 3, part, column, C, P)[None, :]
    for crop in range(first, end):
        total = tl.zeros([COLUMNS], tl.float32)
        for row in range(0, HW, ROWS):
            offset, mask = crop_tile(crop, row, column, HW, C, ROWS)
            z = tl.load(x + offset, mask, 0).to(tl.float32) * scale + shift
            z = tl.where(mask, z * tl.sigmoid(z), 0)
            if WEIGHTED:
                z *= tl.load(grad + offset, mask, 0).to(tl.float32)
            total += tl.sum(z, 0)
        at = mean + crop * C + column
        tl.store(at, total if WEIGHTED else total / HW, column < C)


def apply(x: Map, stats: Tensor, gate_NC: Tensor | None, activate: bool) -> Tensor:
    """y [R, C]."""
    y_RC = torch.empty_like(x.x_RC)
    gate = stats if gate_NC is None else gate_NC
    flags = dict(ACTIVATE=activate, GATED=gate_NC is not None, P=x.parts, **x.sizes())
    launch(bn_silu_apply, x.grid(padding=True), x.x_RC, stats, x.bounds, gate, y_RC, warps=WARPS, stages=1, **flags)
    return y_RC


def mean(x: Map, stats: Tensor, grad_RC: Tensor | None) -> Tensor:
    """[N, C] float32: the means of the activated map, or the sums of its products with `grad_RC`."""
    result = x.empty(x.crops, x.channels)
    grad = x.x_RC if grad_RC is None else grad_RC
    flags = dict(WEIGHTED=grad_RC is not None, P=x.parts, **x.sizes())
    launch(bn_silu_mean, x.grid(padding=True), x.x_RC, stats, x.bounds, grad, result, warps=WARPS, stages=1, **flags)
    return result
