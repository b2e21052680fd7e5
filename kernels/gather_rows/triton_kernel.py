"""Rows by their index in Triton: padding or packing takes one launch, without a separate pass for zeros."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import cdiv, launch, operator

ROWS, COLUMNS, WARPS = 16, 256, 4  # of a tile


@triton.jit(do_not_specialize=["rows"])
def gather_rows_kernel(x, index, out, rows, W: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    source, inside = tl.load(index + row, row < rows, -1), (column < W)[None, :]
    value = tl.load(x + source[:, None] * W + column[None, :], (source >= 0)[:, None] & inside, 0)
    tl.store(out + row[:, None] * W + column[None, :], value, (row < rows)[:, None] & inside)


@operator("gather_rows")
def gather_rows(x_RW: Tensor, index_N: Tensor, inverse_R: Tensor) -> Tensor:
    """[N, W]"""
    rows, width = len(index_N), x_RW.shape[1]
    out_NW = torch.empty(rows, width, dtype=x_RW.dtype, device=x_RW.device)
    grid = cdiv(rows, ROWS), cdiv(width, COLUMNS)
    sizes = {"W": width, "ROWS": ROWS, "COLUMNS": COLUMNS, "warps": WARPS, "stages": 1}
    launch(gather_rows_kernel, grid, x_RW, index_N, out_NW, rows, **sizes)
    return out_NW


def _save(ctx, inputs, output) -> None:
    _, *indices = inputs
    ctx.save_for_backward(*indices)


def _gradients(ctx, grad_NW: Tensor):
    index_N, inverse_R = ctx.saved_tensors
    return gather_rows(grad_NW, inverse_R, index_N), None, None


gather_rows.register_autograd(_gradients, setup_context=_save)
