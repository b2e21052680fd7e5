"""Adds up partial sums. Kernels write these instead of using atomics, so that results are bitwise reproducible."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import cdiv, launch

# Of a program: columns of one 32-byte sector, so that there are many programs, and as many rows as registers hold.
MERGED_COLUMNS, MERGED_ROWS, MERGING_WARPS = 8, 512, 8


@triton.jit
def store_sums(
    partial, sums, rows, block, WIDTH: tl.constexpr, STRIDE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """The sums over `rows` of a block of columns of partial [rows, STRIDE], of which WIDTH columns count."""
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, rows, ROWS):
        row = first + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & (column < WIDTH)[None, :]
        total += tl.load(partial + row[:, None] * STRIDE + column[None, :], inside, 0)
    tl.store(sums + column, tl.sum(total, 0).to(sums.dtype.element_ty), column < WIDTH)


@triton.jit(do_not_specialize=["rows"])
def sum_rows_kernel(
    partial, sums, rows, WIDTH: tl.constexpr, STRIDE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    store_sums(partial, sums, rows, tl.program_id(0), WIDTH, STRIDE, ROWS, COLUMNS)


def sum_rows(partial: Tensor, like: Tensor) -> Tensor:
    """The sum over the first dimension of partial [rows, ...], float32: as large as `like`, from its first elements,
    and in its type.
    """
    sums = torch.empty_like(like)
    sizes = {"WIDTH": like.numel(), "STRIDE": partial[0].numel() if len(partial) else 1}
    tile = {"ROWS": MERGED_ROWS, "COLUMNS": MERGED_COLUMNS, "warps": MERGING_WARPS, "stages": 1}
    grid = (cdiv(like.numel(), MERGED_COLUMNS),)
    launch(sum_rows_kernel, grid, partial, sums, len(partial), **sizes, **tile)
    return sums
