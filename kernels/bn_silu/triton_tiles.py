"""Tiles of channels-last maps, shared by the Triton kernels that read and write maps.

A map [N, HW, C] is stored as rows [N * HW, C]. A program owns a block of channels and a share of one part's crops, and
passes over their cells in tiles of ROWS x COLUMNS. The padding after the last part counts as one more part. Sums over a
map are partial sums, one row per program, merged by one small launch: no atomics, bitwise deterministic.

`stats` [P, 5, C] float32 holds mean, 1 / standard deviation, scale, shift, and 1 / count (zero in evaluation, where
statistics are constants); all are zero for padding.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import cdiv, next_power_of_2, padded

TILE = 4096  # values of a tile
MOST_COLUMNS = 64
PROGRAMS = 256  # of each part: two parts give four programs to each of an H200's multiprocessors
WARPS = 4


@triton.jit
def share_of(bounds, part, AXIS: tl.constexpr = 0):
    """The range of a part's crops that this program handles, as int64 like `bounds`."""
    first, end = tl.load(bounds + part), tl.load(bounds + part + 1)
    share = tl.cdiv((end - first).to(tl.int32), tl.num_programs(AXIS))  # a division in int64 is a call with a stack
    first += tl.program_id(AXIS) * share
    return first, tl.minimum(first + share, end)


@triton.jit
def stat(stats, number, part, column, C: tl.constexpr, P: tl.constexpr):
    """One of the rows of `stats`; zero for padding."""
    return tl.load(stats + (part * 5 + number) * C + column, (column < C) & (part < P), 0)


@triton.jit
def crop_row(values, crop, column, C: tl.constexpr):
    """The columns of one crop's row of `values` [N, C]."""
    return tl.load(values + crop * C + column, column < C, 0).to(tl.float32)


@triton.jit
def crop_tile(crop, first, column, HW: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr):
    """Offsets of a tile of one crop, and a mask of those inside it."""
    row = first + tl.arange(0, ROWS)
    offset = crop * (HW * C) + (row[:, None] * C + column[None, :])
    return offset, (row[:, None] < HW) & (column[None, :] < C)


@triton.jit
def merge_moments(values, mask, count, before, mean, square):
    """Mean and squared distances of `before` rows, and of the `count` rows of a tile after them (Chan et al. 1983)."""
    tile_mean = tl.sum(tl.where(mask, values, 0), 0) / count
    centred = tl.where(mask, values - tile_mean[None, :], 0)
    distance = tile_mean - mean
    share = count / (before + count)
    square += tl.sum(centred * centred, 0) + distance * distance * before * share
    return mean + distance * share, square


@triton.jit
def store_pair(partial, part, column, first, second, C: tl.constexpr, AXIS: tl.constexpr = 0):
    """Store this program's row of both sums in partial [P, 2, programs, C]."""
    at = partial + (part * 2 * tl.num_programs(AXIS) + tl.program_id(AXIS)) * C + column
    tl.store(at, first, column < C)
    tl.store(at + tl.num_programs(AXIS) * C, second, column < C)


class Map:
    """The sizes of a map that is given as rows."""

    def __init__(self, x_RC: Tensor, cells: int, bounds: Tensor):
        rows, self.channels = x_RC.shape  # C
        self.cells = cells  # of a crop: HW
        self.crops = rows // cells  # N
        self.parts = bounds.shape[0] - 2  # P, without the padding
        self.columns = min(MOST_COLUMNS, padded(self.channels))  # of a block of channels
        self._device = x_RC.device

    def grid(self, padding: bool) -> tuple[int, int, int]:
        """Programs, blocks of channels, and parts, with or without the padding's part."""
        blocks = cdiv(self.channels, self.columns)
        return self.programs(blocks), blocks, self.parts + padding

    def programs(self, blocks: int) -> int:
        """Programs that share a part's crops in each block, a power of two: fewer with many blocks or few crops."""
        return max(1, min(PROGRAMS // next_power_of_2(blocks), next_power_of_2(self.crops)))

    def sizes(self) -> dict[str, int]:
        """The compile-time sizes of a pass over the map."""
        rows = min(TILE // self.columns, padded(self.cells))
        return {"HW": self.cells, "C": self.channels, "ROWS": rows, "COLUMNS": self.columns}

    def empty(self, *shape: int) -> Tensor:
        """An uninitialized float32 tensor on the map's device."""
        return torch.empty(shape, dtype=torch.float32, device=self._device)

    def partial(self, programs: int) -> Tensor:
        """Uninitialized partial sums of two kinds, [P, 2, programs, C]."""
        return self.empty(self.parts, 2, programs, self.channels)
