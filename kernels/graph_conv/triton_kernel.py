"""Graph convolution in Triton. A tile of ROWS = 128 rows holds whole frames (6 of 21 joints, 7 of 18, or 14 of 9), so
that the adjacency of a tile is a block-diagonal matrix: D [K, ROWS, ROWS].

The forward pass aggregates joints before it mixes channels: sum over k of (D_k X) W_k. The activation, the shortcut and
the batch statistics are fused into the same launch. The backward pass mixes channels first, because C <= O: sum over k
of D_k^T (dY W_k).
"""

# ruff: noqa: E741  (O: output channels, the shape suffix)
import torch
import triton
import triton.language as tl
from torch import Tensor

from ..deferred_activation.triton_kernel import (
    KINDS,
    PLAIN,
    ActivationGradient,
    activated,
    arguments,
    by_channel,
    merged,
    output_gradient,
    store_activation_gradient,
    store_batch_stats,
)
from ..launch import launch
from .parameter_gradients import parameter_gradients

MOST_SPLITS = 132  # of the frames, for the adjacency's gradient: one partial sum for each multiprocessor of an H200


@triton.jit
def _tile_rows(tile, rows, USED: tl.constexpr, ROWS: tl.constexpr):
    """The tile's rows, and which of them belong to whole frames."""
    local = tl.arange(0, ROWS)
    row = tile * USED + local
    return row, (local < USED) & (row < rows)


@triton.jit
def _load(source, row, valid, column, C: tl.constexpr):
    """The given rows and columns of `source` [rows, C], zero outside it."""
    return tl.load(source + row[:, None] * C + column[None, :], valid[:, None] & (column < C)[None, :], 0)


@triton.jit
def _diagonal(adjacency, k, ROWS: tl.constexpr):
    """D_k [ROWS, ROWS]: from joint v (column) to joint w (row)."""
    local = tl.arange(0, ROWS)
    return tl.load(adjacency + k * ROWS * ROWS + local[:, None] * ROWS + local[None, :])


@triton.jit
def _matrix(weight, k, output, column, O: tl.constexpr, C: tl.constexpr):
    """A tile [outputs, columns] of W_k, from `weight` [K, O, C]."""
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
    tile, block = tl.program_id(0), tl.program_id(1)  # swapped, the kernel spills on sm_80
    row, valid = _tile_rows(tile, rows, USED, ROWS)
    output = block * OUTPUTS + tl.arange(0, OUTPUTS)
    total = tl.zeros((ROWS, OUTPUTS), tl.float32)
    shortcut_total = tl.zeros((ROWS, OUTPUTS), tl.float32)
    first, second = _diagonal(adjacency, 0, ROWS), _diagonal(adjacency, K - 1, ROWS)  # loaded once, before the loop
    for start in range(0, C, INPUTS):
        column = start + tl.arange(0, INPUTS)
        place, inside = row[:, None] * C + column[None, :], valid[:, None] & (column < C)[None, :]
        x_tile = activated(
            conv_out,
            scale,
            shift,
            residual,
            residual_scale,
            residual_shift,
            place,
            inside,
            column,
            C,
            KIND,
            RELU_BEFORE_RESIDUAL,
        )
        if KIND > 0:
            if start // INPUTS % tl.num_programs(1) == block:  # the blocks of outputs share the work of writing x
                tl.store(x + place, x_tile, inside)
        for k in tl.static_range(K):
            diagonal = first if k == 0 else (second if k == K - 1 else _diagonal(adjacency, k, ROWS))
            aggregated = tl.dot(diagonal, x_tile, input_precision="ieee").to(x_tile.dtype)
            matrix = tl.trans(_matrix(weight, k, output, column, O, C))
            total = tl.dot(aggregated, matrix, total, input_precision="ieee")
        if SHORTCUT:
            matrix = tl.trans(_matrix(shortcut_weight, 0, output, column, O, C))
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


