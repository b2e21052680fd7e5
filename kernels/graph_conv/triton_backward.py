"""The backward pass of the graph convolution in Triton. One launch computes all gradients but those of the weights, for
which it stores both factors of a matrix product; in float32, another one computes those of the activation.

It mixes channels first, because C <= O: the gradient of x is the sum over k of D_k^T P_k, with P_k = dY W_k. P_k is
never stored; the adjacency's gradient P_k X^T is summed next to it. Each program handles a share of the tiles in turn.
"""

# ruff: noqa: E741  (O: output channels, the shape suffix)
import torch
import triton
import triton.language as tl
from torch import Tensor

from ..deferred_activation.triton_kernel import (
    ActivationGradient,
    activation_gradients,
    by_channel,
    store_activation_gradient,
)
from ..launch import compute_capability, launch, operator
from .parameter_gradients import parameter_gradients
from .triton_kernel import diagonal_of, matrix_of, tile_rows, tile_sizes, used_rows

MOST_PROGRAMS = 132  # one for each multiprocessor of an H200


@triton.jit
def _whole_gradient(
    grad, out, mean, grad_mean, grad_var, whole, row, valid, output, rows, O: tl.constexpr, BATCH_STATS: tl.constexpr
):
    """The gradient of columns of an output in float32, rounded to its type; through its batch statistics too, in which
    case `whole` is written.
    """
    place, inside = row[:, None] * O + output[None, :], valid[:, None] & (output < O)[None, :]
    value = tl.load(grad + place, inside, 0).to(tl.float32)
    if BATCH_STATS:
        deviation = tl.load(out + place, inside, 0).to(tl.float32) - by_channel(mean, output, O)
        value += by_channel(grad_mean, output, O) / rows + 2 * by_channel(grad_var, output, O) / rows * deviation
        rounded = tl.where(inside, value, 0).to(whole.dtype.element_ty)
        tl.store(whole + place, rounded, inside)
        value = rounded.to(tl.float32)
    return value


