"""Batch statistics of a convolution's output in Triton, by tiles on store and then of all rows; and the output's
gradient through them.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import cdiv, launch
from ..partial_sums import MERGED_COLUMNS, MERGED_ROWS, MERGING_WARPS

ROWS, COLUMNS, WARPS = 32, 64, 4  # of a tile of the gradient
STATS_ROWS = 128  # of a tile of statistics
MOST_SPLITS = 64  # of the frames in sums over them, each with a partial sum of its own


@triton.jit
def store_batch_stats(value, batch_stats, tile, count, valid, column, C: tl.constexpr):
    """Mean and sum of squares about it of a tile's `count` valid rows, as stored: batch_stats [tiles, 2, C]."""
    mean = tl.sum(tl.where(valid[:, None], value, 0), 0) / count
    deviation = tl.where(valid[:, None], value - mean[None, :], 0)
    row = batch_stats + tile * 2 * C + column
    tl.store(row, mean, column < C)
    tl.store(row + C, tl.sum(deviation * deviation, 0), column < C)


@triton.jit(do_not_specialize=["rows"])
def batch_stats_of_tiles(out, batch_stats, rows, C: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    tile, column = tl.program_id(0), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    row = tile * ROWS + tl.arange(0, ROWS)
    valid, place = row < rows, row[:, None] * C + column[None, :]
    value = tl.load(out + place, valid[:, None] & (column < C)[None, :], 0).to(tl.float32)
    store_batch_stats(value, batch_stats, tile, tl.minimum(rows - tile * ROWS, ROWS), valid, column, C)


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


def batch_stats_of(out_RC: Tensor) -> list[Tensor]:
    """Mean and biased variance [C] of all rows."""
    rows, channels = out_RC.shape
    tiles = cdiv(rows, STATS_ROWS)
    batch_stats = torch.empty(tiles, 2, channels, dtype=torch.float32, device=out_RC.device)
    sizes = {"C": channels, "ROWS": STATS_ROWS, "COLUMNS": COLUMNS, "warps": 2 * WARPS, "stages": 1}
    launch(batch_stats_of_tiles, (tiles, cdiv(channels, COLUMNS)), out_RC, batch_stats, rows, **sizes)
    return merged(batch_stats, rows, STATS_ROWS)


def merged(batch_stats: Tensor, rows: int, rows_a_tile: int) -> list[Tensor]:
    """Mean and biased variance [C] of all rows from the tiles' [tiles, 2, C]."""
    tiles, _, channels = batch_stats.shape
    mean, var = batch_stats.new_empty(channels), batch_stats.new_empty(channels)
    sizes = {"C": channels, "COLUMNS": MERGED_COLUMNS, "TILES": MERGED_ROWS, "warps": MERGING_WARPS, "stages": 1}
    grid = (cdiv(channels, MERGED_COLUMNS),)
    launch(merge_batch_stats, grid, batch_stats, mean, var, tiles, rows, rows_a_tile, **sizes)
    return [mean, var]


def output_gradient(gradients: list[Tensor], out: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The whole gradient of a convolution's output, through its batch statistics too, and its sums over a part of the
    frames each, [parts, V, O].

    gradients: that of the output, and those of its batch statistics if used; out: the output with its batch statistics.
    """
    frames, joints, channels = out[0].shape
    batch_stats = len(gradients) > 1
    splits = min(MOST_SPLITS, cdiv(frames, ROWS))
    total = torch.empty_like(out[0]) if batch_stats else gradients[0]
    sums = torch.empty(splits, joints, channels, dtype=torch.float32, device=total.device)
    vectors = (out[1], *gradients[1:]) if batch_stats else (sums, sums, sums)
    numbers = frames, cdiv(frames, max(splits, 1)), frames * joints
    sizes = {"VC": joints * channels, "C": channels, "BATCH_STATS": batch_stats, "ROWS": ROWS, "COLUMNS": COLUMNS}
    launch(
        batch_stats_gradient, (splits, cdiv(joints * channels, COLUMNS)),
        gradients[0], out[0], *vectors, total, sums, *numbers, **sizes, warps=WARPS, stages=1,
    )  # fmt: skip
    return total, sums


def whole_gradient(gradients: list[Tensor | None], out: list[Tensor]) -> list[Tensor]:
    """Gradients of a convolution's output and of its batch statistics. Zeros replace a missing gradient; if neither
    statistic was used, only the output's gradient is returned.
    """
    used = len(out) if any(gradient is not None for gradient in gradients[1:]) else 1
    return [torch.zeros_like(x) if gradient is None else gradient for gradient, x in zip(gradients[:used], out)]