@triton.jit(do_not_specialize=["rows"])
def graph_conv_input_gradient(
    mixed, shortcut_mixed, kept_grad, adjacency, aggregated,
    x, conv_out, scale, shift, residual, residual_scale, grad_conv_out, grad_residual, sums, rows,
    KIND: tl.constexpr, RELU_BEFORE_RESIDUAL: tl.constexpr, SHORTCUT: tl.constexpr, KEPT: tl.constexpr,
    K: tl.constexpr, C: tl.constexpr, USED: tl.constexpr, ROWS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    """The gradient of x, propagated back through its activation, and D_k X, which the weight's gradient needs.

    The gradient of x sums those of both outputs and, if x was also used elsewhere (KEPT), `kept_grad`.
    mixed [rows, K, C]: dY W_k. shortcut_mixed [rows, C]: the same for the shortcut. aggregated [rows, K, C]: D_k X.
    """
    tile = tl.program_id(0)
    row, valid = _tile_rows(tile, rows, USED, ROWS)
    first, second = _diagonal(adjacency, 0, ROWS), _diagonal(adjacency, K - 1, ROWS)  # loaded once per tile
    for start in range(0, C, INPUTS):
        column = start + tl.arange(0, INPUTS)
        place, inside = row[:, None] * C + column[None, :], valid[:, None] & (column < C)[None, :]
        x_tile = tl.load(x + place, inside, 0)
        total = tl.zeros((ROWS, INPUTS), tl.float32)
        for k in tl.static_range(K):
            diagonal = first if k == 0 else (second if k == K - 1 else _diagonal(adjacency, k, ROWS))
            at = (row[:, None] * K + k) * C + column[None, :]
            total = tl.dot(tl.trans(diagonal), tl.load(mixed + at, inside, 0), total, input_precision="ieee")
            neighbours = tl.dot(diagonal, x_tile, input_precision="ieee").to(x_tile.dtype)
            tl.store(aggregated + at, neighbours, inside)
        if SHORTCUT:
            total += tl.load(shortcut_mixed + place, inside, 0).to(tl.float32)
        if KEPT:
            total += tl.load(kept_grad + place, inside, 0).to(tl.float32)
        store_activation_gradient(
            total, x, conv_out, scale, shift, residual, residual_scale, grad_conv_out, grad_residual, sums, tile,
            place, inside, column, C, KIND, RELU_BEFORE_RESIDUAL,
        )  # fmt: skip


@triton.jit(do_not_specialize=["rows", "tiles", "tiles_a_split"])
def graph_conv_adjacency_gradient(
    x, mixed, partial, rows, tiles, tiles_a_split,
    K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, USED: tl.constexpr,
    ROWS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    """partial [splits, K, ROWS, ROWS]: (dY W_k) X^T over the frames of a split. Only diagonal blocks are written."""
    k, split = tl.program_id(0), tl.program_id(1)
    total = tl.zeros((ROWS, ROWS), tl.float32)
    first = split * tiles_a_split
    for tile in range(first, tl.minimum(first + tiles_a_split, tiles)):
        row, valid = _tile_rows(tile, rows, USED, ROWS)
        for start in range(0, C, INPUTS):
            column = start + tl.arange(0, INPUTS)
            inside = valid[:, None] & (column < C)[None, :]
            upstream = tl.load(mixed + (row[:, None] * K + k) * C + column[None, :], inside, 0)
            x_tile = tl.load(x + row[:, None] * C + column[None, :], inside, 0)
            total = tl.dot(upstream, tl.trans(x_tile), total, input_precision="ieee")
    local = tl.arange(0, ROWS)
    place = partial + ((split * K + k) * ROWS + local[:, None]) * ROWS + local[None, :]
    tl.store(place, total, local[:, None] // V == local[None, :] // V)


def _block(dtype: torch.dtype, outputs: int = 64, inputs: int = 64) -> dict[str, int]:
    """Tile sizes, warps and stages: the largest that compile without spills. float32 does not use tensor cores."""
    if dtype == torch.float32:
        return {"ROWS": 32, "OUTPUTS": 32, "INPUTS": 32, "warps": 8, "stages": 1}
    return {"ROWS": 128, "OUTPUTS": outputs, "INPUTS": inputs, "warps": 8, "stages": 2}


def _used(joints: int, rows: int) -> int:
    """The number of rows of a tile that hold whole frames."""
    return rows // joints * joints


def _block_diagonal(adjacency_KVV: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """D [K, rows, rows], and the sums of A over v ([K, V], float32).

    D repeats the transposed adjacency for each frame of a tile and is zero elsewhere.
    """
    hops, joints, _ = adjacency_KVV.shape
    diagonal = adjacency_KVV.new_empty(hops, rows, rows)
    sizes = {"V": joints, "USED": _used(joints, rows), "ROWS": rows}
    column_sums_KV = torch.empty(hops, joints, dtype=torch.float32, device=diagonal.device)
    launch(block_diagonal, (hops,), adjacency_KVV, diagonal, column_sums_KV, **sizes, warps=4, stages=1)
    return diagonal, column_sums_KV


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
    block = _block(x[0].dtype, outputs=64 if shortcut else 128, inputs=32)
    rows, used = frames * joints, _used(joints, block["ROWS"])
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
    block, (diagonal, column_sums_KV) = _block(x_FVC.dtype), graph
    del block["OUTPUTS"]
    rows, used = frames * joints, _used(joints, block["ROWS"])
    tiles = triton.cdiv(rows, used)
    grad, sums = output_gradient(grad_out, out)
    grad_RO = grad.flatten(0, 1)
    mixed = grad_RO @ weight_KOC.transpose(0, 1).reshape(outputs, hops * channels)
    shortcut_mixed, shortcut_sums, grad_shortcut = mixed, None, []
    if shortcut:
        shortcut_grad, shortcut_sums = output_gradient(grad_shortcut_out, shortcut_out)
        shortcut_grad_RO = shortcut_grad.flatten(0, 1)
        shortcut_mixed = shortcut_grad_RO @ shortcut[0]
        grad_shortcut = [shortcut_grad_RO.T @ x_FVC.flatten(0, 1)]
    sizes = {"K": hops, "C": channels, "USED": used}
    # Half as many inputs, so that D also fits in shared memory. With one stage, float32 spills on sm_80.
    narrow = block | {"INPUTS": block["INPUTS"] // 2, "stages": 2}
    result, aggregated = ActivationGradient(x, relu_before_residual, tiles), torch.empty_like(mixed)
    launch(
        graph_conv_input_gradient, (tiles,),
        mixed, shortcut_mixed, mixed if grad_x_FVC is None else grad_x_FVC, diagonal, aggregated,
        *result.arguments(x_FVC), rows,
        **result.constants, SHORTCUT=bool(shortcut), KEPT=grad_x_FVC is not None, **sizes, **narrow,
    )  # fmt: skip
    splits = min(MOST_SPLITS, tiles)
    partial = torch.empty(splits, hops, *[block["ROWS"]] * 2, dtype=torch.float32, device=x_FVC.device)
    shares = rows, tiles, triton.cdiv(tiles, max(splits, 1))
    launch(graph_conv_adjacency_gradient, (hops, splits), x_FVC, mixed, partial, *shares, V=joints, **sizes, **block)
    parts = partial, sums, shortcut_sums, result, column_sums_KV, bias_KO, grad_RO.T @ aggregated
    grads, grad_shortcut_bias = parameter_gradients(*parts, used)
    return [*grads, *grad_shortcut, *grad_shortcut_bias, *result.gradients()]
