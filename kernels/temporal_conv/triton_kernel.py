"""Temporal convolution in Triton. Rows are (frame, joint), so that a tap is a shift by whole frames and the convolution
is one matrix product over taps and channels; taps beyond the ends of a frame's clip are masked. The batch statistics
and, in backward, the preceding activation are fused into it.
"""

# ruff: noqa: E741  (O: output channels, the shape suffix)
import torch
import triton
import triton.language as tl
from torch import Tensor

from ..deferred_activation.triton_kernel import (
    ActivationGradient,
    activate,
    by_channel,
    by_tensor,
    store_activation_gradient,
)
from ..deferred_activation.triton_stats import merged, output_gradient, store_batch_stats, whole_gradient
from ..launch import cdiv, launch, operator, padded
from ..partial_sums import MERGED_COLUMNS, MERGED_ROWS, MERGING_WARPS, store_sums

# Splits of the rows in the weight's gradient, each with its own partial sum: 20 tiles x 13 splits are 260 programs, the
# two per multiprocessor that an H200 runs at once.
MOST_SPLITS = 13
SPLITS = padded(MOST_SPLITS)
WEIGHT_COLUMNS = MERGED_ROWS * MERGED_COLUMNS // SPLITS  # of a program that adds up the splits


@triton.jit
def _shifted(row, frame, first, last, shift, column, valid, V: tl.constexpr, C: tl.constexpr):
    """Offsets in [rows, C] of the rows `shift` frames later, and which of these rows the clip contains."""
    inside = valid & (frame + shift >= first) & (frame + shift < last)
    return (row + shift * V)[:, None] * C + column[None, :], inside[:, None] & (column < C)[None, :]


