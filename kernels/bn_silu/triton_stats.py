"""Batch statistics of a map in Triton, over all ranks: partial sums, their merging, and the running statistics."""

import triton
import triton.language as tl
from torch import Tensor

from ..launch import cdiv, launch, operator
from .reference import EPS
from .triton_tiles import WARPS, Map, crop_tile, merge_moments, share_of, store_pair

MERGED_COLUMNS = 16


@triton.jit
def partial_stats(
    x, bounds, partial,
    HW: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """partial [P, 2, programs, C]: the mean of each program's share, and the sum of squared distances from it."""
    part = tl.program_id(2)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    first, end = share_of(bounds, part)
    mean, square = tl.zeros([COLUMNS], tl.float32), tl.zeros([COLUMNS], tl.float32)
    for crop in range(first, end):
        for row in range(0, HW, ROWS):
            offset, mask = crop_tile(crop, row, column, HW, C, ROWS)
            values = tl.load(x + offset, mask, 0).to(tl.float32)
            before = ((crop - first) * HW + row).to(tl.float32)
            count = tl.sum((row + tl.arange(0, ROWS) < HW).to(tl.float32), 0)
            mean, square = merge_moments(values, mask, count, before, mean, square)
    store_pair(partial, part, column, mean, square, C)


@triton.jit
def _finish(
    mean, var, count, part, column, weight, bias, running_mean, running_var, stats, momentum, eps,
    C: tl.constexpr,
):  # fmt: skip
    """Write the rows of `stats` and update the running statistics."""
    mask = column < C
    at = part * C + column
    old_mean, old_var = tl.load(running_mean + at, mask, 0), tl.load(running_var + at, mask, 0)
    step = tl.where(count > 1, momentum, 0.0)  # one value has no variance
    unbiased = var * (count / tl.maximum(count - 1, 1))
    tl.store(running_mean + at, old_mean + step * (mean - old_mean), mask)
    tl.store(running_var + at, old_var + step * (unbiased - old_var), mask)
    rstd = 1 / tl.sqrt_rn(var + eps)
    scale = tl.load(weight + column, mask, 0).to(tl.float32) * rstd
    shift = tl.load(bias + column, mask, 0).to(tl.float32) - mean * scale
    at = stats + part * 5 * C + column
    tl.store(at, mean, mask)
    tl.store(at + C, rstd, mask)
    tl.store(at + 2 * C, scale, mask)
    tl.store(at + 3 * C, shift, mask)
    tl.store(at + 4 * C, tl.zeros_like(mean) + 1 / tl.maximum(count, 1), mask)


@triton.jit
def merge_stats(
    partial, bounds, weight, bias, running_mean, running_var, tracked, stats, sums, momentum, eps,
    HW: tl.constexpr, C: tl.constexpr, P: tl.constexpr, PROGRAMS: tl.constexpr, COLUMNS: tl.constexpr,
    ALONE: tl.constexpr,
):  # fmt: skip
    """Merge the moments of all shares. ALONE: write `stats`. Otherwise write sums [P, 2 * C + 1] to add over ranks:
    distances from the running mean, their squares, and the count.
    """
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    program = tl.arange(0, PROGRAMS)
    filled = tl.zeros([], tl.int64)
    for part in tl.static_range(P):
        first, end = tl.load(bounds + part).to(tl.int32), tl.load(bounds + part + 1).to(tl.int32)
        share = tl.cdiv(end - first, PROGRAMS)
        crops = tl.minimum(tl.maximum(end - first - program * share, 0), share).to(tl.float32)[:, None]
        at = partial + (part * 2 * PROGRAMS + program[:, None]) * C + column[None, :]
        mask = (column[None, :] < C) & (crops > 0)
        means = tl.load(at, mask, 0)
        squares = tl.load(at + PROGRAMS * C, mask, 0)
        count = (end - first).to(tl.float32) * HW
        mean = tl.sum(means * crops, 0) / tl.maximum((end - first).to(tl.float32), 1)
        distance = means - mean[None, :]
        square = tl.sum(squares + distance * distance * crops * HW, 0)
        filled += (end > first).to(tl.int64)
        if ALONE:
            var = square / tl.maximum(count, 1)
            _finish(mean, var, count, part, column, weight, bias, running_mean, running_var, stats, momentum, eps, C)
        else:
            shift = mean - tl.load(running_mean + part * C + column, column < C, 0)
            at = sums + part * (2 * C + 1) + column
            tl.store(at, count * shift, column < C)
            tl.store(at + C, square + count * shift * shift, column < C)
            if tl.program_id(0) == 0:
                tl.store(sums + part * (2 * C + 1) + 2 * C, count)
    if ALONE:
        if tl.program_id(0) == 0:
            tl.store(tracked, tl.load(tracked) + filled)


@triton.jit
def finish_stats(
    sums, weight, bias, running_mean, running_var, tracked, stats, momentum, eps,
    C: tl.constexpr, P: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """`stats` from the sums of all ranks."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    mask = column < C
    filled = tl.zeros([], tl.int64)
    for part in tl.static_range(P):
        at = sums + part * (2 * C + 1)
        count = tl.load(at + 2 * C)
        shift = tl.load(at + column, mask, 0) / tl.maximum(count, 1)
        var = tl.maximum(tl.load(at + C + column, mask, 0) / tl.maximum(count, 1) - shift * shift, 0)
        mean = shift + tl.load(running_mean + part * C + column, mask, 0)
        _finish(mean, var, count, part, column, weight, bias, running_mean, running_var, stats, momentum, eps, C)
        filled += (count > 0).to(tl.int64)
    if tl.program_id(0) == 0:
        tl.store(tracked, tl.load(tracked) + filled)


@operator("bn_partial_moments")
def partial_moments(x_RC: Tensor, cells: int, bounds: Tensor) -> Tensor:
    """[P, 2, programs, C]: the mean of each program's share of a part, and the sum of squared distances from it."""
    x = Map(x_RC, cells, bounds)
    grid = x.grid(padding=False)
    partial = x.partial(grid[0])
    launch(partial_stats, grid, x_RC, bounds, partial, warps=WARPS, stages=1, **x.sizes())
    return partial


@operator("bn_stats_alone", mutates=("running_mean", "running_var", "tracked"))
def stats_alone(
    partial: Tensor, cells: int, bounds: Tensor, weight_C: Tensor, bias_C: Tensor,
    running_mean: Tensor, running_var: Tensor, tracked: Tensor, momentum: float,
) -> Tensor:  # fmt: skip
    """The `stats` of this rank alone; updates the running statistics."""
    stats = partial.new_empty(partial.shape[0], 5, partial.shape[-1])
    norm = weight_C, bias_C, running_mean, running_var, tracked
    _merge(partial, cells, bounds, norm, stats, momentum, alone=True)
    return stats


@operator("bn_rank_sums")
def rank_sums(
    partial: Tensor, cells: int, bounds: Tensor, weight_C: Tensor, bias_C: Tensor,
    running_mean: Tensor, running_var: Tensor, tracked: Tensor,
) -> Tensor:  # fmt: skip
    """The sums [P, 2 * C + 1] to add over all ranks."""
    sums = partial.new_empty(partial.shape[0], 2 * partial.shape[-1] + 1)
    norm = weight_C, bias_C, running_mean, running_var, tracked
    _merge(partial, cells, bounds, norm, sums, 0.0, alone=False)
    return sums


@operator("bn_stats_of_sums", mutates=("running_mean", "running_var", "tracked"))
def stats_of_sums(
    sums: Tensor, weight_C: Tensor, bias_C: Tensor, running_mean: Tensor, running_var: Tensor, tracked: Tensor,
    momentum: float,
) -> Tensor:  # fmt: skip
    """`stats` from the sums of all ranks; updates the running statistics."""
    parts, channels = len(sums), len(weight_C)
    stats = sums.new_empty(parts, 5, channels)
    sizes = {"C": channels, "P": parts, "COLUMNS": MERGED_COLUMNS}
    grid, norm = (cdiv(channels, MERGED_COLUMNS),), (weight_C, bias_C, running_mean, running_var, tracked)
    launch(finish_stats, grid, sums, *norm, stats, momentum, EPS, warps=1, stages=1, **sizes)
    return stats


def _merge(
    partial: Tensor, cells: int, bounds: Tensor, norm: tuple[Tensor, ...], out: Tensor, momentum: float, alone: bool
) -> None:
    """Write the `stats` of this rank `alone`, or the sums to add over ranks, to `out`."""
    parts, _, count, channels = partial.shape
    sizes = {"HW": cells, "C": channels, "P": parts, "PROGRAMS": count, "COLUMNS": MERGED_COLUMNS, "ALONE": alone}
    grid, numbers = (cdiv(channels, MERGED_COLUMNS),), (momentum, EPS if alone else 0.0)
    launch(merge_stats, grid, partial, bounds, *norm, out, out, *numbers, warps=WARPS, stages=1, **sizes)
