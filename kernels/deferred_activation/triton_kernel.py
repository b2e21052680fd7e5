"""What surrounds a convolution in Triton: activation on load, batch statistics on store, and the gradients of both.

A tile has R rows (frame, joint) of [rows, C], and `place` [R, C] holds their offsets. An activation's KIND lists its
components.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import launch
from ..partial_sums import MERGED_COLUMNS, MERGED_ROWS, MERGING_WARPS, sum_rows

# Plain; with scale and shift; with a residual; with one that has its own scale and shift: by the number of tensors.
PLAIN, SCALED, ADDED, BOTH_SCALED = range(4)
KINDS = {1: PLAIN, 3: SCALED, 4: ADDED, 6: BOTH_SCALED}
VECTORS = {1: 0, 3: 2, 4: 2, 6: 4}  # scales and shifts among them
ROWS, COLUMNS, WARPS = 32, 64, 4  # of a tile of what has no matrix product
MOST_SPLITS = 64  # of the frames in sums over frames, one partial sum each


def arguments(x: list[Tensor]) -> list[Tensor]:
    """An activation's tensors as the six arguments of a kernel. Placeholders for absent tensors are never read."""
    return [*x, *x[:1] * (6 - len(x))]


@triton.jit
def by_channel(vector, column, C: tl.constexpr):
    """[1, C] of a float vector, in float32."""
    return tl.load(vector + column, column < C, 0).to(tl.float32)[None, :]


@triton.jit
def activated(
    conv_out, scale, shift, residual, residual_scale, residual_shift, place, inside, column,
    C: tl.constexpr, KIND: tl.constexpr, RELU_BEFORE_RESIDUAL: tl.constexpr,
):  # fmt: skip
    """x [R, C] in the dtype of `conv_out`; zero outside."""
    value = tl.load(conv_out + place, inside, 0)
    if KIND > 0:
        total = value.to(tl.float32) * by_channel(scale, column, C) + by_channel(shift, column, C)
        if RELU_BEFORE_RESIDUAL:
            total = tl.maximum(total, 0, propagate_nan=tl.PropagateNan.ALL)
        if KIND == 2:
            total += tl.load(residual + place, inside, 0).to(tl.float32)
        if KIND == 3:
            added = tl.load(residual + place, inside, 0).to(tl.float32)
            total += added * by_channel(residual_scale, column, C) + by_channel(residual_shift, column, C)
        total = tl.maximum(total, 0, propagate_nan=tl.PropagateNan.ALL)
        value = tl.where(inside, total, 0).to(conv_out.dtype.element_ty)
    return value


@triton.jit
def store_activation_gradient(
    grad_x, x, conv_out, scale, shift, residual, residual_scale, grad_conv_out, grad_residual, sums,
    tile, place, inside, column,
    C: tl.constexpr, KIND: tl.constexpr, RELU_BEFORE_RESIDUAL: tl.constexpr,
):  # fmt: skip
    """Store the gradients of conv_out and residual, given that of x [R, C] (float32), and the tile's partial sums for
    the gradients of scales and shifts: sums [tiles, 4, C].
    """
    if KIND > 0:
        grad_x = tl.where(tl.load(x + place, inside, 0).to(tl.float32) > 0, grad_x, 0)
        row = sums + tile * 4 * C + column
        if KIND == 2:
            tl.store(grad_residual + place, grad_x.to(grad_residual.dtype.element_ty), inside)
        if KIND == 3:
            added = tl.load(residual + place, inside, 0).to(tl.float32)
            tl.store(row + 2 * C, tl.sum(grad_x * added, 0), column < C)
            tl.store(row + 3 * C, tl.sum(grad_x, 0), column < C)
            scaled = grad_x * by_channel(residual_scale, column, C)
            tl.store(grad_residual + place, scaled.to(grad_residual.dtype.element_ty), inside)
        value, factor = tl.load(conv_out + place, inside, 0).to(tl.float32), by_channel(scale, column, C)
        if RELU_BEFORE_RESIDUAL:
            grad_x = tl.where(value * factor + by_channel(shift, column, C) > 0, grad_x, 0)
        tl.store(row, tl.sum(grad_x * value, 0), column < C)
        tl.store(row + C, tl.sum(grad_x, 0), column < C)
        grad_x = grad_x * factor
    tl.store(grad_conv_out + place, grad_x.to(grad_conv_out.dtype.element_ty), inside)


@triton.jit
def store_batch_stats(value, batch_stats, tile, count, valid, column, C: tl.constexpr):
    """Mean and sum of squares about it of a tile's `count` valid rows, as stored: batch_stats [tiles, 2, C]."""
    mean = tl.sum(tl.where(valid[:, None], value, 0), 0) / count
    deviation = tl.where(valid[:, None], value - mean[None, :], 0)
    row = batch_stats + tile * 2 * C + column
    tl.store(row, mean, column < C)
    tl.store(row + C, tl.sum(deviation * deviation, 0), column < C)