@triton.jit(do_not_specialize=["rows"], do_not_specialize_on_alignment=["end_frame"])
def temporal_conv_forward(
    x, weight, bias, first_frame, end_frame, out, batch_stats, rows,
    BATCH_STATS: tl.constexpr, KERNEL_SIZE: tl.constexpr, V: tl.constexpr, C: tl.constexpr, O: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    """out [rows, O] from x [rows, C]. A row is a frame and a joint; first_frame, end_frame [frames] bound its clip."""
    blocks: tl.constexpr = (O + OUTPUTS - 1) // OUTPUTS
    block, tile = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    row = tile * ROWS + tl.arange(0, ROWS)
    valid, frame = row < rows, row // V
    first, last = tl.load(first_frame + frame, valid, 0), tl.load(end_frame + frame, valid, 0)
    output = block * OUTPUTS + tl.arange(0, OUTPUTS)
    chunks: tl.constexpr = (C + INPUTS - 1) // INPUTS
    total = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for step in range(KERNEL_SIZE * chunks):
        tap, chunk = step // chunks, step % chunks
        column = chunk * INPUTS + tl.arange(0, INPUTS)
        place, inside = _shifted(row, frame, first, last, tap - KERNEL_SIZE // 2, column, valid, V, C)
        at = (tap * O + output[None, :]) * C + column[:, None]
        matrix = tl.load(weight + at, (output < O)[None, :] & (column < C)[:, None], 0)
        total = tl.dot(tl.load(x + place, inside, 0), matrix, total, input_precision="ieee")
    rounded = (total + by_channel(bias, output, O)).to(out.dtype.element_ty)
    tl.store(out + row[:, None] * O + output[None, :], rounded, valid[:, None] & (output < O)[None, :])
    if BATCH_STATS:
        count = tl.minimum(rows - tile * ROWS, ROWS)
        store_batch_stats(rounded.to(tl.float32), batch_stats, tile, count, valid, output, O)


@triton.jit(do_not_specialize=["rows"], do_not_specialize_on_alignment=["end_frame"])
def temporal_conv_input_gradient(
    grad, weight, first_frame, end_frame,
    x, conv_out, scale, shift, residual, residual_scale, grad_conv_out, grad_residual, sums, rows,
    KIND: tl.constexpr, RELU_BEFORE_RESIDUAL: tl.constexpr,
    KERNEL_SIZE: tl.constexpr, V: tl.constexpr, C: tl.constexpr, O: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    """The gradient of x, propagated back through its activation. Taps shift the opposite way to forward."""
    blocks: tl.constexpr = (C + INPUTS - 1) // INPUTS
    column, tile = tl.program_id(0) % blocks * INPUTS + tl.arange(0, INPUTS), tl.program_id(0) // blocks
    row = tile * ROWS + tl.arange(0, ROWS)
    valid, frame = row < rows, row // V
    first, last = tl.load(first_frame + frame, valid, 0), tl.load(end_frame + frame, valid, 0)
    chunks: tl.constexpr = (O + OUTPUTS - 1) // OUTPUTS
    total = tl.zeros((ROWS, INPUTS), tl.float32)
    for step in range(KERNEL_SIZE * chunks):
        tap, output = step // chunks, step % chunks * OUTPUTS + tl.arange(0, OUTPUTS)
        place, inside = _shifted(row, frame, first, last, KERNEL_SIZE // 2 - tap, output, valid, V, O)
        upstream = tl.load(grad + place, inside, 0)
        at = (tap * O + output[:, None]) * C + column[None, :]
        matrix = tl.load(weight + at, (output < O)[:, None] & (column < C)[None, :], 0)
        total = tl.dot(upstream, matrix, total, input_precision="ieee")
    place, inside = row[:, None] * C + column[None, :], valid[:, None] & (column < C)[None, :]
    store_activation_gradient(
        total, tl.load(x + place, inside, 0), conv_out, scale, shift, residual, residual_scale, grad_conv_out,
        grad_residual, sums, tile, place, inside, column, C, KIND, RELU_BEFORE_RESIDUAL,
    )  # fmt: skip


@triton.jit(do_not_specialize=["rows", "rows_a_split"], do_not_specialize_on_alignment=["end_frame"])
def temporal_conv_weight_gradient(
    x, grad, first_frame, end_frame, partial, rows, rows_a_split,
    KERNEL_SIZE: tl.constexpr, V: tl.constexpr, C: tl.constexpr, O: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    """partial [splits, KERNEL_SIZE, O, C]: each program sums a tile of one tap over one split of the rows."""
    tiles: tl.constexpr = (O + OUTPUTS - 1) // OUTPUTS
    tap, split = tl.program_id(0) // tiles, tl.program_id(2)
    output = tl.program_id(0) % tiles * OUTPUTS + tl.arange(0, OUTPUTS)
    column = tl.program_id(1) * INPUTS + tl.arange(0, INPUTS)
    total = tl.zeros((OUTPUTS, INPUTS), tl.float32)
    start = split * rows_a_split
    for begin in range(start, tl.minimum(start + rows_a_split, rows), ROWS):
        row = begin + tl.arange(0, ROWS)
        valid, frame = row < rows, row // V
        first, last = tl.load(first_frame + frame, valid, 0), tl.load(end_frame + frame, valid, 0)
        place, inside = _shifted(row, frame, first, last, tap - KERNEL_SIZE // 2, column, valid, V, C)
        upstream = tl.load(grad + row[None, :] * O + output[:, None], valid[None, :] & (output < O)[:, None], 0)
        total = tl.dot(upstream, tl.load(x + place, inside, 0), total, input_precision="ieee")
    place = ((split * KERNEL_SIZE + tap) * O + output[:, None]) * C + column[None, :]
    tl.store(partial + place, total, (output < O)[:, None] & (column < C)[None, :])


@triton.jit(do_not_specialize=["splits", "rows", "tiles"])
def temporal_conv_parameter_gradients(
    partial, sums, activation_sums, grad_weight, grad_bias, grad_activation, splits, rows, tiles,
    VECTORS: tl.constexpr, WEIGHTS: tl.constexpr, C: tl.constexpr, O: tl.constexpr,
    SPLITS: tl.constexpr, WEIGHT_COLUMNS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Adds up the partial sums: one program for each block of the weight, of the bias, and of the activation's scales
    and shifts. partial [splits, WEIGHTS]; sums [rows, O]; activation_sums [tiles, VECTORS, C].
    """
    biases: tl.constexpr = (WEIGHTS + WEIGHT_COLUMNS - 1) // WEIGHT_COLUMNS
    activations: tl.constexpr = biases + (O + COLUMNS - 1) // COLUMNS
    program = tl.program_id(0)
    if program < biases:
        store_sums(partial, grad_weight, splits, program, WEIGHTS, WEIGHTS, SPLITS, WEIGHT_COLUMNS)
    elif program < activations:
        store_sums(sums, grad_bias, rows, program - biases, O, O, ROWS, COLUMNS)
    else:
        block = program - activations
        store_sums(activation_sums, grad_activation, tiles, block, VECTORS * C, VECTORS * C, ROWS, COLUMNS)


def _tile(dtype: torch.dtype, rows: int = 128, outputs: int = 128, inputs: int = 64) -> dict[str, int]:
    """Tile sizes, warps and stages that compile without spills. float32 does not use tensor cores.

    A program sums over one of the three dimensions. The other two are 128 in bfloat16: larger tiles read both operands
    less often, and with 64 the L2 cache would deliver half as much again (benchmarks/tiles.py).
    """
    if dtype == torch.float32:
        return {"ROWS": 64, "OUTPUTS": 32, "INPUTS": 32, "warps": 8, "stages": 2}
    return {"ROWS": rows, "OUTPUTS": outputs, "INPUTS": inputs, "warps": 8, "stages": 3}


@operator("temporal_conv")
def forward(
    x: list[Tensor],
    relu_before_residual: bool,
    bounds_2F: Tensor,
    weight_TOC: Tensor,
    bias_O: Tensor,
    batch_stats: bool,
) -> list[Tensor]:
    """Returns out_FVO; its mean and variance if `batch_stats`; and x_FVC, unless it is plain.

    x: `DeferredActivation.tensors`.
    """
    frames, joints, channels = x[0].shape
    kernel_size, outputs, _ = weight_TOC.shape
    tile, rows, plain = _tile(x[0].dtype), frames * joints, len(x) == 1
    tiles = cdiv(rows, tile["ROWS"])
    x_FVC, out = x[0] if plain else activate(x, relu_before_residual), x[0].new_empty(frames, joints, outputs)
    measures = torch.empty(tiles, 2, outputs, dtype=torch.float32, device=out.device)
    launch(
        temporal_conv_forward, (cdiv(outputs, tile["OUTPUTS"]) * tiles,),
        x_FVC, weight_TOC, bias_O, *bounds_2F, out, measures, rows,
        BATCH_STATS=batch_stats, KERNEL_SIZE=kernel_size, V=joints, C=channels, O=outputs, **tile,
    )  # fmt: skip
    return [out, *(merged(measures, rows, tile["ROWS"]) if batch_stats else []), *([] if plain else [x_FVC])]


@operator("temporal_conv_backward")
def backward(
    grad_out: list[Tensor],
    x_FVC: Tensor,
    out: list[Tensor],
    x: list[Tensor],
    relu_before_residual: bool,
    bounds_2F: Tensor,
    weight_TOC: Tensor,
    bias_O: Tensor,
) -> list[Tensor]:
    """Gradients of weight, bias and the activation's tensors.

    `out`: the output and its batch statistics; `grad_out`: their gradients. Those of the statistics may be missing.
    """
    frames, joints, channels = x_FVC.shape
    kernel_size, outputs, _ = weight_TOC.shape
    tile, rows = _tile(x_FVC.dtype, outputs=64, inputs=128), frames * joints
    sizes = {"KERNEL_SIZE": kernel_size, "V": joints, "C": channels, "O": outputs}
    grad, sums = output_gradient(grad_out, out)
    tiles = cdiv(rows, tile["ROWS"])
    result = ActivationGradient(x, relu_before_residual, tiles)
    launch(
        temporal_conv_input_gradient, (cdiv(channels, tile["INPUTS"]) * tiles,),
        grad, weight_TOC, *bounds_2F, *result.arguments(x_FVC), rows, **result.constants, **sizes, **tile,
    )  # fmt: skip
    tile = _tile(x_FVC.dtype, rows=64, inputs=128)
    row_tiles = cdiv(rows, tile["ROWS"])
    splits = min(MOST_SPLITS, row_tiles)
    rows_a_split = cdiv(row_tiles, max(splits, 1)) * tile["ROWS"]
    partial = torch.empty(splits, kernel_size, outputs, channels, dtype=torch.float32, device=x_FVC.device)
    grid = kernel_size * cdiv(outputs, tile["OUTPUTS"]), cdiv(channels, tile["INPUTS"]), splits
    inputs = x_FVC, grad, *bounds_2F
    launch(temporal_conv_weight_gradient, grid, *inputs, partial, rows, rows_a_split, **sizes, **tile)
    grads, vectors = [torch.empty_like(weight_TOC), torch.empty_like(bias_O)], len(result.merged)
    programs = cdiv(weight_TOC.numel(), WEIGHT_COLUMNS) + cdiv(outputs, MERGED_COLUMNS)
    launch(
        temporal_conv_parameter_gradients, (programs + cdiv(vectors * channels, MERGED_COLUMNS),),
        partial, sums, result.sums, *grads, result.merged, splits, len(sums) * joints, tiles,
        VECTORS=vectors, WEIGHTS=weight_TOC.numel(), C=channels, O=outputs, SPLITS=SPLITS,
        WEIGHT_COLUMNS=WEIGHT_COLUMNS, ROWS=MERGED_ROWS, COLUMNS=MERGED_COLUMNS, warps=MERGING_WARPS, stages=1,
    )  # fmt: skip
    return [*grads, *result.gradients()]


def _save(ctx, inputs, output) -> None:
    x, ctx.relu_before_residual, bounds_2F, weight_TOC, bias_O, batch_stats = inputs
    ctx.set_materialize_grads(False)
    ctx.outs, ctx.result = 3 if batch_stats else 1, len(output)
    ctx.save_for_backward(bounds_2F, weight_TOC, bias_O, *output, *x)


def _gradients(ctx, gradients: list[Tensor | None]):
    parameters, saved = ctx.saved_tensors[:3], ctx.saved_tensors[3:]
    result, x = saved[: ctx.result], saved[ctx.result :]
    out = result[: ctx.outs]
    x_FVC = x[0] if len(x) == 1 else result[-1]
    grad_out = whole_gradient(gradients[: ctx.outs], out)
    grad_weight, grad_bias, *grad_x = backward(grad_out, x_FVC, out, x, ctx.relu_before_residual, *parameters)
    return by_tensor(grad_x), None, None, grad_weight, grad_bias, None


forward.register_autograd(_gradients, setup_context=_save)