@triton.jit(do_not_specialize=["rows", "tiles", "tiles_a_program"])
def graph_conv_backward(
    grad, out, mean, grad_mean, grad_var, whole,
    shortcut_grad, shortcut_out, shortcut_mean, shortcut_grad_mean, shortcut_grad_var, shortcut_whole,
    kept_grad, adjacency, column_sums, weight, bias, shortcut_weight, aggregated, partial, bias_sums, shortcut_sums,
    x, conv_out, scale, shift, residual, residual_scale, grad_conv_out, grad_residual, sums,
    rows, tiles, tiles_a_program,
    KIND: tl.constexpr, RELU_BEFORE_RESIDUAL: tl.constexpr, BATCH_STATS: tl.constexpr,
    SHORTCUT: tl.constexpr, SHORTCUT_BATCH_STATS: tl.constexpr, KEPT: tl.constexpr,
    K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, O: tl.constexpr, USED: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    """whole, shortcut_whole [rows, O]: gradients of both outputs, through their batch statistics too, in which case
    they are written. kept_grad [rows, C]: that of x from elsewhere. aggregated [rows, K, C]: D_k X, for the weight.

    Sums: partial [programs, K, ROWS, ROWS], of P_k X^T, and of what the bias adds, in its diagonal blocks alone;
    bias_sums [tiles, K, O] and shortcut_sums [tiles, O]: shares of the biases' gradients.
    """
    program, local = tl.program_id(0), tl.arange(0, ROWS)
    first_sum, second_sum = tl.zeros((ROWS, ROWS), tl.float32), tl.zeros((ROWS, ROWS), tl.float32)
    first_bias, second_bias = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    begin = program * tiles_a_program
    for tile in range(begin, tl.minimum(begin + tiles_a_program, tiles)):
        row, valid = tile_rows(tile, rows, USED, ROWS)
        for start in range(0, O, OUTPUTS):
            output = start + tl.arange(0, OUTPUTS)
            value = _whole_gradient(
                grad, out, mean, grad_mean, grad_var, whole, row, valid, output, rows, O, BATCH_STATS
            )  # fmt: skip
            for k in tl.static_range(K):
                share = tl.load(column_sums + k * V + local % V)
                tl.store(bias_sums + (tile * K + k) * O + output, tl.sum(value * share[:, None], 0), output < O)
                through_bias = tl.sum(value * by_channel(bias + k * O, output, O), 1)
                if k == 0:
                    first_bias += through_bias
                else:
                    second_bias += through_bias
            if SHORTCUT:
                value = _whole_gradient(
                    shortcut_grad, shortcut_out, shortcut_mean, shortcut_grad_mean, shortcut_grad_var, shortcut_whole,
                    row, valid, output, rows, O, SHORTCUT_BATCH_STATS,
                )  # fmt: skip
                tl.store(shortcut_sums + tile * O + output, tl.sum(value, 0), output < O)
        tl.debug_barrier()  # all threads read below what each has written above
        for start in range(0, C, INPUTS):
            column = start + tl.arange(0, INPUTS)
            place, inside = row[:, None] * C + column[None, :], valid[:, None] & (column < C)[None, :]
            total = tl.zeros((ROWS, INPUTS), tl.float32)
            for k in tl.static_range(K):  # x and D are reloaded from L1 for each product, which saves registers
                diagonal, x_tile = diagonal_of(adjacency, k, ROWS), tl.load(x + place, inside, 0)
                neighbours = tl.dot(diagonal, x_tile, input_precision="ieee").to(x_tile.dtype)
                tl.store(aggregated + (row[:, None] * K + k) * C + column[None, :], neighbours, inside)
            for k in tl.static_range(K):
                mixed = tl.zeros((ROWS, INPUTS), tl.float32)
                for block in range(0, O, OUTPUTS):
                    output = block + tl.arange(0, OUTPUTS)
                    at = row[:, None] * O + output[None, :]
                    upstream = tl.load(whole + at, valid[:, None] & (output < O)[None, :], 0)
                    matrix = matrix_of(weight, k, output, column, O, C)
                    mixed = tl.dot(upstream, matrix, mixed, input_precision="ieee")
                rounded = mixed.to(x.dtype.element_ty)
                x_tile = tl.load(x + place, inside, 0)
                if k == 0:
                    first_sum = tl.dot(rounded, tl.trans(x_tile), first_sum, input_precision="ieee")
                else:
                    second_sum = tl.dot(rounded, tl.trans(x_tile), second_sum, input_precision="ieee")
                total = tl.dot(tl.trans(diagonal_of(adjacency, k, ROWS)), rounded, total, input_precision="ieee")
            if SHORTCUT:
                for block in range(0, O, OUTPUTS):
                    output = block + tl.arange(0, OUTPUTS)
                    at = row[:, None] * O + output[None, :]
                    upstream = tl.load(shortcut_whole + at, valid[:, None] & (output < O)[None, :], 0)
                    matrix = matrix_of(shortcut_weight, 0, output, column, O, C)
                    total = tl.dot(upstream, matrix, total, input_precision="ieee")
            if KEPT:
                total += tl.load(kept_grad + place, inside, 0).to(tl.float32)
            store_activation_gradient(
                total, tl.load(x + place, inside, 0), conv_out, scale, shift, residual, residual_scale, grad_conv_out,
                grad_residual, sums, tile, place, inside, column, C, KIND, RELU_BEFORE_RESIDUAL,
            )  # fmt: skip
    place = partial + (program * K * ROWS + local[:, None]) * ROWS + local[None, :]
    diagonal_blocks = local[:, None] // V == local[None, :] // V
    tl.store(place, first_sum + first_bias[:, None], diagonal_blocks)
    if K == 2:
        tl.store(place + ROWS * ROWS, second_sum + second_bias[:, None], diagonal_blocks)


def _tile(dtype: torch.dtype, shortcut: bool) -> dict[str, int]:
    """Tile sizes, warps and stages: the largest that do not spill."""
    if dtype == torch.float32:
        outputs, inputs = 32, 16
    elif compute_capability() >= 90:
        outputs, inputs = 64, 64
    else:
        outputs, inputs = 32 if shortcut else 64, 16
    return tile_sizes(dtype) | {"OUTPUTS": outputs, "INPUTS": inputs}


@operator("graph_conv_backward")
def backward(
    grad_x_FVC: Tensor | None,
    grad_out: list[Tensor],
    grad_shortcut_out: list[Tensor],
    x_FVC: Tensor,
    graph: list[Tensor],
    out: list[Tensor],
    shortcut_out: list[Tensor],
    x: list[Tensor],
    relu_before_residual: bool,
    weight_KOC: Tensor,
    bias_KO: Tensor,
    shortcut: list[Tensor],
) -> list[Tensor]:
    """Gradients of adjacency, weight, bias, the shortcut's weight and bias if any, and the activation's tensors.

    `graph`, `out` and `shortcut_out` are results of `forward`; `grad_out` and `grad_shortcut_out` are the gradients of
    the last two. The gradients of batch statistics may be missing, and that of x_FVC None.
    """
    frames, joints, channels = x_FVC.shape
    hops, outputs, _ = weight_KOC.shape
    (diagonal, column_sums_KV), block = graph, _tile(x_FVC.dtype, bool(shortcut))
    rows, used = frames * joints, used_rows(joints, block["ROWS"])
    tiles = triton.cdiv(rows, used)
    tiles_a_program = triton.cdiv(tiles, MOST_PROGRAMS)
    programs = triton.cdiv(tiles, max(tiles_a_program, 1))
    whole, own = _output_arguments(grad_out, out)
    shortcut_whole, shortcut_own = _output_arguments(grad_shortcut_out, shortcut_out) if shortcut else (whole, own)
    aggregated = x_FVC.new_empty(rows, hops * channels)
    partial = torch.empty(programs, hops, *[block["ROWS"]] * 2, dtype=torch.float32, device=x_FVC.device)
    bias_sums = partial.new_empty(tiles, hops, outputs)
    shortcut_sums = partial.new_empty(tiles, outputs) if shortcut else bias_sums
    # With the activation's gradient in the same launch, float32 spills.
    fused = len(x) == 1 or x_FVC.dtype != torch.float32
    result = ActivationGradient(x if fused else [x_FVC], relu_before_residual, tiles)
    launch(
        graph_conv_backward, (programs,),
        *own, *shortcut_own, x_FVC if grad_x_FVC is None else grad_x_FVC, diagonal, column_sums_KV, weight_KOC, bias_KO,
        shortcut[0] if shortcut else weight_KOC, aggregated, partial, bias_sums, shortcut_sums,
        *result.arguments(x_FVC), rows, tiles, tiles_a_program,
        **result.constants, BATCH_STATS=len(grad_out) > 1, SHORTCUT=bool(shortcut),
        SHORTCUT_BATCH_STATS=len(grad_shortcut_out) > 1, KEPT=grad_x_FVC is not None,
        K=hops, V=joints, C=channels, O=outputs, USED=used, **block,
    )  # fmt: skip
    grad_shortcut = [shortcut_whole.flatten(0, 1).T @ x_FVC.flatten(0, 1)] if shortcut else []
    grads, grad_shortcut_bias = parameter_gradients(
        partial, bias_sums, shortcut_sums if shortcut else None, result, weight_KOC, joints,
        whole.flatten(0, 1).T @ aggregated,
    )  # fmt: skip
    unfused = result.grad_conv_out, x_FVC, x, relu_before_residual
    grad_x = result.gradients() if fused else activation_gradients(*unfused)
    return [*grads, *grad_shortcut, *grad_shortcut_bias, *grad_x]


def _output_arguments(gradients: list[Tensor], out: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The memory of an output's whole gradient, and what `_whole_gradient` takes from `grad` to `whole`."""
    if len(gradients) == 1:  # already whole
        return gradients[0], [gradients[0]] * 6
    whole = torch.empty_like(out[0])
    return whole, [gradients[0], out[0], out[1], *gradients[1:], whole]