@triton.jit(do_not_specialize=["tiles", "rows", "rows_a_tile"])
def merge_batch_stats(
    batch_stats, mean, var, tiles, rows, rows_a_tile, C: tl.constexpr, COLUMNS: tl.constexpr, TILES: tl.constexpr
):
    """Mean and biased variance of all rows, merged from those of the tiles. The last tile may be partial."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((COLUMNS,), tl.float32)
    for first in range(0, tiles, TILES):
        tile = first + tl.arange(0, TILES)
        count = tl.maximum(tl.minimum(rows - tile * rows_a_tile, rows_a_tile), 0).to(tl.float32)[:, None]
        inside = (tile < tiles)[:, None] & (column < C)[None, :]
        total += tl.sum(count * tl.load(batch_stats + tile[:, None] * 2 * C + column[None, :], inside, 0), 0)
    centre = total / tl.maximum(rows, 1)
    squares = tl.zeros((COLUMNS,), tl.float32)
    for first in range(0, tiles, TILES):
        tile = first + tl.arange(0, TILES)
        count = tl.maximum(tl.minimum(rows - tile * rows_a_tile, rows_a_tile), 0).to(tl.float32)[:, None]
        inside = (tile < tiles)[:, None] & (column < C)[None, :]
        place = tile[:, None] * 2 * C + column[None, :]
        deviation = tl.load(batch_stats + place, inside, 0) - centre[None, :]
        within = tl.load(batch_stats + place + C, inside, 0)
        squares += tl.sum(tl.where(inside, within + count * deviation * deviation, 0), 0)
    tl.store(mean + column, centre, column < C)
    tl.store(var + column, squares / tl.maximum(rows, 1), column < C)


@triton.jit(do_not_specialize=["frames", "frames_a_split", "rows"])
def batch_stats_gradient(
    grad_out, out, mean, grad_mean, grad_var, total, sums, frames, frames_a_split, rows,
    VC: tl.constexpr, C: tl.constexpr, BATCH_STATS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The gradient of [frames, VC] from both the values and their batch statistics, and its sum over each split's
    frames: sums [splits, VC].
    """
    split, column = tl.program_id(0), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    if BATCH_STATS:
        channel = column % C
        centre = tl.load(mean + channel)[None, :]
        even, slope = tl.load(grad_mean + channel)[None, :] / rows, 2 * tl.load(grad_var + channel)[None, :] / rows
    share = tl.zeros((COLUMNS,), tl.float32)
    start = split * frames_a_split
    end = tl.minimum(start + frames_a_split, frames)
    for begin in range(start, end, ROWS):
        frame = begin + tl.arange(0, ROWS)
        inside = (frame < end)[:, None] & (column < VC)[None, :]
        place = frame[:, None] * VC + column[None, :]
        value = tl.load(grad_out + place, inside, 0).to(tl.float32)
        if BATCH_STATS:
            value += even + slope * (tl.load(out + place, inside, 0).to(tl.float32) - centre)
            rounded = tl.where(inside, value, 0).to(total.dtype.element_ty)
            tl.store(total + place, rounded, inside)
            value = rounded.to(tl.float32)
        share += tl.sum(value, 0)
    tl.store(sums + split * VC + column, share, column < VC)


