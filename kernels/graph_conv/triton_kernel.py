"""Graph convolution in Triton. A tile of ROWS = 64 rows holds whole frames (3 of 21 or 18 joints, or 7 of 9), so that
the adjacency of a tile is a block-diagonal matrix: D [K, ROWS, ROWS].

The forward pass aggregates joints before it mixes channels: sum over k of (D_k X) W_k. The activation, the shortcut and
the batch statistics are fused into the same launch. The backward pass is in triton_backward.py.
"""

# ruff: noqa: E741  (O: output channels, the shape suffix)
import torch
import triton
import triton.language as tl
from torch import Tensor

from ..deferred_activation.triton_kernel import (
    KINDS,
    PLAIN,
    activated,
    arguments,
    by_channel,
)
from ..deferred_activation.triton_stats import merged, store_batch_stats
from ..launch import launch, operator, padded


@triton.jit
def tile_rows(tile, rows, USED: tl.constexpr, ROWS: tl.constexpr):
    """The tile's rows, and which of them belong to whole frames."""
    local = tl.arange(0, ROWS)
    row = tile * USED + local
    return row, (local < USED) & (row < rows)


@triton.jit
def diagonal_of(adjacency, k, ROWS: tl.constexpr):
    """D_k [ROWS, ROWS], from joint v (column) to joint w (row)."""
    local = tl.arange(0, ROWS)
    return tl.load(adjacency + k * ROWS * ROWS + local[:, None] * ROWS + local[None, :])


@triton.jit
def matrix_of(weight, k, output, column, O: tl.constexpr, C: tl.constexpr):
    """W_k [outputs, columns] of `weight` [K, O, C]."""
    inside = (output < O)[:, None] & (column < C)[None, :]
    return tl.load(weight + (k * O + output[:, None]) * C + column[None, :], inside, 0)


