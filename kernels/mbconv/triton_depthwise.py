"""Depthwise convolutions of channels-last maps in Triton, k x k, stride 1 or 2.

The forward kernel reads the activated map and writes the output with its partial moments. It does not apply SiLU on
load, which would take k * k exponentials per value. The backward kernel loops over the cells of the convolution's
input, computes SiLU once per cell, and uses each neighbour's gradient twice: for the map and for a tap's weight.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..bn_silu.triton_tiles import WARPS, Map, merge_moments, share_of, stat, store_pair
from ..launch import cdiv, launch, operator

COLUMNS = 32  # channels of a block
FORWARD_ROWS = 32
BACKWARD_ROWS = {3: 16, 5: 8}  # by kernel size: registers hold a sum for each tap and value of a tile


@triton.jit
def _neighbour(source, crop, i, j, column, mask, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr):
    """Cells (i, j) [ROWS] of a map, zero outside it."""
    inside = (i >= 0) & (i < H) & (j >= 0) & (j < W)
    offset = ((crop * H + i) * W + j) * C
    return tl.load(source + offset[:, None] + column[None, :], mask & inside[:, None], 0).to(tl.float32)


@triton.jit
def depthwise_forward(
    x, weight, bounds, y, partial,
    H: tl.constexpr, W: tl.constexpr, OH: tl.constexpr, OW: tl.constexpr, C: tl.constexpr, P: tl.constexpr,
    K: tl.constexpr, STRIDE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """y, and partial [P, 2, programs, C]: the moments of each program's share. weight: [K * K, C]."""
    part = tl.program_id(2)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    first, end = share_of(bounds, part)
    start, stop = (first * (OH * OW)).to(tl.int32), (end * (OH * OW)).to(tl.int32)
    mean, square = tl.zeros([COLUMNS], tl.float32), tl.zeros([COLUMNS], tl.float32)
    for base in range(start, stop, ROWS):
        row = base + tl.arange(0, ROWS)
        crop, cell = row // (OH * OW), row % (OH * OW)
        i, j = cell // OW * STRIDE - K // 2, cell % OW * STRIDE - K // 2
        mask = (row < stop)[:, None] & (column < C)[None, :]
        total = tl.zeros([ROWS, COLUMNS], tl.float32)
        for tap in tl.static_range(K * K):
            factor = tl.load(weight + tap * C + column, column < C, 0).to(tl.float32)
            total += factor[None, :] * _neighbour(x, crop, i + tap // K, j + tap % K, column, mask, H, W, C)
        rounded = total.to(y.dtype.element_ty)
        tl.store(y + row[:, None] * C + column[None, :], rounded, mask)
        count, before = tl.minimum(stop - base, ROWS).to(tl.float32), (base - start).to(tl.float32)
        mean, square = merge_moments(rounded.to(tl.float32), mask, count, before, mean, square)
    if part < P:
        store_pair(partial, part, column, mean, square, C)


@triton.jit
def _backward_of_phase(
    sums, grad_y, x, weight, scale, shift, mean, grad_z, first, end, column,
    H: tl.constexpr, W: tl.constexpr, OH: tl.constexpr, OW: tl.constexpr, C: tl.constexpr, K: tl.constexpr,
    STRIDE: tl.constexpr, ACTIVATE: tl.constexpr, ROWS: tl.constexpr, DI: tl.constexpr, DJ: tl.constexpr,
):  # fmt: skip
    """Handle the cells (STRIDE * u + DI, STRIDE * v + DJ), which the same taps read; returns `sums` plus theirs."""
    PH: tl.constexpr = (H - DI + STRIDE - 1) // STRIDE
    PW: tl.constexpr = (W - DJ + STRIDE - 1) // STRIDE
    for base in range((first * (PH * PW)).to(tl.int32), (end * (PH * PW)).to(tl.int32), ROWS):
        row = base + tl.arange(0, ROWS)
        crop, cell = row // (PH * PW), row % (PH * PW)
        u, v = cell // PW, cell % PW
        offset = ((crop * H + u * STRIDE + DI) * W + v * STRIDE + DJ) * C
        place, mask = offset[:, None] + column[None, :], (row < end * (PH * PW))[:, None] & (column < C)[None, :]
        values = tl.load(x + place, mask, 0).to(tl.float32)
        activated = values
        if ACTIVATE:
            z = values * scale + shift
            sigmoid = tl.sigmoid(z)
            activated = z * sigmoid
        total = tl.zeros_like(values)
        taps = ()
        for tap in tl.static_range(K * K):
            if (DI + K // 2 - tap // K) % STRIDE == 0 and (DJ + K // 2 - tap % K) % STRIDE == 0:
                i, j = u + (DI + K // 2 - tap // K) // STRIDE, v + (DJ + K // 2 - tap % K) // STRIDE
                grad = _neighbour(grad_y, crop, i, j, column, mask, OH, OW, C)
                total += grad * tl.load(weight + tap * C + column, column < C, 0).to(tl.float32)[None, :]
                taps = taps + (sums[tap] + grad * activated,)  # type: ignore[assignment]
            else:
                taps = taps + (sums[tap],)  # type: ignore[assignment]
        if ACTIVATE:
            total *= sigmoid + activated * (1 - sigmoid)
        tl.store(grad_z + place, total.to(grad_z.dtype.element_ty), mask)
        sums = taps + (sums[K * K] + total, sums[K * K + 1] + total * (values - mean))
    return sums


@triton.jit
def depthwise_backward(
    grad_y, x, weight, stats, bounds, grad_z, partial, grad_weight,
    H: tl.constexpr, W: tl.constexpr, OH: tl.constexpr, OW: tl.constexpr, C: tl.constexpr, P: tl.constexpr,
    K: tl.constexpr, STRIDE: tl.constexpr, ACTIVATE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Backward of a convolution of silu(z), z = scale * x + shift; without ACTIVATE, of z = x, which has no `stats`.

    Writes grad_z; partial [P, 2, programs, C], the sums of grad_z and of its products with the normalized x; and
    grad_weight [P, programs, K * K, C], the sums of each program.
    """
    part = tl.program_id(2)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    first, end = share_of(bounds, part)
    mean, rstd = tl.zeros([COLUMNS], tl.float32), tl.zeros([COLUMNS], tl.float32)
    scale, shift = mean, rstd
    if ACTIVATE:
        mean, rstd = stat(stats, 0, part, column, C, P), stat(stats, 1, part, column, C, P)
        scale, shift = stat(stats, 2, part, column, C, P), stat(stats, 3, part, column, C, P)
    sums = ()
    for _ in tl.static_range(K * K + 2):
        sums = sums + (tl.zeros([ROWS, COLUMNS], tl.float32),)  # type: ignore[assignment]
    for phase in tl.static_range(STRIDE * STRIDE):
        if H > phase // STRIDE and W > phase % STRIDE:
            sums = _backward_of_phase(
                sums, grad_y, x, weight, scale[None, :], shift[None, :], mean[None, :], grad_z, first, end, column,
                H, W, OH, OW, C, K, STRIDE, ACTIVATE, ROWS, phase // STRIDE, phase % STRIDE,
            )  # fmt: skip
    if part < P:
        at = grad_weight + (part * tl.num_programs(0) + tl.program_id(0)) * (K * K * C) + column
        for tap in tl.static_range(K * K):
            tl.store(at + tap * C, tl.sum(sums[tap], 0), column < C)
        store_pair(partial, part, column, tl.sum(sums[K * K], 0), tl.sum(sums[K * K + 1], 0) * rstd, C)


def _grid(x: Map) -> tuple[int, int, int]:
    """The grid: programs, blocks of channels, and parts including the padding."""
    blocks = cdiv(x.channels, COLUMNS)
    return x.programs(blocks), blocks, x.parts + 1


def _sizes(x: Map, sides: list[int], taps: int, stride: int) -> dict[str, int]:
    (height, width), channels = sides, x.channels
    out = {"OH": -(-height // stride), "OW": -(-width // stride)}
    return {"H": height, "W": width, **out, "C": channels, "P": x.parts, "K": int(taps**0.5), "STRIDE": stride}


@operator("mbconv_depthwise")
def forward(x_RC: Tensor, sides: list[int], bounds: Tensor, weight_TC: Tensor, stride: int) -> list[Tensor]:
    """y [R / stride^2, C] and its partial moments. x: an activated map; `sides`: its height and width; T = K * K."""
    x = Map(x_RC, sides[0] * sides[1], bounds)
    sizes, grid = _sizes(x, sides, weight_TC.shape[0], stride), _grid(x)
    cells = sizes["OH"] * sizes["OW"]
    y_RC = x_RC.new_empty(x.crops * cells, x.channels)
    partial = x.empty(x.parts, 2, grid[0], x.channels)
    tiles = {"ROWS": FORWARD_ROWS, "COLUMNS": COLUMNS}
    tensors = x_RC, weight_TC, bounds, y_RC, partial
    launch(depthwise_forward, grid, *tensors, warps=WARPS, stages=1, **sizes, **tiles)
    return [y_RC, partial]


@operator("mbconv_depthwise_backward")
def backward(
    grad_RC: Tensor, x_RC: Tensor, sides: list[int], bounds: Tensor, weight_TC: Tensor, stride: int,
    stats: Tensor | None,
) -> list[Tensor]:  # fmt: skip
    """The gradient of z, partial sums for its statistics, and the weight's gradient [C, T].

    With `stats`, x is the map before normalization and SiLU, and z the normalized one; without, x and z are the map
    that the convolution read.
    """
    x = Map(x_RC, sides[0] * sides[1], bounds)
    sizes, grid = _sizes(x, sides, weight_TC.shape[0], stride), _grid(x)
    grad_z_RC, partial = torch.empty_like(x_RC), x.empty(x.parts, 2, grid[0], x.channels)
    grad_weight = x.empty(x.parts * grid[0], *weight_TC.shape)
    tiles = {"ACTIVATE": stats is not None, "ROWS": BACKWARD_ROWS[sizes["K"]], "COLUMNS": COLUMNS}
    tensors = grad_RC, x_RC, weight_TC, partial if stats is None else stats, bounds, grad_z_RC, partial, grad_weight
    launch(depthwise_backward, grid, *tensors, warps=WARPS, stages=1, **sizes, **tiles)
    grad_CT = weight_TC.new_empty(x.channels, weight_TC.shape[0]).copy_(grad_weight.sum(0).T)
    return [grad_z_RC, partial, grad_CT]