@triton.jit(do_not_specialize=["rows"])
def activation_forward(
    conv_out, scale, shift, residual, residual_scale, residual_shift, x, rows,
    C: tl.constexpr, KIND: tl.constexpr, RELU_BEFORE_RESIDUAL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    place, inside = row[:, None] * C + column[None, :], (row < rows)[:, None] & (column < C)[None, :]
    value = activated(
        conv_out,
        scale,
        shift,
        residual,
        residual_scale,
        residual_shift,
        place,
        inside,
        column,
        C,
        KIND,
        RELU_BEFORE_RESIDUAL,
    )
    tl.store(x + place, value, inside)


@triton.jit(do_not_specialize=["rows"])
def activation_backward(
    grad_x, x, conv_out, scale, shift, residual, residual_scale, grad_conv_out, grad_residual, sums, rows,
    C: tl.constexpr, KIND: tl.constexpr, RELU_BEFORE_RESIDUAL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    row, column = tile * ROWS + tl.arange(0, ROWS), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    place, inside = row[:, None] * C + column[None, :], (row < rows)[:, None] & (column < C)[None, :]
    grad = tl.load(grad_x + place, inside, 0).to(tl.float32)
    store_activation_gradient(
        grad, x, conv_out, scale, shift, residual, residual_scale, grad_conv_out, grad_residual, sums,
        tile, place, inside, column,
        C, KIND, RELU_BEFORE_RESIDUAL,
    )  # fmt: skip


def forward(x: list[Tensor], relu_before_residual: bool) -> Tensor:
    """x_FVC of an activation (`DeferredActivation.tensors`) that is not plain."""
    frames, joints, channels = x[0].shape
    rows, out = frames * joints, torch.empty_like(x[0])
    sizes = {
        "C": channels,
        "KIND": KINDS[len(x)],
        "RELU_BEFORE_RESIDUAL": relu_before_residual,
        "ROWS": ROWS,
        "COLUMNS": COLUMNS,
    }
    grid = triton.cdiv(rows, ROWS), triton.cdiv(channels, COLUMNS)
    launch(activation_forward, grid, *arguments(x), out, rows, **sizes, warps=WARPS, stages=1)
    return out


class ActivationGradient:
    """Buffers for an activation's gradients. A kernel fills them with `store_activation_gradient`, and another one adds
    up `sums` over the tiles: merged [0, 2 or 4, C], as many rows as the activation has scales and shifts.
    """

    def __init__(self, x: list[Tensor], relu_before_residual: bool, tiles: int):
        self.x = x
        self.constants = {"KIND": KINDS[len(x)], "RELU_BEFORE_RESIDUAL": relu_before_residual}
        self.grad_conv_out = torch.empty_like(x[0])
        self.grad_residual = torch.empty_like(x[0]) if len(x) > 3 else self.grad_conv_out
        self.sums = torch.empty(tiles, 4, x[0].shape[2], dtype=torch.float32, device=x[0].device)
        self.merged = self.sums.new_empty(VECTORS[len(x)], x[0].shape[2])

    def arguments(self, x_FVC: Tensor) -> list[Tensor]:
        """What `store_activation_gradient` takes from `x` to `sums`; x_FVC: the activation computed."""
        return [x_FVC, *arguments(self.x)[:5], self.grad_conv_out, self.grad_residual, self.sums]

    def gradients(self) -> list[Tensor]:
        """Those of the activation as an operator returns them, where no two tensors may share memory: of the output, of
        the residual, and `merged`, as far as it has them.
        """
        if len(self.x) == 1:
            return [self.grad_conv_out]
        return [self.grad_conv_out, *([self.grad_residual] if len(self.x) > 3 else []), self.merged]


def backward(grad_x_FVC: Tensor, x_FVC: Tensor, x: list[Tensor], relu_before_residual: bool) -> list[Tensor]:
    """Gradients as `ActivationGradient.gradients` gives them."""
    frames, joints, channels = x_FVC.shape
    rows = frames * joints
    grid = triton.cdiv(rows, ROWS), triton.cdiv(channels, COLUMNS)
    result = ActivationGradient(x, relu_before_residual, grid[0])
    sizes = {"C": channels, **result.constants, "ROWS": ROWS, "COLUMNS": COLUMNS}
    launch(activation_backward, grid, grad_x_FVC, *result.arguments(x_FVC), rows, **sizes, warps=WARPS, stages=1)
    if len(x) > 1:
        result.merged = sum_rows(result.sums, result.merged)
    return result.gradients()


def merged(batch_stats: Tensor, rows: int, rows_a_tile: int) -> list[Tensor]:
    """Mean and biased variance [C] of all rows from the tiles' [tiles, 2, C]."""
    tiles, _, channels = batch_stats.shape
    mean, var = batch_stats.new_empty(channels), batch_stats.new_empty(channels)
    sizes = {"C": channels, "COLUMNS": MERGED_COLUMNS, "TILES": MERGED_ROWS, "warps": MERGING_WARPS, "stages": 1}
    grid = (triton.cdiv(channels, MERGED_COLUMNS),)
    launch(merge_batch_stats, grid, batch_stats, mean, var, tiles, rows, rows_a_tile, **sizes)
    return [mean, var]


def output_gradient(gradients: list[Tensor], out: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The whole gradient of a convolution's output, through its batch statistics too, and its sums over a part of the
    frames each, [parts, V, O].

    gradients: that of the output, and those of its batch statistics if used; out: the output with its batch statistics.
    """
    frames, joints, channels = out[0].shape
    batch_stats = len(gradients) > 1
    splits = min(MOST_SPLITS, triton.cdiv(frames, ROWS))
    total = torch.empty_like(out[0]) if batch_stats else gradients[0]
    sums = torch.empty(splits, joints, channels, dtype=torch.float32, device=total.device)
    vectors = (out[1], *gradients[1:]) if batch_stats else (sums, sums, sums)
    numbers = frames, triton.cdiv(frames, max(splits, 1)), frames * joints
    sizes = {"VC": joints * channels, "C": channels, "BATCH_STATS": batch_stats, "ROWS": ROWS, "COLUMNS": COLUMNS}
    launch(
        batch_stats_gradient, (splits, triton.cdiv(joints * channels, COLUMNS)),
        gradients[0], out[0], *vectors, total, sums, *numbers, **sizes, warps=WARPS, stages=1,
    )  # fmt: skip
    return total, sums
