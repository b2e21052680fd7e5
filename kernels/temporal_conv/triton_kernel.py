"""Temporal convolution in Triton: on flat rows (frame, joint) a tap is a shift by whole frames, so that the convolution
is one matrix product over taps and channels together; each frame's clip says which taps are beyond its ends.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import launch

MOST_SPLITS = 16  # of the rows in the weights' gradient, each with a partial sum of its own


@triton.jit
def _taps(source, row, frame, first, last, shift, column, mask, V: tl.constexpr, C: tl.constexpr):
    """Rows of `source` [rows, C] shifted by so many frames, zero beyond the clip."""
    inside = mask & (frame + shift >= first) & (frame + shift < last)
    return tl.load(
        source + (row + shift * V)[:, None] * C + column[None, :], inside[:, None] & (column < C)[None, :], 0
    )


@triton.jit
def temporal_conv_forward(
    x, weight, first_frame, end_frame, out, rows,
    TAPS: tl.constexpr, V: tl.constexpr, C: tl.constexpr, O: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mask, frame = row < rows, row // V
    first, last = tl.load(first_frame + frame, mask, 0), tl.load(end_frame + frame, mask, 0)
    output = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    chunks: tl.constexpr = (C + INPUTS - 1) // INPUTS
    total = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for step in range(TAPS * chunks):
        tap, column = step // chunks, step % chunks * INPUTS + tl.arange(0, INPUTS)
        tile = _taps(x, row, frame, first, last, tap - TAPS // 2, column, mask, V, C)
        place = (tap * O + output[None, :]) * C + column[:, None]
        matrix = tl.load(weight + place, (output < O)[None, :] & (column < C)[:, None], 0)
        total = tl.dot(tile, matrix, total, input_precision="ieee")
    place = row[:, None] * O + output[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask[:, None] & (output < O)[None, :])


@triton.jit
def temporal_conv_weight_gradient(
    x, grad, first_frame, end_frame, partial, rows, rows_a_split,
    TAPS: tl.constexpr, V: tl.constexpr, C: tl.constexpr, O: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    """partial [splits, TAPS, O, C]: each program sums one tap's tile over its split of the rows."""
    tiles: tl.constexpr = (O + OUTPUTS - 1) // OUTPUTS
    tap, split = tl.program_id(0) // tiles, tl.program_id(2)
    output = tl.program_id(0) % tiles * OUTPUTS + tl.arange(0, OUTPUTS)
    column = tl.program_id(1) * INPUTS + tl.arange(0, INPUTS)
    total = tl.zeros((OUTPUTS, INPUTS), tl.float32)
    start = split * rows_a_split
    for begin in range(start, tl.minimum(start + rows_a_split, rows), ROWS):
        row = begin + tl.arange(0, ROWS)
        mask, frame = row < rows, row // V
        first, last = tl.load(first_frame + frame, mask, 0), tl.load(end_frame + frame, mask, 0)
        tile = _taps(x, row, frame, first, last, tap - TAPS // 2, column, mask, V, C)
        upstream = tl.load(grad + row[None, :] * O + output[:, None], mask[None, :] & (output < O)[:, None], 0)
        total = tl.dot(upstream, tile, total, input_precision="ieee")
    place = ((split * TAPS + tap) * O + output[:, None]) * C + column[None, :]
    tl.store(partial + place, total, (output < O)[:, None] & (column < C)[None, :])


def _tile(dtype: torch.dtype) -> dict[str, int]:
    """Rows, outputs and inputs of a tile, warps and stages: what fits without spills; float32 has no tensor cores."""
    if dtype == torch.float32:
        return {"ROWS": 64, "OUTPUTS": 32, "INPUTS": 32, "warps": 8, "stages": 2}
    return {"ROWS": 128, "OUTPUTS": 128, "INPUTS": 64, "warps": 8, "stages": 3}


def clip_bounds(offsets: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """int32 [F] twice: the first frame of each frame's clip, and the frame behind its last."""
    clip = torch.searchsorted(offsets, torch.arange(frames, device=offsets.device), right=True)
    return offsets[clip - 1].int(), offsets[clip].int()


def forward(x_FVC: Tensor, first_F: Tensor, end_F: Tensor, weight_TOC: Tensor) -> Tensor:
    """y_FVO without bias."""
    frames, joints, channels = x_FVC.shape
    taps, outputs, _ = weight_TOC.shape
    out, tile = x_FVC.new_empty(frames, joints, outputs), _tile(x_FVC.dtype)
    grid = triton.cdiv(frames * joints, tile["ROWS"]), triton.cdiv(outputs, tile["OUTPUTS"])
    sizes = {"TAPS": taps, "V": joints, "C": channels, "O": outputs}
    launch(temporal_conv_forward, grid, x_FVC, weight_TOC, first_F, end_F, out, frames * joints, **sizes, **tile)
    return out


def backward(
    grad_FVO: Tensor, x_FVC: Tensor, first_F: Tensor, end_F: Tensor, weight_TOC: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight. That of x is a convolution again: taps reversed, matrices transposed."""
    of_x = forward(grad_FVO, first_F, end_F, weight_TOC.flip(0).transpose(1, 2).contiguous())
    frames, joints, channels = x_FVC.shape
    taps, outputs, _ = weight_TOC.shape
    rows, tile = frames * joints, _tile(x_FVC.dtype) | {"stages": 2}
    splits = min(MOST_SPLITS, triton.cdiv(rows, tile["ROWS"]))
    rows_a_split = triton.cdiv(triton.cdiv(rows, max(splits, 1)), tile["ROWS"]) * tile["ROWS"]
    partial = torch.empty(splits, taps, outputs, channels, dtype=torch.float32, device=x_FVC.device)
    grid = taps * triton.cdiv(outputs, tile["OUTPUTS"]), triton.cdiv(channels, tile["INPUTS"]), splits
    sizes = {"TAPS": taps, "V": joints, "C": channels, "O": outputs}
    arguments = x_FVC, grad_FVO, first_F, end_F, partial, rows, rows_a_split
    launch(temporal_conv_weight_gradient, grid, *arguments, **sizes, **tile)
    return of_x, partial.sum(0).to(weight_TOC.dtype)
