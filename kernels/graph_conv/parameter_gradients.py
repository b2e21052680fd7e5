"""Gradients of a graph convolution's parameters in Triton, from what the backward pass left in parts: one launch."""

# ruff: noqa: E741  (O: output channels, the shape suffix)
import torch
import triton
import triton.language as tl
from torch import Tensor

from ..deferred_activation.triton_kernel import ActivationGradient
from ..launch import cdiv, launch, padded
from ..partial_sums import MERGED_COLUMNS, MERGED_ROWS, MERGING_WARPS, store_sums
from .triton_kernel import COPIED, matrix_elements

LINES = 128  # of the adjacency's partial sums, read at once


@triton.jit
def _store_adjacency_row(
    partial, grad_adjacency, k, w, programs,
    K: tl.constexpr, V: tl.constexpr, USED: tl.constexpr, ROWS: tl.constexpr,
    V_PADDED: tl.constexpr, LINES: tl.constexpr,
):  # fmt: skip
    """dA_k[:, w]; a line is one of the diagonal blocks of one program."""
    joint, frames = tl.arange(0, V_PADDED), USED // V
    total = tl.zeros((LINES, V_PADDED), tl.float32)
    for first in range(0, programs * frames, LINES):
        line = first + tl.arange(0, LINES)
        row = line % frames * V
        place = ((line // frames * K + k) * ROWS + row + w) * ROWS + row
        inside = (line < programs * frames)[:, None] & (joint < V)[None, :]
        total += tl.load(partial + place[:, None] + joint[None, :], inside, 0)
    value = tl.sum(total, 0).to(grad_adjacency.dtype.element_ty)
    tl.store(grad_adjacency + (k * V + joint) * V + w, value, joint < V)


@triton.jit(do_not_specialize=["programs", "shortcut_rows", "tiles"])
def graph_conv_parameter_gradients(
    partial, shortcut_sums, activation_sums, matrix_gradient,
    grad_adjacency, grad_weight, grad_bias, grad_shortcut_bias, grad_activation, programs, shortcut_rows, tiles,
    SHORTCUT: tl.constexpr, VECTORS: tl.constexpr, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, O: tl.constexpr,
    WIDTH: tl.constexpr, USED: tl.constexpr, ROWS: tl.constexpr, V_PADDED: tl.constexpr, LINES: tl.constexpr,
    MERGED_ROWS: tl.constexpr, COLUMNS: tl.constexpr, COPIED: tl.constexpr,
):  # fmt: skip
    """One program for each column of each A_k, then one for each block of the shortcut's bias, of the activation's
    scales and shifts, and of the gradient of the matrix [O, WIDTH], split into those of weight and bias.
    """
    shortcuts: tl.constexpr = K * V
    activations: tl.constexpr = shortcuts + SHORTCUT * ((O + COLUMNS - 1) // COLUMNS)
    matrices: tl.constexpr = activations + (VECTORS * C + COLUMNS - 1) // COLUMNS
    program = tl.program_id(0)
    if program < shortcuts:
        _store_adjacency_row(
            partial, grad_adjacency, program // V, program % V, programs, K, V, USED, ROWS, V_PADDED, LINES
        )  # fmt: skip
    elif program < activations:
        store_sums(shortcut_sums, grad_shortcut_bias, shortcut_rows, program - shortcuts, O, O, MERGED_ROWS, COLUMNS)
    elif program < matrices:
        block, width = program - activations, VECTORS * C
        store_sums(activation_sums, grad_activation, tiles, block, width, width, MERGED_ROWS, COLUMNS)
    else:
        element, inside, weights, is_weight, biases, is_bias = matrix_elements(
            (program - matrices) * COPIED, K, C, O, WIDTH, COPIED
        )
        value = tl.load(matrix_gradient + element, inside, 0)
        tl.store(grad_weight + weights, value, is_weight)
        tl.store(grad_bias + biases, value, is_bias)


def parameter_gradients(
    partial: Tensor,
    shortcut_sums: Tensor | None,
    activation: ActivationGradient,
    weight_KOC: Tensor,
    joints: int,
    matrix_gradient: Tensor,
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of adjacency, weight and bias, and of the shortcut's bias if any. Also fills in `activation.merged`.

    partial: as `graph_conv_backward` leaves it. shortcut_sums [parts, V, O]: of the shortcut's gradient.
    matrix_gradient: that of the matrix of all weights and biases, [O, K * C + BIAS_COLUMNS].
    """
    hops, outputs, channels = weight_KOC.shape
    grads = [
        weight_KOC.new_empty(hops, joints, joints), torch.empty_like(weight_KOC), weight_KOC.new_empty(hops, outputs)
    ]  # fmt: skip
    grad_shortcut = [] if shortcut_sums is None else [weight_KOC.new_empty(outputs)]
    vectors, tile = len(activation.merged), partial.shape[2]
    widths = len(grad_shortcut) * outputs, vectors * channels
    grid = hops * joints + sum(cdiv(width, MERGED_COLUMNS) for width in widths)
    sums = partial if shortcut_sums is None else shortcut_sums
    launch(
        graph_conv_parameter_gradients, (grid + cdiv(matrix_gradient.numel(), COPIED),),
        partial, sums, activation.sums, matrix_gradient, *grads, *(grad_shortcut or grads[2:]), activation.merged,
        len(partial), len(sums) * joints, len(activation.sums),
        SHORTCUT=len(grad_shortcut), VECTORS=vectors, K=hops, V=joints, C=channels, O=outputs,
        WIDTH=matrix_gradient.shape[1], USED=tile // joints * joints, ROWS=tile, V_PADDED=padded(joints), LINES=LINES,
        MERGED_ROWS=MERGED_ROWS, COLUMNS=MERGED_COLUMNS, COPIED=COPIED, warps=MERGING_WARPS, stages=1,
    )  # fmt: skip
    return grads, grad_shortcut
