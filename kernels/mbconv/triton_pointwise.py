"""1x1 convolutions of channels-last maps in Triton: matrix products that normalize on load and take moments on store.

The forward kernel can normalize, activate and gate the rows on load. It stores either the product and its partial
moments, or SiLU of the normalized product. Blocks of outputs are adjacent on the grid, so that the rows they share are
still in the L2 cache.
"""

# ruff: noqa: E741  (O: output channels, the shape suffix)
import torch
import triton
import triton.language as tl
from torch import Tensor

from ..bn_silu.triton_tiles import Map, merge_moments, share_of, stat, store_pair
from ..launch import cdiv, compute_capability, launch, operator, padded

MOST_OUTPUTS = 128  # of a tile
ROWS = 64
INPUTS = 32
INPUTS_IN_REGISTERS = (
    16  # of rows normalized on load on sm_90: with more, Triton overwrites a factor that is being read
)


@triton.jit
def _read(
    x,
    stats,
    gate,
    row,
    mask,
    channel,
    part,
    HW: tl.constexpr,
    C: tl.constexpr,
    P: tl.constexpr,
    NORMALIZE: tl.constexpr,
):
    """Rows of x, or gate * silu(scale * x + shift); zero outside `mask`, in the type of x."""
    values = tl.load(x + row[:, None] * C + channel[None, :], mask, 0)
    if NORMALIZE:
        scale, shift = stat(stats, 2, part, channel, C, P)[None, :], stat(stats, 3, part, channel, C, P)[None, :]
        z = values.to(tl.float32) * scale + shift
        gates = tl.load(gate + (row // HW)[:, None] * C + channel[None, :], mask, 0).to(tl.float32)
        values = (z * tl.sigmoid(z) * gates).to(x.dtype.element_ty)
    return values


@triton.jit
def pointwise_forward(
    x, weight, stats, gate, out_stats, bounds, y, partial,
    HW: tl.constexpr, C: tl.constexpr, O: tl.constexpr, P: tl.constexpr, NORMALIZE: tl.constexpr,
    ACTIVATE: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    """y = x weight^T, and partial [P, 2, programs, O]: the moments of each program's share.

    NORMALIZE: x is replaced by gate * silu(scale * x + shift). ACTIVATE: y is normalized by `out_stats` and activated,
    and there are no moments.
    """
    part = tl.program_id(2)
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    first, end = share_of(bounds, part, 1)
    start, stop = (first * HW).to(tl.int32), (end * HW).to(tl.int32)
    mean, square = tl.zeros([OUTPUTS], tl.float32), tl.zeros([OUTPUTS], tl.float32)
    for base in range(start, stop, ROWS):
        row = base + tl.arange(0, ROWS)
        total = tl.zeros([ROWS, OUTPUTS], tl.float32)
        for begin in range(0, C, INPUTS):
            channel = begin + tl.arange(0, INPUTS)
            values = _read(
                x, stats, gate, row, (row < stop)[:, None] & (channel < C)[None, :], channel, part, HW, C, P, NORMALIZE
            )
            inside = (channel < C)[:, None] & (output < O)[None, :]
            matrix = tl.load(weight + output[None, :] * C + channel[:, None], inside, 0)
            total = tl.dot(values, matrix, total, input_precision="ieee")
        mask = (row < stop)[:, None] & (output < O)[None, :]
        if ACTIVATE:
            z = (
                total * stat(out_stats, 2, part, output, O, P)[None, :]
                + stat(out_stats, 3, part, output, O, P)[None, :]
            )
            total = z * tl.sigmoid(z)
        rounded = total.to(y.dtype.element_ty)
        tl.store(y + row[:, None] * O + output[None, :], rounded, mask)
        if not ACTIVATE:
            count, before = tl.minimum(stop - base, ROWS).to(tl.float32), (base - start).to(tl.float32)
            mean, square = merge_moments(rounded.to(tl.float32), mask, count, before, mean, square)
    if not ACTIVATE:
        if part < P:
            store_pair(partial, part, output, mean, square, O, 1)


@triton.jit
def pointwise_weight_backward(
    x, stats, gate, grad_y, bounds, grad_weight,
    HW: tl.constexpr, C: tl.constexpr, O: tl.constexpr, P: tl.constexpr, BLOCKS: tl.constexpr, ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """grad_weight [P, programs, O, C]: grad_y^T times gate * silu(scale * x + shift), summed by each program."""
    part = tl.program_id(2)
    output = tl.program_id(0) % BLOCKS * OUTPUTS + tl.arange(0, OUTPUTS)
    column = tl.program_id(0) // BLOCKS * COLUMNS + tl.arange(0, COLUMNS)
    first, end = share_of(bounds, part, 1)
    stop = (end * HW).to(tl.int32)
    total = tl.zeros([OUTPUTS, COLUMNS], tl.float32)
    for base in range((first * HW).to(tl.int32), stop, ROWS):
        row = base + tl.arange(0, ROWS)
        values = _read(x, stats, gate, row, (row < stop)[:, None] & (column < C)[None, :], column, part, HW, C, P, True)
        inside = (output < O)[:, None] & (row < stop)[None, :]
        grad = tl.load(grad_y + row[None, :] * O + output[:, None], inside, 0)
        total = tl.dot(grad, values, total, input_precision="ieee")
    at = ((part * tl.num_programs(1) + tl.program_id(1)) * O + output[:, None]) * C + column[None, :]
    tl.store(grad_weight + at, total, (output < O)[:, None] & (column < C)[None, :])


@operator("mbconv_pointwise")
def forward(
    x_RC: Tensor, cells: int, bounds: Tensor, weight_OC: Tensor, stats: Tensor | None = None,
    gate_NC: Tensor | None = None, out_stats: Tensor | None = None,
) -> list[Tensor]:  # fmt: skip
    """y [R, O] = x weight^T and, unless `out_stats` is given, its partial moments [P, 2, programs, O].

    With `stats` and a gate, the rows are normalized, activated and gated on load. With `out_stats`, y is normalized and
    activated before it is stored.
    """
    x, (outputs, channels) = Map(x_RC, cells, bounds), weight_OC.shape
    exact = weight_OC.dtype == torch.float32
    block = min(MOST_OUTPUTS // (4 if exact else 1), padded(outputs))
    blocks = cdiv(outputs, block)
    programs = x.programs(blocks)
    y_RO, partial = x_RC.new_empty(x.crops * cells, outputs), x.empty(x.parts, 2, programs, outputs)
    unused = partial if stats is None else stats
    tensors = [x_RC, weight_OC, unused, unused if gate_NC is None else gate_NC]
    tensors += [unused if out_stats is None else out_stats, bounds, y_RO, partial]
    sizes = {"HW": cells, "C": channels, "O": outputs, "P": x.parts}
    flags = {"NORMALIZE": stats is not None, "ACTIVATE": out_stats is not None}
    narrow = stats is not None and not exact and compute_capability() == 90
    tiles = {"ROWS": ROWS // (2 if exact else 1), "OUTPUTS": block, "INPUTS": INPUTS_IN_REGISTERS if narrow else INPUTS}
    warps, stages = 8 if block > 64 else 4, 3 if narrow else 2
    grid = blocks, programs, x.parts + 1
    launch(pointwise_forward, grid, *tensors, warps=warps, stages=stages, **sizes, **flags, **tiles)
    return [y_RO, partial] if out_stats is None else [y_RO]


@operator("mbconv_pointwise_weight_backward")
def weight_backward(
    grad_RO: Tensor, x_RC: Tensor, cells: int, bounds: Tensor, stats: Tensor, gate_NC: Tensor
) -> Tensor:
    """The weight's gradient [O, C] of a product that normalized, activated and gated x on load."""
    x, outputs = Map(x_RC, cells, bounds), grad_RO.shape[1]
    exact = grad_RO.dtype == torch.float32
    block = min(MOST_OUTPUTS // (2 if exact else 1), padded(outputs))
    blocks = cdiv(outputs, block)
    wide = blocks * cdiv(x.channels, x.columns)
    grid = wide, x.programs(wide), x.parts
    grad_weight = x.empty(x.parts * grid[1], outputs, x.channels)
    sizes = {"HW": cells, "C": x.channels, "O": outputs, "P": x.parts, "BLOCKS": blocks}
    tiles = {"ROWS": 32 if exact else 64, "OUTPUTS": block, "COLUMNS": x.columns}
    tensors = x_RC, stats, gate_NC, grad_RO, bounds, grad_weight
    warps = 8 if exact or block > 64 else 4  # the fewest that do not spill
    launch(pointwise_weight_backward, grid, *tensors, warps=warps, stages=2, **sizes, **tiles)
    return grad_weight.sum(0).to(grad_RO.dtype)
