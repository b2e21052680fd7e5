"""Graph convolution in Triton: whole frames packed into tiles of ROWS = 128 rows (6 of 21 joints, 7 of 18, 14 of 9),
where the adjacency is block-diagonal, D [K, ROWS, ROWS]. Joints are aggregated before channels are mixed: sum over k of
(D_k X) W_k.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import launch

MOST_SPLITS = 32  # of the frames in the gradients of weight and adjacency, each with a partial sum of its own


@triton.jit
def _rows(source, tile, column, rows, USED: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr):
    """Columns of the tile's rows of `source` [rows, C]; zero in the rows that hold no whole frame."""
    local = tl.arange(0, ROWS)
    row = tile * USED + local
    mask = (local < USED) & (row < rows)
    return tl.load(source + row[:, None] * C + column[None, :], mask[:, None] & (column < C)[None, :], 0)


@triton.jit
def _diagonal(adjacency, k, ROWS: tl.constexpr):
    """D_k [ROWS, ROWS], from joint v (column) to joint w (row)."""
    local = tl.arange(0, ROWS)
    return tl.load(adjacency + k * ROWS * ROWS + local[:, None] * ROWS + local[None, :])


@triton.jit
def graph_conv_forward(
    x, adjacency, weight, bias, out, rows,
    K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, O: tl.constexpr, USED: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    """bias [V, O] float32, what the hops' biases amount to at each joint."""
    tile, output = tl.program_id(0), tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    chunks: tl.constexpr = (C + INPUTS - 1) // INPUTS
    total = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for step in range(K * chunks):
        k, column = step // chunks, step % chunks * INPUTS + tl.arange(0, INPUTS)
        x_tile = _rows(x, tile, column, rows, USED, C, ROWS)
        aggregated = tl.dot(_diagonal(adjacency, k, ROWS), x_tile, input_precision="ieee").to(x_tile.dtype)
        place = (k * O + output[None, :]) * C + column[:, None]
        matrix = tl.load(weight + place, (output < O)[None, :] & (column < C)[:, None], 0)
        total = tl.dot(aggregated, matrix, total, input_precision="ieee")
    local = tl.arange(0, ROWS)
    row = tile * USED + local
    inside = ((local < USED) & (row < rows))[:, None] & (output < O)[None, :]
    total += tl.load(bias + (local % V)[:, None] * O + output[None, :], (output < O)[None, :], 0)
    tl.store(out + row[:, None] * O + output[None, :], total.to(out.dtype.element_ty), inside)


@triton.jit
def graph_conv_weight_gradient(
    x, grad, adjacency, partial, rows, tiles, tiles_a_split,
    K: tl.constexpr, C: tl.constexpr, O: tl.constexpr, USED: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    """partial [splits, K, O, C]: (D_k X)^T dY, transposed, over each split's frames."""
    blocks: tl.constexpr = (O + OUTPUTS - 1) // OUTPUTS
    k, split = tl.program_id(0) // blocks, tl.program_id(2)
    output = tl.program_id(0) % blocks * OUTPUTS + tl.arange(0, OUTPUTS)
    column = tl.program_id(1) * INPUTS + tl.arange(0, INPUTS)
    diagonal = _diagonal(adjacency, k, ROWS)
    total = tl.zeros((OUTPUTS, INPUTS), tl.float32)
    first = split * tiles_a_split
    for tile in range(first, tl.minimum(first + tiles_a_split, tiles)):
        x_tile = _rows(x, tile, column, rows, USED, C, ROWS)
        aggregated = tl.dot(diagonal, x_tile, input_precision="ieee").to(x_tile.dtype)
        upstream = _rows(grad, tile, output, rows, USED, O, ROWS)
        total = tl.dot(tl.trans(upstream), aggregated, total, input_precision="ieee")
    place = ((split * K + k) * O + output[:, None]) * C + column[None, :]
    tl.store(partial + place, total, (output < O)[:, None] & (column < C)[None, :])


@triton.jit
def graph_conv_adjacency_gradient(
    x, grad, weight, partial, rows, tiles, tiles_a_split,
    K: tl.constexpr, C: tl.constexpr, O: tl.constexpr, USED: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    """partial [splits, K, ROWS, ROWS]: (dY W_k) X^T over each split's frames; blocks between frames mean nothing."""
    k, split = tl.program_id(0), tl.program_id(1)
    total = tl.zeros((ROWS, ROWS), tl.float32)
    first = split * tiles_a_split
    for tile in range(first, tl.minimum(first + tiles_a_split, tiles)):
        for start in range(0, C, INPUTS):
            column = start + tl.arange(0, INPUTS)
            through = tl.zeros((ROWS, INPUTS), tl.float32)
            for begin in range(0, O, OUTPUTS):
                output = begin + tl.arange(0, OUTPUTS)
                upstream = _rows(grad, tile, output, rows, USED, O, ROWS)
                place = (k * O + output[:, None]) * C + column[None, :]
                matrix = tl.load(weight + place, (output < O)[:, None] & (column < C)[None, :], 0)
                through = tl.dot(upstream, matrix, through, input_precision="ieee")
            x_tile = _rows(x, tile, column, rows, USED, C, ROWS)
            total = tl.dot(through.to(x_tile.dtype), tl.trans(x_tile), total, input_precision="ieee")
    local = tl.arange(0, ROWS)
    tl.store(partial + ((split * K + k) * ROWS + local[:, None]) * ROWS + local[None, :], total)


def _block(dtype: torch.dtype) -> dict[str, int]:
    """Rows, outputs and inputs of a tile, warps and stages: what fits without spills; float32 has no tensor cores."""
    if dtype == torch.float32:
        return {"ROWS": 32, "OUTPUTS": 64, "INPUTS": 16, "warps": 8, "stages": 1}
    return {"ROWS": 128, "OUTPUTS": 64, "INPUTS": 64, "warps": 8, "stages": 2}


def _used(joints: int, rows: int) -> int:
    """Rows of a tile that hold whole frames."""
    return rows // joints * joints


def block_diagonal(adjacency_KVV: Tensor, rows: int) -> Tensor:
    """D [K, rows, rows]: the transposed adjacency once for each frame of a tile, zero elsewhere."""
    hops, joints, _ = adjacency_KVV.shape
    used = _used(joints, rows)
    out = adjacency_KVV.new_zeros(hops, rows, rows)
    frames = torch.eye(used // joints, dtype=adjacency_KVV.dtype, device=adjacency_KVV.device)
    for k in range(hops):
        out[k, :used, :used] = torch.kron(frames, adjacency_KVV[k].T.contiguous())
    return out


def forward(x_FVC: Tensor, adjacency_KVV: Tensor, weight_KOC: Tensor, bias_VO: Tensor) -> Tensor:
    """y_FVO; bias_VO in float32."""
    frames, joints, channels = x_FVC.shape
    hops, outputs, _ = weight_KOC.shape
    out, block = x_FVC.new_empty(frames, joints, outputs), _block(x_FVC.dtype)
    used = _used(joints, block["ROWS"])
    sizes = {"K": hops, "V": joints, "C": channels, "O": outputs, "USED": used}
    grid = triton.cdiv(frames * joints, used), triton.cdiv(outputs, block["OUTPUTS"])
    diagonal = block_diagonal(adjacency_KVV, block["ROWS"])
    launch(graph_conv_forward, grid, x_FVC, diagonal, weight_KOC, bias_VO, out, frames * joints, **sizes, **block)
    return out


def backward(
    grad_FVO: Tensor, x_FVC: Tensor, adjacency_KVV: Tensor, weight_KOC: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, adjacency, weight and bias_VO (float32); that of x is a graph convolution, both transposed."""
    frames, joints, channels = x_FVC.shape
    hops, outputs, _ = weight_KOC.shape
    no_bias = torch.zeros(joints, channels, dtype=torch.float32, device=x_FVC.device)
    transposed = adjacency_KVV.transpose(1, 2).contiguous(), weight_KOC.transpose(1, 2).contiguous()
    of_x = forward(grad_FVO, *transposed, no_bias)
    rows, block = frames * joints, _block(x_FVC.dtype)
    used = _used(joints, block["ROWS"])
    tiles = triton.cdiv(rows, used)
    splits = min(MOST_SPLITS, tiles)
    tiles_a_split = triton.cdiv(tiles, max(splits, 1))
    sizes = {"K": hops, "C": channels, "O": outputs, "USED": used}

    def sums(*shape: int) -> Tensor:
        return torch.empty(splits, hops, *shape, dtype=torch.float32, device=x_FVC.device)

    of_weight, of_diagonal = sums(outputs, channels), sums(block["ROWS"], block["ROWS"])
    blocks = hops * triton.cdiv(outputs, block["OUTPUTS"]), triton.cdiv(channels, block["INPUTS"])
    arguments = rows, tiles, tiles_a_split
    diagonal = block_diagonal(adjacency_KVV, block["ROWS"])
    launch(
        graph_conv_weight_gradient,
        (*blocks, splits),
        x_FVC,
        grad_FVO,
        diagonal,
        of_weight,
        *arguments,
        **sizes,
        **block,
    )
    launch(
        graph_conv_adjacency_gradient, (hops, splits), x_FVC, grad_FVO, weight_KOC, of_diagonal, *arguments, **sizes,
        **block,
    )  # fmt: skip
    framewise = of_diagonal.sum(0)[:, :used, :used].unflatten(1, (-1, joints)).unflatten(3, (-1, joints))
    of_adjacency = framewise.diagonal(dim1=1, dim2=3).sum(-1).transpose(1, 2)  # [K, w, v] to [K, v, w]
    return (
        of_x,
        of_adjacency.to(adjacency_KVV.dtype).contiguous(),
        of_weight.sum(0).to(weight_KOC.dtype),
        grad_FVO.sum(0, dtype=torch.float32),
    )
