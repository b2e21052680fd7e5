"""Residual sum with dropout, and the RMS norm after it, in Triton, in one pass forward and one backward.

The backward pass draws the mask again from the same seed, so that nothing but the sum and its 1 / RMS is saved.
M columns, padded to a power of two.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..dropout.triton_kernel import kept
from ..launch import cdiv, launch, operator, padded
from ..partial_sums import sum_rows

ROWS, WARPS, WARPS_BACKWARD = 4, 4, 8  # of a tile; with fewer, float32 spills
PROGRAMS = 528  # of the backward pass, each with a partial sum of its own: four for each of an H200's multiprocessors


@triton.jit
def _place(row, rows, M: tl.constexpr, M_PADDED: tl.constexpr):
    """Offsets of rows [ROWS, M_PADDED], and a mask of those that exist."""
    column = tl.arange(0, M_PADDED)
    return row[:, None] * M + column[None, :], (row < rows)[:, None] & (column < M)[None, :]


@triton.jit(do_not_specialize=["rows"], do_not_specialize_on_alignment=["seed"])
def residual_rms_norm_forward(
    x, branch, scale, seed, z, y, rstd, rows, eps, p,
    DROPOUT: tl.constexpr, M: tl.constexpr, M_PADDED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """z = x + dropout(branch) and y = scale z rstd [rows, M]; rstd [rows] float32 is 1 / sqrt(mean(z^2) + eps)."""
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, M_PADDED)
    place, inside = _place(row, rows, M, M_PADDED)
    added = tl.load(branch + place, inside, 0).to(tl.float32)
    if DROPOUT:
        added *= kept(seed, tl.program_id(0), p, ROWS, M_PADDED)
    total = tl.load(x + place, inside, 0).to(tl.float32) + added
    total = total.to(z.dtype.element_ty)
    tl.store(z + place, total, inside)
    exact = total.to(tl.float32)
    rstd_R = 1 / tl.sqrt_rn(tl.sum(exact * exact, 1) / M + eps)
    tl.store(rstd + row, rstd_R, row < rows)
    value = exact * rstd_R[:, None] * tl.load(scale + column, column < M, 0).to(tl.float32)[None, :]
    tl.store(y + place, value.to(y.dtype.element_ty), inside)


@triton.jit(do_not_specialize=["rows", "tiles"], do_not_specialize_on_alignment=["seed"])
def residual_rms_norm_backward(
    grad_z, grad_y, z, rstd, scale, seed, grad_x, grad_branch, grad_scale, rows, tiles, p,
    DROPOUT: tl.constexpr, RESIDUAL: tl.constexpr, M: tl.constexpr, M_PADDED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """grad_scale [programs, M]: partial sums. RESIDUAL: z was used elsewhere too, with the gradient `grad_z`."""
    column = tl.arange(0, M_PADDED)
    scale_M = tl.load(scale + column, column < M, 0).to(tl.float32)[None, :]
    total = tl.zeros((ROWS, M_PADDED), tl.float32)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        row = tile * ROWS + tl.arange(0, ROWS)
        place, inside = _place(row, rows, M, M_PADDED)
        rstd_R1 = tl.load(rstd + row, row < rows, 0)[:, None]
        normed = tl.load(z + place, inside, 0).to(tl.float32) * rstd_R1
        upstream = tl.load(grad_y + place, inside, 0).to(tl.float32)
        total += upstream * normed
        upstream *= scale_M
        grad = rstd_R1 * (upstream - normed * (tl.sum(upstream * normed, 1) / M)[:, None])
        if RESIDUAL:
            grad += tl.load(grad_z + place, inside, 0).to(tl.float32)
        tl.store(grad_x + place, grad.to(grad_x.dtype.element_ty), inside)
        if DROPOUT:
            grad *= kept(seed, tile, p, ROWS, M_PADDED)
        tl.store(grad_branch + place, grad.to(grad_branch.dtype.element_ty), inside)
    tl.store(grad_scale + tl.program_id(0) * M + column, tl.sum(total, 0), column < M)


@operator("residual_rms_norm")
def forward(
    x_RM: Tensor, branch_RM: Tensor, scale_M: Tensor, eps: float, p: float, seed: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """z_RM, y_RM, and 1 / RMS of each row in float32."""
    assert seed is not None or not p, "dropout on a GPU needs a seed"
    rows, width = x_RM.shape
    z_RM, y_RM = torch.empty_like(x_RM), torch.empty_like(x_RM)
    rstd_R = torch.empty(rows, dtype=torch.float32, device=x_RM.device)
    sizes = {"DROPOUT": p > 0, "M": width, "M_PADDED": padded(width), "ROWS": ROWS, "warps": WARPS, "stages": 1}
    inputs = x_RM, branch_RM, scale_M, scale_M if seed is None else seed
    grid = (cdiv(rows, ROWS),)
    launch(residual_rms_norm_forward, grid, *inputs, z_RM, y_RM, rstd_R, rows, float(eps), float(p), **sizes)
    return z_RM, y_RM, rstd_R


@operator("residual_rms_norm_backward")
def backward(
    grad_z_RM: Tensor | None, grad_y_RM: Tensor, z_RM: Tensor, rstd_R: Tensor, scale_M: Tensor, p: float,
    seed: Tensor | None,
) -> list[Tensor]:  # fmt: skip
    """Gradients of x, branch and scale."""
    rows, width = z_RM.shape
    tiles = cdiv(rows, ROWS)
    programs = min(tiles, PROGRAMS)
    grad_x_RM, grad_branch_RM = torch.empty_like(z_RM), torch.empty_like(z_RM)
    grad_scale = torch.empty(programs, width, dtype=torch.float32, device=z_RM.device)
    inputs = grad_y_RM if grad_z_RM is None else grad_z_RM, grad_y_RM, z_RM, rstd_R, scale_M
    outputs = grad_x_RM, grad_branch_RM, grad_scale
    launch(
        residual_rms_norm_backward, (programs,), *inputs, scale_M if seed is None else seed, *outputs,
        rows, tiles, float(p), DROPOUT=p > 0, RESIDUAL=grad_z_RM is not None, M=width, M_PADDED=padded(width),
        ROWS=ROWS, warps=WARPS_BACKWARD, stages=1,
    )  # fmt: skip
    return [grad_x_RM, grad_branch_RM, sum_rows(grad_scale, scale_M)]


def _save(ctx, inputs, output) -> None:
    *_, scale_M, _, ctx.p, seed = inputs
    z_RM, _, rstd_R = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(z_RM, rstd_R, scale_M, seed)


def _gradients(ctx, grad_z_RM: Tensor | None, grad_y_RM: Tensor | None, _):
    z_RM, rstd_R, scale_M, seed = ctx.saved_tensors
    grad_y_RM = z_RM.new_zeros(z_RM.shape) if grad_y_RM is None else grad_y_RM
    return *backward(grad_z_RM, grad_y_RM, z_RM, rstd_R, scale_M, ctx.p, seed), None, None, None


forward.register_autograd(_gradients, setup_context=_save)
