"""Gradients of a graph convolution's parameters in Triton, from what the backward pass left in parts: one launch."""

# ruff: noqa: E741  (O: output channels, the shape suffix)
import torch
import triton
import triton.language as tl
from torch import Tensor

from ..deferred_activation.triton_kernel import ActivationGradient
from ..launch import launch, padded
from ..partial_sums import MERGED_COLUMNS, MERGED_ROWS, MERGING_WARPS, store_sums

LINES = 128  # of the adjacency's partial sums, read at once
COPIED = 2048  # elements of the weight that a program transposes


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


@triton.jit(do_not_specialize=["programs", "tiles"])
def graph_conv_parameter_gradients(
    partial, bias_sums, shortcut_sums, activation_sums, weight_product,
    grad_adjacency, grad_bias, grad_shortcut_bias, grad_activation, grad_weight, programs, tiles,
    SHORTCUT: tl.constexpr, VECTORS: tl.constexpr, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, O: tl.constexpr,
    USED: tl.constexpr, ROWS: tl.constexpr, V_PADDED: tl.constexpr, LINES: tl.constexpr,
    MERGED_ROWS: tl.constexpr, COLUMNS: tl.constexpr, COPIED: tl.constexpr,
):  # fmt: skip
    """One program for each column of each A_k, then one for each block of the bias, of the shortcut's bias, of the
    activation's scales and shifts, and of the weight, which is transposed from [O, K, C] to [K, O, C].
    """
    shortcuts: tl.constexpr = K * V + (K * O + COLUMNS - 1) // COLUMNS
    activations: tl.constexpr = shortcuts + SHORTCUT * ((O + COLUMNS - 1) // COLUMNS)
    weights: tl.constexpr = activations + (VECTORS * C + COLUMNS - 1) // COLUMNS
    program = tl.program_id(0)
    if program < K * V:
        _store_adjacency_row(
            partial, grad_adjacency, program // V, program % V, programs, K, V, USED, ROWS, V_PADDED, LINES
        )  # fmt: skip
    elif program < shortcuts:
        store_sums(bias_sums, grad_bias, tiles, program - K * V, K * O, K * O, MERGED_ROWS, COLUMNS)
    elif program < activations:
        store_sums(shortcut_sums, grad_shortcut_bias, tiles, program - shortcuts, O, O, MERGED_ROWS, COLUMNS)
    elif program < weights:
        block, width = program - activations, VECTORS * C
        store_sums(activation_sums, grad_activation, tiles, block, width, width, MERGED_ROWS, COLUMNS)
    else:
        element = (program - weights) * COPIED + tl.arange(0, COPIED)
        k, output, column = element // (O * C), element // C % O, element % C
        inside = element < K * O * C
        value = tl.load(weight_product + (output * K + k) * C + column, inside, 0)
        tl.store(grad_weight + element, value, inside)


def parameter_gradients(
    partial: Tensor,
    bias_sums: Tensor,
    shortcut_sums: Tensor | None,
    activation: ActivationGradient,
    weight_KOC: Tensor,
    joints: int,
    weight_product: Tensor,
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of adjacency, weight and bias, and of the shortcut's bias if any. Also fills in `activation.merged`.

    partial, bias_sums, shortcut_sums: as `graph_conv_backward` leaves them. weight_product [O, K * C]: dY^T (D_k X).
    """
    hops, outputs, channels = weight_KOC.shape
    grads = [
        weight_KOC.new_empty(hops, joints, joints), torch.empty_like(weight_KOC), weight_KOC.new_empty(hops, outputs)
    ]  # fmt: skip
    grad_shortcut = [] if shortcut_sums is None else [weight_KOC.new_empty(outputs)]
    vectors, tile = len(activation.merged), partial.shape[2]
    widths = hops * outputs, len(grad_shortcut) * outputs, vectors * channels
    grid = hops * joints + sum(triton.cdiv(width, MERGED_COLUMNS) for width in widths)
    launch(
        graph_conv_parameter_gradients, (grid + triton.cdiv(weight_KOC.numel(), COPIED),),
        partial, bias_sums, bias_sums if shortcut_sums is None else shortcut_sums, activation.sums, weight_product,
        grads[0], grads[2], *(grad_shortcut or grads[2:]), activation.merged, grads[1], len(partial), len(bias_sums),
        SHORTCUT=len(grad_shortcut), VECTORS=vectors, K=hops, V=joints, C=channels, O=outputs,
        USED=tile // joints * joints, ROWS=tile, V_PADDED=padded(joints), LINES=LINES,
        MERGED_ROWS=MERGED_ROWS, COLUMNS=MERGED_COLUMNS, COPIED=COPIED, warps=MERGING_WARPS, stages=1,
    )  # fmt: skip
    return grads, grad_shortcut
