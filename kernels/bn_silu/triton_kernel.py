"""BatchNorm + SiLU in Triton, on channels-last maps [N, HW, C], statistics in float32.

A program owns a block of channels and a share of one part's crops; it passes over their cells in tiles of ROWS x
COLUMNS. The padding after the last part counts as one more part, with zero scale and shift. Each program writes
one row of partial sums, and one small launch merges them: no atomics, bitwise deterministic. Kernels read only the
convolution's output and recompute normalized and activated values where needed.

`stats` [P, 5, C] float32 holds mean, 1 / standard deviation, scale, shift, and 1 / count (zero in evaluation, where
statistics are constants).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import launch, padded

TILE = 4096  # values of a tile
MOST_COLUMNS = 64
PROGRAMS = 256  # of each part: two parts give four programs to each of an H200's multiprocessors
MERGED_COLUMNS = 16
WARPS = 4


@triton.jit
def _share(bounds, part):
    """This program's crops of a part; int64, as offsets into a map must be."""
    first, end = tl.load(bounds + part), tl.load(bounds + part + 1)
    share = tl.cdiv(end - first, tl.num_programs(0))
    first += tl.program_id(0) * share
    return first, tl.minimum(first + share, end)


@triton.jit
def _stat(stats, number, part, column, C: tl.constexpr, P: tl.constexpr):
    """One of the rows of `stats`; zero for padding."""
    return tl.load(stats + (part * 5 + number) * C + column, (column < C) & (part < P), 0)


@triton.jit
def _row_of(values, crop, column, C: tl.constexpr):
    """[COLUMNS] of [N, C]."""
    return tl.load(values + crop * C + column, column < C, 0).to(tl.float32)


@triton.jit
def _tile(crop, first, column, HW: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr):
    """Offsets of a tile, and which of them exist."""
    row = first + tl.arange(0, ROWS)
    offset = crop * (HW * C) + (row[:, None] * C + column[None, :])
    return offset, (row[:, None] < HW) & (column[None, :] < C)


