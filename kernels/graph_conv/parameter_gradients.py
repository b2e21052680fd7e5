"""Gradients of a graph convolution's parameters in Triton: one launch adds up the partial sums of the backward pass.

dA_k[v, w] has two terms: the sum of (dY W_k)[w] X[v] over all frames, and b_k . dB[w], since the bias goes through the
adjacency; dB[w] is the sum of dY[w] over all frames.
"""

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
    partial, sums, bias, grad_adjacency, k, w, splits, frame_splits,
    K: tl.constexpr, V: tl.constexpr, O: tl.constexpr, USED: tl.constexpr, ROWS: tl.constexpr,
    V_PADDED: tl.constexpr, O_PADDED: tl.constexpr, LINES: tl.constexpr,
):  # fmt: skip
    """Store dA_k[:, w]. A line is one diagonal block of one split."""
    joint, output, frames = tl.arange(0, V_PADDED), tl.arange(0, O_PADDED), USED // V
    total = tl.zeros((LINES, V_PADDED), tl.float32)
    for first in range(0, splits * frames, LINES):
        line = first + tl.arange(0, LINES)
        row = line % frames * V
        place = ((line // frames * K + k) * ROWS + row + w) * ROWS + row
        inside = (line < splits * frames)[:, None] & (joint < V)[None, :]
        total += tl.load(partial + place[:, None] + joint[None, :], inside, 0)
    upstream = tl.zeros((16, O_PADDED), tl.float32)
    for first in range(0, frame_splits, 16):
        split = first + tl.arange(0, 16)
        inside = (split < frame_splits)[:, None] & (output < O)[None, :]
        upstream += tl.load(sums + (split * V + w)[:, None] * O + output[None, :], inside, 0)
    through_bias = tl.sum(tl.sum(upstream, 0) * tl.load(bias + k * O + output, output < O, 0).to(tl.float32), 0)
    value = tl.sum(total, 0) + through_bias
    tl.store(grad_adjacency + (k * V + joint) * V + w, value.to(grad_adjacency.dtype.element_ty), joint < V)


@triton.jit
def _store_bias(
    sums, column_sums, grad_bias, k, block, frame_splits, V: tl.constexpr, O: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Store db_k for a block of outputs: the sum over w of dB[w] times the sum of A_k[:, w]."""
    column, rows = block * COLUMNS + tl.arange(0, COLUMNS), frame_splits * V
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, rows, ROWS):
        row = first + tl.arange(0, ROWS)
        share = tl.load(column_sums + k * V + row % V, row < rows, 0)
        inside = (row < rows)[:, None] & (column < O)[None, :]
        total += share[:, None] * tl.load(sums + row[:, None] * O + column[None, :], inside, 0)
    tl.store(grad_bias + k * O + column, tl.sum(total, 0).to(grad_bias.dtype.element_ty), column < O)


@triton.jit(do_not_specialize=["splits", "frame_splits", "tiles"])
def graph_conv_parameter_gradients(
    partial, sums, shortcut_sums, activation_sums, column_sums, bias, weight_product,
    grad_adjacency, grad_bias, grad_shortcut_bias, grad_activation, grad_weight, splits, frame_splits, tiles,
    SHORTCUT: tl.constexpr, VECTORS: tl.constexpr, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, O: tl.constexpr,
    USED: tl.constexpr, ROWS: tl.constexpr, V_PADDED: tl.constexpr, O_PADDED: tl.constexpr, LINES: tl.constexpr,
    MERGED_ROWS: tl.constexpr, COLUMNS: tl.constexpr, COPIED: tl.constexpr,
):  # fmt: skip
    """One program for each column of each A_k, then one for each block of the bias, of the shortcut's bias, of the
    activation's scales and shifts, and of the weight, which is transposed from [O, K, C] to [K, O, C].
    """
    outputs: tl.constexpr = (O + COLUMNS - 1) // COLUMNS
    shortcuts: tl.constexpr = K * V + K * outputs
    activations: tl.constexpr = shortcuts + SHORTCUT * outputs
    weights: tl.constexpr = activations + (VECTORS * C + COLUMNS - 1) // COLUMNS
    program = tl.program_id(0)
    if program < K * V:
        _store_adjacency_row(
            partial, sums, bias, grad_adjacency, program // V, program % V, splits, frame_splits,
            K, V, O, USED, ROWS, V_PADDED, O_PADDED, LINES,
        )  # fmt: skip
    elif program < shortcuts:
        k, block = (program - K * V) // outputs, (program - K * V) % outputs
        _store_bias(sums, column_sums, grad_bias, k, block, frame_splits, V, O, MERGED_ROWS, COLUMNS)
    elif program < activations:
        rows = frame_splits * V
        store_sums(shortcut_sums, grad_shortcut_bias, rows, program - shortcuts, O, O, MERGED_ROWS, COLUMNS)
    elif program < weights:
        block = program - activations
        store_sums(activation_sums, grad_activation, tiles, block, VECTORS * C, 4 * C, MERGED_ROWS, COLUMNS)
    else:
        element = (program - weights) * COPIED + tl.arange(0, COPIED)
        k, output, column = element // (O * C), element // C % O, element % C
        inside = element < K * O * C
        value = tl.load(weight_product + (output * K + k) * C + column, inside, 0)
        tl.store(grad_weight + element, value, inside)


def parameter_gradients(
    partial: Tensor,
    sums: Tensor,
    shortcut_sums: Tensor | None,
    activation: ActivationGradient,
    column_sums_KV: Tensor,
    bias_KO: Tensor,
    weight_product: Tensor,
    used: int,
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of adjacency, weight and bias, and of the shortcut's bias if any. Also fills in `activation.merged`.

    partial [splits, K, ROWS, ROWS]: (dY W_k) X^T. sums, shortcut_sums [splits, V, O]: of the outputs' gradients.
    weight_product [O, K * C]: dY^T (D_k X). used: rows of a tile that hold whole frames.
    """
    (hops, joints), outputs = column_sums_KV.shape, bias_KO.shape[1]
    channels = weight_product.shape[1] // hops
    grads = [
        bias_KO.new_empty(hops, joints, joints), bias_KO.new_empty(hops, outputs, channels), torch.empty_like(bias_KO)
    ]  # fmt: skip
    grad_shortcut = [] if shortcut_sums is None else [bias_KO.new_empty(outputs)]
    vectors = len(activation.merged)
    blocks = triton.cdiv(outputs, MERGED_COLUMNS)
    programs = hops * (joints + blocks) + len(grad_shortcut) * blocks
    programs += triton.cdiv(vectors * channels, MERGED_COLUMNS) + triton.cdiv(grads[1].numel(), COPIED)
    launch(
        graph_conv_parameter_gradients, (programs,),
        partial, sums, sums if shortcut_sums is None else shortcut_sums, activation.sums, column_sums_KV, bias_KO,
        weight_product, grads[0], grads[2], *(grad_shortcut or grads[2:]), activation.merged, grads[1],
        len(partial), len(sums), len(activation.sums),
        SHORTCUT=len(grad_shortcut), VECTORS=vectors, K=hops, V=joints, C=channels, O=outputs,
        USED=used, ROWS=partial.shape[2], V_PADDED=padded(joints), O_PADDED=padded(outputs), LINES=LINES,
        MERGED_ROWS=MERGED_ROWS, COLUMNS=MERGED_COLUMNS, COPIED=COPIED, warps=MERGING_WARPS, stages=1,
    )  # fmt: skip
    return grads, grad_shortcut
