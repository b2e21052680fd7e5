"""Backward through the gate and the normalization before it in Triton, in one pass over the map.

The gradient of z = scale * x + shift depends on the gate's gradient, which itself needs a pass over the map. But the
sums that the normalization needs are linear in the gate and in the gradient of the mean, and both are constant over a
crop. So one pass takes the gate's gradient and four sums per crop and channel, from which all others follow.
"""

import triton
import triton.language as tl
from torch import Tensor

from ..bn_silu.triton_tiles import WARPS, Map, crop_tile, share_of, stat, store_pair
from ..launch import launch, operator

SUMS = 4
CROPS = 32  # of a tile


@triton.jit(do_not_specialize=["crops"])
def gate_sums(
    grad, x, stats, bounds, grad_gate, sums, crops,
    HW: tl.constexpr, C: tl.constexpr, P: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sums over the cells of a crop, with y = silu(z), y' its derivative and n the normalized x: grad_gate [N, C] of
    grad y; sums [4, N, C] of grad y', y', grad y' n and y' n.
    """
    part = tl.program_id(2)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    first, end = share_of(bounds, part)
    mean, rstd = stat(stats, 0, part, column, C, P)[None, :], stat(stats, 1, part, column, C, P)[None, :]
    scale, shift = stat(stats, 2, part, column, C, P)[None, :], stat(stats, 3, part, column, C, P)[None, :]
    for crop in range(first, end):
        gated, total = tl.zeros([COLUMNS], tl.float32), tl.zeros([COLUMNS], tl.float32)
        slopes, product, slope_product = total, total, total
        for row in range(0, HW, ROWS):
            offset, mask = crop_tile(crop, row, column, HW, C, ROWS)
            values = tl.load(x + offset, mask, 0).to(tl.float32)
            upstream = tl.load(grad + offset, mask, 0).to(tl.float32)
            z = values * scale + shift
            sigmoid = tl.sigmoid(z)
            slope = tl.where(mask, sigmoid * (1 + z * (1 - sigmoid)), 0)
            normal = (values - mean) * rstd
            gated += tl.sum(upstream * z * sigmoid, 0)
            total += tl.sum(upstream * slope, 0)
            slopes += tl.sum(slope, 0)
            product += tl.sum(upstream * slope * normal, 0)
            slope_product += tl.sum(slope * normal, 0)
        tl.store(grad_gate + crop * C + column, gated.to(grad_gate.dtype.element_ty), column < C)
        at = sums + crop * C + column
        tl.store(at, total, column < C)
        tl.store(at + crops * C, slopes, column < C)
        tl.store(at + 2 * crops * C, product, column < C)
        tl.store(at + 3 * crops * C, slope_product, column < C)


@triton.jit(do_not_specialize=["crops"])
def gated_sums(
    sums, gate, grad_mean, bounds, partial, crops,
    HW: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """partial [P, 2, programs, C]: sums of the gradient of z, and of its products with the normalized x."""
    part = tl.program_id(2)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    first, end = share_of(bounds, part)
    total, product = tl.zeros([COLUMNS], tl.float32), tl.zeros([COLUMNS], tl.float32)
    for base in range(first.to(tl.int32), end.to(tl.int32), ROWS):
        crop = base + tl.arange(0, ROWS)
        offset = crop[:, None] * C + column[None, :]
        mask = (crop < end)[:, None] & (column < C)[None, :]
        gates = tl.load(gate + offset, mask, 0).to(tl.float32)
        grads = tl.load(grad_mean + offset, mask, 0).to(tl.float32) / HW
        at = sums + offset
        total += tl.sum(gates * tl.load(at, mask, 0) + grads * tl.load(at + crops * C, mask, 0), 0)
        product += tl.sum(
            gates * tl.load(at + 2 * crops * C, mask, 0) + grads * tl.load(at + 3 * crops * C, mask, 0), 0
        )
    store_pair(partial, part, column, total, product, C)


@operator("mbconv_gate_sums")
def sums_of_crops(grad_RC: Tensor, x_RC: Tensor, cells: int, stats: Tensor, bounds: Tensor) -> list[Tensor]:
    """The gradient of the gate [N, C], and the other sums of `gate_sums`, [4, N, C] float32."""
    x = Map(x_RC, cells, bounds)
    grad_gate_NC, sums = x_RC.new_empty(x.crops, x.channels), x.empty(SUMS, x.crops, x.channels)
    tensors = grad_RC, x_RC, stats, bounds, grad_gate_NC, sums
    launch(gate_sums, x.grid(padding=True), *tensors, x.crops, warps=2 * WARPS, stages=1, P=x.parts, **x.sizes())
    return [grad_gate_NC, sums]


@operator("mbconv_gated_sums")
def partial_sums(sums: Tensor, cells: int, bounds: Tensor, gate_NC: Tensor, grad_mean_NC: Tensor) -> Tensor:
    """Partial sums [P, 2, programs, C] for the statistics' gradients, from the sums of the crops."""
    gate = Map(gate_NC, 1, bounds)  # one cell a crop
    grid, sizes = gate.grid(padding=False), gate.sizes() | {"HW": cells, "ROWS": CROPS}
    partial = gate.partial(grid[0])
    tensors = sums, gate_NC, grad_mean_NC, bounds, partial
    launch(gated_sums, grid, *tensors, gate.crops, warps=WARPS, stages=1, **sizes)
    return partial