@triton.jit
def partial_stats(
    x, bounds, partial,
    HW: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """partial [P, 2, programs, C]: mean, and squared distances from it, of each program's share (Chan et al. 1983)."""
    part = tl.program_id(2)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    first, end = _share(bounds, part)
    mean, square = tl.zeros([COLUMNS], tl.float32), tl.zeros([COLUMNS], tl.float32)
    for crop in range(first, end):
        for row in range(0, HW, ROWS):
            offset, mask = _tile(crop, row, column, HW, C, ROWS)
            values = tl.load(x + offset, mask, 0).to(tl.float32)
            before = ((crop - first) * HW + row).to(tl.float32)
            count = tl.sum((row + tl.arange(0, ROWS) < HW).to(tl.float32), 0)
            of_tile = tl.sum(values, 0) / count
            centred = tl.where(mask, values - of_tile[None, :], 0)
            distance = of_tile - mean
            share = count / (before + count)
            square += tl.sum(centred * centred, 0) + distance * distance * before * share
            mean += distance * share
    at = partial + (part * 2 * tl.num_programs(0) + tl.program_id(0)) * C + column
    tl.store(at, mean, column < C)
    tl.store(at + tl.num_programs(0) * C, square, column < C)


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
    """All shares together. ALONE: `stats` at once. Else sums [P, 2 * C + 1] about the running mean, to be added over
    ranks: of distances, of their squares, and the count.
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
        mean_of = tl.load(at, mask, 0)
        square_of = tl.load(at + PROGRAMS * C, mask, 0)
        count = (end - first).to(tl.float32) * HW
        mean = tl.sum(mean_of * crops, 0) / tl.maximum((end - first).to(tl.float32), 1)
        distance = mean_of - mean[None, :]
        square = tl.sum(square_of + distance * distance * crops * HW, 0)
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


@triton.jit
def bn_silu_apply(
    x, stats, bounds, gate, y,
    HW: tl.constexpr, C: tl.constexpr, P: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    ACTIVATE: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    """y = gate * silu(scale * x + shift)."""
    part = tl.program_id(2)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    first, end = _share(bounds, part)
    scale, shift = _stat(stats, 2, part, column, C, P)[None, :], _stat(stats, 3, part, column, C, P)[None, :]
    for crop in range(first, end):
        if GATED:
            of_crop = _row_of(gate, crop, column, C)[None, :]
        for row in range(0, HW, ROWS):
            offset, mask = _tile(crop, row, column, HW, C, ROWS)
            z = tl.load(x + offset, mask, 0).to(tl.float32) * scale + shift
            if ACTIVATE:
                z *= tl.sigmoid(z)
            if GATED:
                z *= of_crop
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
    first, end = _share(bounds, part)
    scale, shift = _stat(stats, 2, part, column, C, P)[None, :], _stat(stats, 3, part, column, C, P)[None, :]
    for crop in range(first, end):
        total = tl.zeros([COLUMNS], tl.float32)
        for row in range(0, HW, ROWS):
            offset, mask = _tile(crop, row, column, HW, C, ROWS)
            z = tl.load(x + offset, mask, 0).to(tl.float32) * scale + shift
            z = tl.where(mask, z * tl.sigmoid(z), 0)
            if WEIGHTED:
                z *= tl.load(grad + offset, mask, 0).to(tl.float32)
            total += tl.sum(z, 0)
        at = mean + crop * C + column
        tl.store(at, total if WEIGHTED else total / HW, column < C)


@triton.jit
def _grad_normal(
    x, grad, offset, mask, scale, shift, of_crop, grad_of_crop, ACTIVATE: tl.constexpr, GATED: tl.constexpr
):
    """x, and the gradient of z = scale * x + shift, zero where the tile has no cell."""
    x = tl.load(x + offset, mask, 0).to(tl.float32)
    grad = tl.load(grad + offset, mask, 0).to(tl.float32)
    if GATED:
        grad = grad * of_crop + grad_of_crop
    if ACTIVATE:
        z = x * scale + shift
        sigmoid = tl.sigmoid(z)
        grad *= sigmoid * (1 + z * (1 - sigmoid))
    return x, tl.where(mask, grad, 0)


@triton.jit
def bn_silu_sums(
    grad, x, stats, bounds, gate, grad_mean, partial,
    HW: tl.constexpr, C: tl.constexpr, P: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    ACTIVATE: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    """partial [P, 2, programs, C]: sums of the gradient of z, and of its products with the normalized x."""
    part = tl.program_id(2)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    first, end = _share(bounds, part)
    mean, rstd = _stat(stats, 0, part, column, C, P)[None, :], _stat(stats, 1, part, column, C, P)
    scale, shift = _stat(stats, 2, part, column, C, P)[None, :], _stat(stats, 3, part, column, C, P)[None, :]
    total, product = tl.zeros([COLUMNS], tl.float32), tl.zeros([COLUMNS], tl.float32)
    for crop in range(first, end):
        of_crop, grad_of_crop = scale, shift  # unused unless GATED
        if GATED:
            of_crop = _row_of(gate, crop, column, C)[None, :]
            grad_of_crop = _row_of(grad_mean, crop, column, C)[None, :] / HW
        for row in range(0, HW, ROWS):
            offset, mask = _tile(crop, row, column, HW, C, ROWS)
            values, grad_z = _grad_normal(x, grad, offset, mask, scale, shift, of_crop, grad_of_crop, ACTIVATE, GATED)
            total += tl.sum(grad_z, 0)
            product += tl.sum(grad_z * (values - mean), 0)
    at = partial + (part * 2 * tl.num_programs(0) + tl.program_id(0)) * C + column
    tl.store(at, total, column < C)
    tl.store(at + tl.num_programs(0) * C, product * rstd, column < C)


@triton.jit
def merge_sums(
    partial, sums, grad_weight, grad_bias,
    C: tl.constexpr, P: tl.constexpr, PROGRAMS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """sums [P, 2, C] over the programs; the gradients of weight and bias are those over the parts."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    mask = column < C
    program = tl.arange(0, PROGRAMS)
    of_weight, of_bias = tl.zeros([COLUMNS], tl.float32), tl.zeros([COLUMNS], tl.float32)
    for part in tl.static_range(P):
        at = partial + (part * 2 * PROGRAMS + program[:, None]) * C + column[None, :]
        total = tl.sum(tl.load(at, mask[None, :], 0), 0)
        product = tl.sum(tl.load(at + PROGRAMS * C, mask[None, :], 0), 0)
        tl.store(sums + part * 2 * C + column, total, mask)
        tl.store(sums + (part * 2 + 1) * C + column, product, mask)
        of_bias += total
        of_weight += product
    tl.store(grad_weight + column, of_weight.to(grad_weight.dtype.element_ty), mask)
    tl.store(grad_bias + column, of_bias.to(grad_bias.dtype.element_ty), mask)


@triton.jit
def bn_silu_backward(
    grad, x, stats, bounds, gate, grad_mean, sums, grad_x,
    HW: tl.constexpr, C: tl.constexpr, P: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    ACTIVATE: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    """The gradient of x; `sums` [P, 2, C] are those of all ranks."""
    part = tl.program_id(2)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    first, end = _share(bounds, part)
    mean, rstd = _stat(stats, 0, part, column, C, P), _stat(stats, 1, part, column, C, P)
    scale, shift = _stat(stats, 2, part, column, C, P), _stat(stats, 3, part, column, C, P)
    per_value = _stat(stats, 4, part, column, C, P)
    is_real = (column < C) & (part < P)
    slope = rstd * per_value * tl.load(sums + (part * 2 + 1) * C + column, is_real, 0)
    constant = per_value * tl.load(sums + part * 2 * C + column, is_real, 0)
    scale, shift = scale[None, :], shift[None, :]
    for crop in range(first, end):
        of_crop, grad_of_crop = scale, shift  # unused unless GATED
        if GATED:
            of_crop = _row_of(gate, crop, column, C)[None, :]
            grad_of_crop = _row_of(grad_mean, crop, column, C)[None, :] / HW
        for row in range(0, HW, ROWS):
            offset, mask = _tile(crop, row, column, HW, C, ROWS)
            values, grad_z = _grad_normal(x, grad, offset, mask, scale, shift, of_crop, grad_of_crop, ACTIVATE, GATED)
            result = scale * (grad_z - constant[None, :] - slope[None, :] * (values - mean[None, :]))
            tl.store(grad_x + offset, result.to(grad_x.dtype.element_ty), mask)


def programs(crops: int, channels: int) -> int:
    """Programs of each part and block of channels, a power of two: fewer where there are more blocks or few crops."""
    blocks = triton.next_power_of_2(triton.cdiv(channels, columns(channels)))
    return max(1, min(PROGRAMS // blocks, triton.next_power_of_2(crops)))


def columns(channels: int) -> int:
    """Channels of a block."""
    return min(MOST_COLUMNS, padded(channels))


def _sizes(x_RC: Tensor, cells: int) -> dict[str, int]:
    """The compile-time sizes of a pass over a map."""
    channels = x_RC.shape[1]
    wide = columns(channels)
    return {"HW": cells, "C": channels, "ROWS": min(TILE // wide, padded(cells)), "COLUMNS": wide}


def _grid(x_RC: Tensor, cells: int, parts: int) -> tuple[int, int, int]:
    rows, channels = x_RC.shape
    return programs(rows // cells, channels), triton.cdiv(channels, columns(channels)), parts


def _new(x_RC: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=x_RC.device)


def batch_stats(x_RC: Tensor, cells: int, bounds: Tensor, norm: list[Tensor], momentum: float, eps: float) -> Tensor:
    """`stats` of a map on this rank alone; norm: weight, bias, running mean and variance, batches tracked."""
    partial, stats = _partial(x_RC, cells, bounds), _new(x_RC, len(bounds) - 2, 5, x_RC.shape[1])
    _merge(partial, cells, bounds, norm, stats, stats, momentum, eps, alone=True)
    return stats


def rank_sums(x_RC: Tensor, cells: int, bounds: Tensor, norm: list[Tensor]) -> Tensor:
    """[P, 2 * C + 1] to be added over all ranks."""
    sums = _new(x_RC, len(bounds) - 2, 2 * x_RC.shape[1] + 1)
    _merge(_partial(x_RC, cells, bounds), cells, bounds, norm, sums, sums, 0.0, 0.0, alone=False)
    return sums


def stats_of_sums(sums: Tensor, norm: list[Tensor], momentum: float, eps: float) -> Tensor:
    """`stats` from the sums of all ranks."""
    parts, channels = len(sums), norm[0].shape[0]
    stats = _new(sums, parts, 5, channels)
    sizes = {"C": channels, "P": parts, "COLUMNS": MERGED_COLUMNS}
    grid = (triton.cdiv(channels, MERGED_COLUMNS),)
    launch(finish_stats, grid, sums, *norm, stats, momentum, eps, warps=1, stages=1, **sizes)
    return stats


def _partial(x_RC: Tensor, cells: int, bounds: Tensor) -> Tensor:
    parts, channels = len(bounds) - 2, x_RC.shape[1]
    partial = _new(x_RC, parts, 2, programs(len(x_RC) // cells, channels), channels)
    launch(
        partial_stats, _grid(x_RC, cells, parts), x_RC, bounds, partial, warps=WARPS, stages=1, **_sizes(x_RC, cells)
    )
    return partial


def _merge(
    partial: Tensor, cells: int, bounds: Tensor, norm: list[Tensor], stats: Tensor, sums: Tensor,
    momentum: float, eps: float, alone: bool,
) -> None:  # fmt: skip
    parts, _, count, channels = partial.shape
    sizes = {"HW": cells, "C": channels, "P": parts, "PROGRAMS": count, "COLUMNS": MERGED_COLUMNS, "ALONE": alone}
    grid = (triton.cdiv(channels, MERGED_COLUMNS),)
    launch(merge_stats, grid, partial, bounds, *norm, stats, sums, momentum, eps, warps=WARPS, stages=1, **sizes)


def apply(x_RC: Tensor, cells: int, stats: Tensor, bounds: Tensor, gate_NC: Tensor | None, activate: bool) -> Tensor:
    """y [R, C]."""
    y_RC = torch.empty_like(x_RC)
    gate = stats if gate_NC is None else gate_NC
    flags = dict(ACTIVATE=activate, GATED=gate_NC is not None, P=len(stats), **_sizes(x_RC, cells))
    grid = _grid(x_RC, cells, len(stats) + 1)
    launch(bn_silu_apply, grid, x_RC, stats, bounds, gate, y_RC, warps=WARPS, stages=1, **flags)
    return y_RC


def mean(x_RC: Tensor, cells: int, stats: Tensor, bounds: Tensor, grad_RC: Tensor | None) -> Tensor:
    """[N, C] float32: the means of the activated map, or the sums of its products with `grad_RC`."""
    result = _new(x_RC, len(x_RC) // cells, x_RC.shape[1])
    weighted = grad_RC is not None
    grid, sizes = _grid(x_RC, cells, len(stats) + 1), _sizes(x_RC, cells)
    grad = x_RC if grad_RC is None else grad_RC
    launch(
        bn_silu_mean, grid, x_RC, stats, bounds, grad, result,
        warps=WARPS, stages=1, P=len(stats), WEIGHTED=weighted, **sizes,
    )  # fmt: skip
    return result


def backward_sums(
    grad_RC: Tensor, x_RC: Tensor, cells: int, stats: Tensor, bounds: Tensor, gate: list[Tensor], activate: bool,
    weight_C: Tensor,
) -> list[Tensor]:  # fmt: skip
    """`sums` [P, 2, C] of this rank, and the gradients of weight and bias; gate: [N, C] and its mean's gradient."""
    parts, _, channels = stats.shape
    count = programs(len(x_RC) // cells, channels)
    partial, sums = _new(x_RC, parts, 2, count, channels), _new(x_RC, parts, 2, channels)
    grads = [torch.empty_like(weight_C) for _ in range(2)]
    gated = gate or [stats, stats]
    flags = dict(ACTIVATE=activate, GATED=bool(gate), P=parts, **_sizes(x_RC, cells))
    grid = _grid(x_RC, cells, parts)
    launch(bn_silu_sums, grid, grad_RC, x_RC, stats, bounds, *gated, partial, warps=WARPS, stages=1, **flags)
    sizes = {"C": channels, "P": parts, "PROGRAMS": count, "COLUMNS": MERGED_COLUMNS}
    launch(merge_sums, (triton.cdiv(channels, MERGED_COLUMNS),), partial, sums, *grads, warps=WARPS, stages=1, **sizes)
    return [sums, *grads]


def backward_map(
    grad_RC: Tensor, x_RC: Tensor, cells: int, stats: Tensor, bounds: Tensor, gate: list[Tensor], activate: bool,
    sums: Tensor,
) -> Tensor:  # fmt: skip
    """The gradient of x [R, C]; `sums` of all ranks."""
    grad_x_RC = torch.empty_like(x_RC)
    gated = gate or [stats, stats]
    flags = dict(ACTIVATE=activate, GATED=bool(gate), P=len(stats), **_sizes(x_RC, cells))
    grid = _grid(x_RC, cells, len(stats) + 1)
    launch(
        bn_silu_backward, grid, grad_RC, x_RC, stats, bounds, *gated, sums, grad_x_RC, warps=WARPS, stages=1, **flags
    )
    return grad_x_RC
