"""Graph convolution on a GPU: Triton aggregates neighbors, and cuBLAS mixes channels.

The forward pass aggregates joints before it mixes channels: sum over k of (D_k X) W_k, one product over all hops. A
tile of ROWS = 64 rows holds whole frames (3 of 21 or 18 joints, or 7 of 9), so that the adjacency of a tile is a
block-diagonal matrix: D [K, ROWS, ROWS]. Next to its aggregated channels, each row has the sums of A_k over v, which
multiply the biases in the same product. The backward pass is in triton_backward.py.

A single kernel for all of it, from the activation to the batch statistics, moves fewer bytes, but took six to eight
times as long as these bytes do on an H200: docs/gpu.md.
"""

# ruff: noqa: E741  (O: output channels, the shape suffix)
import torch
import triton
import triton.language as tl
from torch import Tensor

from ..deferred_activation.triton_kernel import KINDS, PLAIN, activated, arguments
from ..deferred_activation.triton_stats import batch_stats_of
from ..launch import cdiv, launch, operator

BIAS_COLUMNS = 8  # columns beside the aggregated channels, K of them used: rows stay multiples of 16 bytes
COPIED = 2048  # elements of the matrix that a program writes
PROGRAMS = 528  # four for each multiprocessor of an H200


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
def _store_diagonal(
    adjacency, diagonal, column_sums, k, V: tl.constexpr, USED: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    """D_k, and the sums of A_k over v, from A_k [V, V]."""
    local = tl.arange(0, ROWS)
    to, source = local[:, None], local[None, :]
    inside = (to // V == source // V) & (to < USED) & (source < USED)
    value = tl.load(adjacency + (k * V + source % V) * V + to % V, inside, 0)
    tl.store(diagonal + (k * ROWS + to) * ROWS + source, value)
    tl.store(column_sums + k * V + local, tl.sum(value.to(tl.float32), 1), local < V)


@triton.jit
def matrix_elements(
    first, K: tl.constexpr, C: tl.constexpr, O: tl.constexpr, WIDTH: tl.constexpr, COPIED: tl.constexpr
):  # fmt: skip
    """COPIED elements of the matrix [O, WIDTH]; their offsets in the weight [K, O, C] and in the bias [K, O], and which
    elements each holds.
    """
    element = first + tl.arange(0, COPIED)
    output, place = element // WIDTH, element % WIDTH
    hop = place - K * C
    weights, inside = (place // C * O + output) * C + place % C, element < O * WIDTH
    return element, inside, weights, inside & (hop < 0), hop * O + output, inside & (hop >= 0) & (hop < K)


@triton.jit
def graph_conv_parameters(
    adjacency, weight, bias, diagonal, column_sums, matrix,
    K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, O: tl.constexpr, WIDTH: tl.constexpr,
    USED: tl.constexpr, ROWS: tl.constexpr, COPIED: tl.constexpr,
):  # fmt: skip
    """One program for each D_k; the others build the matrix [O, WIDTH]: all W_k and, in the last columns, biases."""
    program = tl.program_id(0)
    if program < K:
        _store_diagonal(adjacency, diagonal, column_sums, program, V, USED, ROWS)
    else:
        element, inside, weights, is_weight, biases, is_bias = matrix_elements(
            (program - K) * COPIED, K, C, O, WIDTH, COPIED
        )
        value = tl.where(is_weight, tl.load(weight + weights, is_weight, 0), tl.load(bias + biases, is_bias, 0))
        tl.store(matrix + element, value, inside)


@triton.jit(do_not_specialize=["rows", "tiles", "tiles_a_program"])
def graph_conv_aggregate(
    conv_out, scale, shift, residual, residual_scale, residual_shift, adjacency, column_sums, x, aggregated,
    rows, tiles, tiles_a_program,
    KIND: tl.constexpr, RELU_BEFORE_RESIDUAL: tl.constexpr,
    K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, WIDTH: tl.constexpr, USED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, EXTRA: tl.constexpr,
):  # fmt: skip
    """aggregated [rows, WIDTH]: D_k X for all k, and the sums of A_k over v; also x, unless x is `conv_out` itself.

    A program handles one block of channels in a share of the tiles, and loads D once.
    """
    program, block = tl.program_id(0), tl.program_id(1)
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    first, second = diagonal_of(adjacency, 0, ROWS), diagonal_of(adjacency, K - 1, ROWS)
    hop, joint = tl.arange(0, EXTRA)[None, :], (tl.arange(0, ROWS) % V)[:, None]
    sums = tl.load(column_sums + hop * V + joint, hop < K, 0).to(aggregated.dtype.element_ty)
    begin = program * tiles_a_program
    for tile in range(begin, tl.minimum(begin + tiles_a_program, tiles)):
        row, valid = tile_rows(tile, rows, USED, ROWS)
        place, inside = row[:, None] * C + column[None, :], valid[:, None] & (column < C)[None, :]
        x_tile = activated(
            conv_out, scale, shift, residual, residual_scale, residual_shift, place, inside, column,
            C, KIND, RELU_BEFORE_RESIDUAL,
        )  # fmt: skip
        if KIND > 0:
            tl.store(x + place, x_tile, inside)
        for k in tl.static_range(K):
            neighbors = tl.dot(first if k == 0 else second, x_tile, input_precision="ieee").to(x_tile.dtype)
            tl.store(aggregated + row[:, None] * WIDTH + k * C + column[None, :], neighbors, inside)
        if block == 0:
            tl.store(aggregated + row[:, None] * WIDTH + K * C + hop, sums, valid[:, None] & (hop < EXTRA))


def _tile(dtype: torch.dtype) -> dict[str, int]:
    """Rows and columns of a tile, warps and stages."""
    size = 32 if dtype == torch.float32 else 64
    return {"ROWS": size, "COLUMNS": size, "EXTRA": BIAS_COLUMNS, "warps": 4, "stages": 3}


def used_rows(joints: int, rows: int) -> int:
    """Rows of a tile that hold whole frames."""
    return rows // joints * joints


def shares(x_FVC: Tensor, block: dict[str, int]) -> tuple[int, int, tuple[int, int]]:
    """Tiles, and tiles of a program, for these tile sizes; and the grid: programs and blocks of channels."""
    frames, joints, channels = x_FVC.shape
    tiles = cdiv(frames * joints, used_rows(joints, block["ROWS"]))
    blocks = cdiv(channels, block["COLUMNS"])
    tiles_a_program = max(1, cdiv(tiles * blocks, PROGRAMS))
    return tiles, tiles_a_program, (cdiv(tiles, tiles_a_program), blocks)


def _graph(adjacency_KVV: Tensor, weight_KOC: Tensor, bias_KO: Tensor, rows: int) -> list[Tensor]:
    """D [K, rows, rows]; the sums of A over v ([K, V], float32); and all weights and biases [O, K * C + BIAS_COLUMNS].

    D repeats the transposed adjacency for each frame of a tile and is zero elsewhere.
    """
    (hops, outputs, channels), joints = weight_KOC.shape, adjacency_KVV.shape[1]
    diagonal = adjacency_KVV.new_empty(hops, rows, rows)
    column_sums_KV = torch.empty(hops, joints, dtype=torch.float32, device=diagonal.device)
    matrix = weight_KOC.new_empty(outputs, hops * channels + BIAS_COLUMNS)
    result = [diagonal, column_sums_KV, matrix]
    launch(
        graph_conv_parameters, (hops + cdiv(matrix.numel(), COPIED),),
        adjacency_KVV, weight_KOC, bias_KO, *result, K=hops, V=joints, C=channels, O=outputs, WIDTH=matrix.shape[1],
        USED=used_rows(joints, rows), ROWS=rows, COPIED=COPIED, warps=4, stages=1,
    )  # fmt: skip
    return result


def aggregate(x: list[Tensor], relu_before_residual: bool, graph: list[Tensor]) -> tuple[Tensor, Tensor]:
    """D_k X for all k, and the sums of A_k over v: [F * V, K * C + BIAS_COLUMNS]; and x_FVC."""
    (frames, joints, channels), (diagonal, column_sums_KV, matrix) = x[0].shape, graph
    block, rows, width = _tile(x[0].dtype), frames * joints, matrix.shape[1]
    tiles, tiles_a_program, grid = shares(x[0], block)
    x_FVC = torch.empty_like(x[0]) if KINDS[len(x)] != PLAIN else x[0]
    aggregated = x_FVC.new_empty(rows, width)
    launch(
        graph_conv_aggregate, grid,
        *arguments(x), diagonal, column_sums_KV, x_FVC, aggregated, rows, tiles, tiles_a_program,
        KIND=KINDS[len(x)], RELU_BEFORE_RESIDUAL=relu_before_residual,
        K=len(diagonal), V=joints, C=channels, WIDTH=width, USED=used_rows(joints, block["ROWS"]), **block,
    )  # fmt: skip
    return aggregated, x_FVC


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
    """Returns what `_graph` returns; out_FVO; the shortcut's output; and x_FVC, unless it is plain.

    Each output is followed by its mean and variance if `batch_stats`. `shortcut` is empty, or weight_OC and bias_O.
    x: `DeferredActivation.tensors`.
    """
    (frames, joints, _), outputs = x[0].shape, weight_KOC.shape[1]
    graph = _graph(adjacency_KVV, weight_KOC, bias_KO, _tile(x[0].dtype)["ROWS"])
    aggregated, x_FVC = aggregate(x, relu_before_residual, graph)
    outs = [aggregated @ graph[2].T]
    if shortcut:
        weight_OC, bias_O = shortcut
        outs.append(torch.addmm(bias_O, x_FVC.flatten(0, 1), weight_OC.T))
    result = []
    for out in outs:
        result += [out.view(frames, joints, outputs), *(batch_stats_of(out) if batch_stats else [])]
    return [*graph, *result, *([] if x_FVC is x[0] else [x_FVC])]