@triton.jit
def block_diagonal(adjacency, diagonal, column_sums, V: tl.constexpr, USED: tl.constexpr, ROWS: tl.constexpr):
    """Build D_k, and the sums of A_k over v ([K, V], float32), from A_k [V, V]; one program for each k."""
    k, local = tl.program_id(0), tl.arange(0, ROWS)
    to, source = local[:, None], local[None, :]
    inside = (to // V == source // V) & (to < USED) & (source < USED)
    value = tl.load(adjacency + (k * V + source % V) * V + to % V, inside, 0)
    tl.store(diagonal + (k * ROWS + to) * ROWS + source, value)
    tl.store(column_sums + k * V + local, tl.sum(value.to(tl.float32), 1), local < V)


@triton.jit(do_not_specialize=["rows"])
def graph_conv_forward(
    conv_out, scale, shift, residual, residual_scale, residual_shift,
    adjacency, column_sums, weight, bias, shortcut_weight, shortcut_bias,
    x, out, batch_stats, shortcut, shortcut_batch_stats, rows,
    KIND: tl.constexpr, RELU_BEFORE_RESIDUAL: tl.constexpr, SHORTCUT: tl.constexpr, BATCH_STATS: tl.constexpr,
    K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, O: tl.constexpr, USED: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    """The output, the shortcut and their batch statistics; also x, unless x is `conv_out` itself.

    adjacency: D. column_sums [K, V]: the sums of A over v, which multiply the bias.
    """
    tile, block = tl.program_id(0), tl.program_id(1)  # the other way round spills on sm_80
    row, valid = tile_rows(tile, rows, USED, ROWS)
    output = block * OUTPUTS + tl.arange(0, OUTPUTS)
    total = tl.zeros((ROWS, OUTPUTS), tl.float32)
    shortcut_total = tl.zeros((ROWS, OUTPUTS), tl.float32)
    first, second = diagonal_of(adjacency, 0, ROWS), diagonal_of(adjacency, K - 1, ROWS)  # outside the loop
    for start in range(0, C, INPUTS):
        column = start + tl.arange(0, INPUTS)
        place, inside = row[:, None] * C + column[None, :], valid[:, None] & (column < C)[None, :]
        x_tile = activated(
            conv_out, scale, shift, residual, residual_scale, residual_shift, place, inside, column,
            C, KIND, RELU_BEFORE_RESIDUAL,
        )  # fmt: skip
        if KIND > 0:
            if start // INPUTS % tl.num_programs(1) == block:  # the blocks of outputs share the work of writing x
                tl.store(x + place, x_tile, inside)
        for k in tl.static_range(K):
            aggregated = tl.dot(first if k == 0 else second, x_tile, input_precision="ieee").to(x_tile.dtype)
            matrix = tl.trans(matrix_of(weight, k, output, column, O, C))
            total = tl.dot(aggregated, matrix, total, input_precision="ieee")
        if SHORTCUT:
            matrix = tl.trans(matrix_of(shortcut_weight, 0, output, column, O, C))
            shortcut_total = tl.dot(x_tile, matrix, shortcut_total, input_precision="ieee")
    joint = tl.arange(0, ROWS) % V
    for k in tl.static_range(K):
        total += tl.load(column_sums + k * V + joint)[:, None] * by_channel(bias + k * O, output, O)
    place, inside = row[:, None] * O + output[None, :], valid[:, None] & (output < O)[None, :]
    count = tl.minimum(rows - tile * USED, USED)
    rounded = total.to(out.dtype.element_ty)
    tl.store(out + place, rounded, inside)
    if BATCH_STATS:
        store_batch_stats(rounded.to(tl.float32), batch_stats, tile, count, valid, output, O)
    if SHORTCUT:
        rounded = (shortcut_total + by_channel(shortcut_bias, output, O)).to(out.dtype.element_ty)
        tl.store(shortcut + place, rounded, inside)
        if BATCH_STATS:
            store_batch_stats(rounded.to(tl.float32), shortcut_batch_stats, tile, count, valid, output, O)


def tile_sizes(dtype: torch.dtype, outputs: int = 64, inputs: int = 64) -> dict[str, int]:
    """Rows, outputs and inputs of a tile, warps and stages: the largest without spills; float32 has no tensor cores."""
    if dtype == torch.float32:
        return {"ROWS": 32, "OUTPUTS": 32, "INPUTS": 32, "warps": 8, "stages": 1}
    return {"ROWS": 64, "OUTPUTS": outputs, "INPUTS": inputs, "warps": 8, "stages": 2}


def used_rows(joints: int, rows: int) -> int:
    """Rows of a tile that hold whole frames."""
    return rows // joints * joints


def _block_diagonal(adjacency_KVV: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """D [K, rows, rows], and the sums of A over v ([K, V], float32).

    D repeats the transposed adjacency for each frame of a tile and is zero elsewhere.
    """
    hops, joints, _ = adjacency_KVV.shape
    diagonal = adjacency_KVV.new_empty(hops, rows, rows)
    sizes = {"V": joints, "USED": used_rows(joints, rows), "ROWS": rows}
    column_sums_KV = torch.empty(hops, joints, dtype=torch.float32, device=diagonal.device)
    launch(block_diagonal, (hops,), adjacency_KVV, diagonal, column_sums_KV, **sizes, warps=4, stages=1)
    return diagonal, column_sums_KV


@operator("graph_conv")
def forward(
    x: list[Tensor],
    relu_before_residual: bool,
    adjacency_KVV: Tensor,
    weight_KOC: Tensor,
    bias_KO: Tensor,
    shortcut: list[Tensor],
    batch_stats: bool,
) -> list[Tensor]:
    """Returns D and the sums of A over v; out_FVO; the shortcut's output; and x_FVC, unless it is plain.

    Each output is followed by its mean and variance if `batch_stats`. `shortcut` is empty, or weight_OC and bias_O.
    x: `DeferredActivation.tensors`.
    """
    frames, joints, channels = x[0].shape
    hops, outputs, _ = weight_KOC.shape
    block = tile_sizes(x[0].dtype, outputs=min(128 if shortcut else 256, padded(outputs)), inputs=32)
    rows, used = frames * joints, used_rows(joints, block["ROWS"])
    tiles = triton.cdiv(rows, used)
    diagonal, column_sums_KV = _block_diagonal(adjacency_KVV, block["ROWS"])
    x_FVC = torch.empty_like(x[0]) if KINDS[len(x)] != PLAIN else x[0]
    outs = [x[0].new_empty(frames, joints, outputs) for _ in range(2 if shortcut else 1)]
    measures = [torch.empty(tiles, 2, outputs, dtype=torch.float32, device=x_FVC.device) for _ in outs]
    sizes = {"K": hops, "V": joints, "C": channels, "O": outputs, "USED": used}
    launch(
        graph_conv_forward, (tiles, triton.cdiv(outputs, block["OUTPUTS"])),
        *arguments(x), diagonal, column_sums_KV, weight_KOC, bias_KO, *(shortcut or [weight_KOC, bias_KO]),
        x_FVC, outs[0], measures[0], outs[-1], measures[-1], rows,
        KIND=KINDS[len(x)], RELU_BEFORE_RESIDUAL=relu_before_residual, SHORTCUT=bool(shortcut), BATCH_STATS=batch_stats,
        **sizes, **block,
    )  # fmt: skip
    result = [[out, *(merged(measure, rows, used) if batch_stats else [])] for out, measure in zip(outs, measures)]
    return [diagonal, column_sums_KV, *sum(result, []), *([] if x_FVC is x[0] else [x_FVC])]
