"""Position bias in Triton: hidden units never reach memory; the backward pass recomputes them. H of them, at most 64.

A row is a position (group, joint j) that a crop samples. A crop's rows are padded to a multiple of `BLOCK`. A program
takes a tile of rows and goes over joints i, one at a time, so that most of its work is matrix products.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import cdiv, compute_capability, launch, operator, padded

BLOCK = tl.constexpr(8)  # rows of one crop whose gradients of a joint are added up
FEATURES = tl.constexpr(16)  # of a row; tl.dot takes no fewer
ONE = tl.constexpr(15)  # the feature that is one, for biases
ACTIVE, OUTPUT = tl.constexpr(14), tl.constexpr(13)  # columns of partial sums, see position_bias_backward
PARTS = 3  # of a tile's joints i; smaller items fill the last wave better
MOST_PROGRAMS = 396  # of the backward pass, each with partial sums of its own: as many as an H200 holds at once
SUMMED = 2048  # elements of the output's gradient that a program adds up at once
MERGED_PROGRAMS, MERGED_ELEMENTS, MERGING_WARPS = 64, 256, 8


@triton.jit
def _signed_log(distance):
    """sign(d) ln(|d| + 1)"""
    size = tl.log(tl.abs(distance) + 1)
    return tl.where(distance < 0, -size, size)


@triton.jit
def _slope(distance):
    """The derivative of _signed_log as computed by autograd: zero at zero, where sign(d) is zero."""
    return tl.where(distance == 0, 0, 1 / (tl.abs(distance) + 1))


@triton.jit
def _rows(tile, crops, G: tl.constexpr, V: tl.constexpr, ROWS: tl.constexpr):
    """Crop of each row, its place among the crop's rows, and whether it is one."""
    PADDED: tl.constexpr = (G * V + BLOCK - 1) // BLOCK * BLOCK
    row = tile * ROWS + tl.arange(0, ROWS)
    crop, place = row // PADDED, row % PADDED
    return crop, place, (crop < crops) & (place < G * V)


@triton.jit
def _points(points, at, mask):
    """x and y [rows, 2]."""
    return tl.load(points + at[:, None] * 2 + tl.arange(0, 2)[None, :], mask[:, None], 0).to(tl.float32)


@triton.jit
def _features(distance, dtype: tl.constexpr):
    """Features [rows, 16] of distances [rows, 2]: the signed logarithm of x, rounded; its error; the same for y.
    Each fills four columns, but ACTIVE is zero and ONE is one.
    """
    rows: tl.constexpr = distance.shape[0]
    size = _signed_log(distance)
    rounded = size.to(dtype).to(tl.float32)
    parts = tl.reshape(tl.join(rounded, size - rounded), (rows, 4, 1))
    features = tl.reshape(tl.broadcast_to(parts, (rows, 4, FEATURES // 4)), (rows, FEATURES))
    feature = tl.arange(0, FEATURES)[None, :]
    return tl.where(feature < ACTIVE, features, tl.where(feature == ONE, 1.0, 0.0)).to(dtype)


@triton.jit
def _bias_of_features(bias, unit, H: tl.constexpr):
    """[16, H], which multiplies features."""
    is_one = (tl.arange(0, FEATURES)[:, None] == ONE) & (unit < H)[None, :]
    return tl.load(bias + unit[None, :], is_one, 0)


@triton.jit
def _first_layer(weight, bias, unit, H: tl.constexpr):
    """Weight and bias of the 2 -> H layer as a matrix [16, H], which multiplies features."""
    feature = tl.arange(0, FEATURES)[:, None]
    weights = tl.load(weight + unit[None, :] * 2 + feature // 8, (feature % 4 == 0) & (unit < H)[None, :], 0)
    return tl.where(feature == ONE, _bias_of_features(bias, unit, H), weights)


@triton.jit
def _matrix(weight, unit, H: tl.constexpr):
    """The H x H matrix (output by input), zero beyond H."""
    inside = (unit[:, None] < H) & (unit[None, :] < H)
    return tl.load(weight + unit[:, None] * H + unit[None, :], inside, 0)


@triton.jit
def _dot(a, b, sums=None):
    return tl.dot(a, b, sums, input_precision="ieee")


@triton.jit(do_not_specialize=["crops"])
def position_bias_forward(
    reference, position, weight0, bias0, weight1, bias1, weight2, bias2, out, crops,
    G: tl.constexpr, V: tl.constexpr, H: tl.constexpr, H_PADDED: tl.constexpr, JOINTS: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """out [N, G, V, V] of a tile of rows and of JOINTS joints."""
    unit = tl.arange(0, H_PADDED)
    first_layer, bias = _first_layer(weight0, bias0, unit, H), _bias_of_features(bias1, unit, H)
    matrix = tl.trans(_matrix(weight1, unit, H))
    last = tl.load(weight2 + unit, unit < H, 0).to(tl.float32)
    last_bias = tl.load(bias2).to(tl.float32)
    crop, place, is_row = _rows(tl.program_id(0), crops, G, V, ROWS)
    sampled = _points(position, crop * G * V + place, is_row)
    out += (crop * G + place // V) * V * V + place % V
    first = tl.program_id(1) * JOINTS
    for i in range(first, first + JOINTS):
        mask = is_row & (i < V)
        features = _features(_points(reference, crop * V + i, mask) - sampled, matrix.dtype)
        hidden = tl.maximum(_dot(features, first_layer), 0).to(matrix.dtype)
        hidden = tl.maximum(_dot(hidden, matrix, _dot(features, bias)), 0)
        value = tl.sum(hidden * last[None, :], 1) + last_bias
        tl.store(out + i * V, value.to(out.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["crops", "items"])
def position_bias_backward(
    grad, reference, position, weight0, bias0, weight1, bias1, weight2,
    reference_sums, position_sums, vector_sums, matrix_sums, crops, items,
    G: tl.constexpr, V: tl.constexpr, H: tl.constexpr, H_PADDED: tl.constexpr, PARTS: tl.constexpr,
    JOINTS: tl.constexpr, SUMMED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Partial sums of all gradients. An item is a tile of rows with one part of the joints i; each of P programs takes
    every P-th. g is the gradient of a pair's output; active is g where the second ReLU is positive, otherwise zero.

    reference_sums [blocks of rows, V, 2]: over a block. position_sums [PARTS, N, G, V, 2]: over a part of the joints.
    matrix_sums [P, H, H]: active (second hidden unit) times first hidden unit.
    vector_sums [P, H, 16]: gradient of the first hidden unit times features; active in ACTIVE, g in OUTPUT.
    """
    unit, feature, axis = tl.arange(0, H_PADDED), tl.arange(0, FEATURES), tl.arange(0, 8)[None, :]
    first_layer, bias = _first_layer(weight0, bias0, unit, H), _bias_of_features(bias1, unit, H)
    matrix = _matrix(weight1, unit, H)
    last = tl.load(weight2 + unit, unit < H, 0).to(tl.float32)
    scaled = (matrix.to(tl.float32) * last[:, None]).to(matrix.dtype)
    doubled = (2 * first_layer.to(tl.float32)).to(matrix.dtype)
    to_axes = tl.load(weight0 + unit[:, None] * 2 + axis % 2, unit[:, None] < H, 0)  # x and y four times
    to_active = tl.where(feature[None, :] == ACTIVE, 1.0, tl.zeros((ROWS, FEATURES), tl.float32)).to(matrix.dtype)
    vectors, matrices = tl.zeros((H_PADDED, FEATURES), tl.float32), tl.zeros((H_PADDED, H_PADDED), tl.float32)
    sum_g, pairs = tl.zeros((SUMMED,), tl.float32), crops * G * V * V
    for first in range(tl.program_id(0) * SUMMED, pairs, tl.num_programs(0) * SUMMED):
        pair = first + tl.arange(0, SUMMED)
        sum_g += tl.load(grad + pair, pair < pairs, 0).to(tl.float32)
    sum_g = tl.sum(sum_g, 0)
    for item in range(tl.program_id(0), items, tl.num_programs(0)):
        tile, part = item // PARTS, item % PARTS
        crop, place, is_row = _rows(tile, crops, G, V, ROWS)
        at = crop * G * V + place
        sampled, grad_sampled = _points(position, at, is_row), tl.zeros((ROWS, 8), tl.float32)
        grad_row = grad + (crop * G + place // V) * V * V + place % V
        for i in range(part * JOINTS, (part + 1) * JOINTS):
            mask = is_row & (i < V)
            distance = _points(reference, crop * V + i, mask) - sampled
            g = tl.load(grad_row + i * V, mask, 0).to(tl.float32)
            features = _features(distance, matrix.dtype)
            hidden = tl.maximum(_dot(features, first_layer), 0).to(matrix.dtype)
            is_active = _dot(hidden, tl.trans(matrix), _dot(features, bias)) > 0
            active = tl.where(is_active, g[:, None], 0).to(matrix.dtype)
            matrices = _dot(tl.trans(active), hidden, matrices)
            vectors = _dot(tl.trans(active), to_active, vectors)
            grad_hidden = _dot(active, scaled)
            # The first ReLU's input again, doubled or else the compiler keeps the first product: 32 registers more.
            grad_hidden = tl.where(_dot(features, doubled) > 0, grad_hidden, 0).to(matrix.dtype)
            if matrix.dtype == tl.float32:  # Triton uses TF32 for the other form on sm_100, whatever the precision
                vectors += tl.trans(_dot(tl.trans(features), grad_hidden))
            else:
                vectors = _dot(tl.trans(grad_hidden), features, vectors)
            slope = tl.broadcast_to(tl.reshape(_slope(distance), (ROWS, 1, 2)), (ROWS, 4, 2))
            grad_distance = _dot(grad_hidden, to_axes) * tl.reshape(slope, (ROWS, 8))
            grad_sampled -= grad_distance
            grad_reference = tl.sum(tl.reshape(grad_distance, (ROWS // BLOCK, BLOCK, 8)), 1)
            block = tile * (ROWS // BLOCK) + tl.arange(0, ROWS // BLOCK)[:, None]
            tl.store(reference_sums + (block * V + i) * 2 + axis, grad_reference, (axis < 2) & (i < V))
        at = (part * crops * G * V + at)[:, None] * 2 + axis
        tl.store(position_sums + at, grad_sampled, is_row[:, None] & (axis < 2))
    vectors = tl.where(feature[None, :] == OUTPUT, sum_g, vectors)
    row = (tl.program_id(0) * H + unit)[:, None]
    tl.store(vector_sums + row * FEATURES + feature[None, :], vectors, (unit < H)[:, None])
    inside = (unit < H)[:, None] & (unit < H)[None, :]
    tl.store(matrix_sums + row * H + unit[None, :], matrices, inside)


@triton.jit
def _store_unit(
    vector_sums, matrix_sums, weight1, bias1, weight2,
    grad_weight0, grad_bias0, grad_weight1, grad_bias1, grad_weight2, grad_bias2, unit, programs,
    H: tl.constexpr, H_PADDED: tl.constexpr, PROGRAMS: tl.constexpr,
):  # fmt: skip
    """All gradients of one hidden unit's weights and biases."""
    feature, other = tl.arange(0, FEATURES), tl.arange(0, H_PADDED)
    vectors, matrices = tl.zeros((PROGRAMS, FEATURES), tl.float32), tl.zeros((PROGRAMS, H_PADDED), tl.float32)
    for first in range(0, programs, PROGRAMS):
        program = first + tl.arange(0, PROGRAMS)
        row, is_program = (program * H + unit)[:, None], (program < programs)[:, None]
        vectors += tl.load(vector_sums + row * FEATURES + feature[None, :], is_program, 0)
        matrices += tl.load(matrix_sums + row * H + other[None, :], is_program & (other < H)[None, :], 0)
    vector, row = tl.sum(vectors, 0), tl.sum(matrices, 0)
    dtype = grad_bias0.dtype.element_ty
    active = tl.sum(tl.where(feature == ACTIVE, vector, 0), 0)
    last = tl.load(weight2 + unit).to(tl.float32)
    weights = tl.load(weight1 + unit * H + other, other < H, 0).to(tl.float32)
    for axis in tl.static_range(2):
        on_axis = tl.where((feature % 4 == 0) & (feature // 8 == axis), vector, 0)
        tl.store(grad_weight0 + unit * 2 + axis, tl.sum(on_axis, 0).to(dtype))
    tl.store(grad_bias0 + unit, tl.sum(tl.where(feature == ONE, vector, 0), 0).to(dtype))
    tl.store(grad_weight1 + unit * H + other, (row * last).to(dtype), other < H)
    tl.store(grad_bias1 + unit, (active * last).to(dtype))
    # Where it is active, the second hidden unit is weights times first hidden units, plus its bias.
    grad_last = tl.sum(row * weights, 0) + active * tl.load(bias1 + unit).to(tl.float32)
    tl.store(grad_weight2 + unit, grad_last.to(dtype))
    if unit == 0:
        tl.store(grad_bias2, tl.sum(tl.where(feature == OUTPUT, vector, 0), 0).to(dtype))


@triton.jit
def _store_sums(parts, sums, at, element, size, STRIDE, PARTS: tl.constexpr):
    """The sums of PARTS parts that lie STRIDE apart, the first at `at`."""
    total = tl.zeros(at.shape, tl.float32)
    for part in range(PARTS):
        total += tl.load(parts + at + part * STRIDE, element < size, 0)
    tl.store(sums + element, total.to(sums.dtype.element_ty), element < size)


@triton.jit(do_not_specialize=["crops", "programs"])
def position_bias_gradients(
    reference_sums, position_sums, vector_sums, matrix_sums, weight1, bias1, weight2,
    grad_reference, grad_position, grad_weight0, grad_bias0, grad_weight1, grad_bias1, grad_weight2, grad_bias2,
    crops, programs, G: tl.constexpr, V: tl.constexpr, H: tl.constexpr, H_PADDED: tl.constexpr, PARTS: tl.constexpr,
    PROGRAMS: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """Adds up what `position_bias_backward` left. One program for each hidden unit, then one for each block of
    grad_reference and of grad_position.
    """
    program = tl.program_id(0)
    references = (crops * V * 2 + ELEMENTS - 1) // ELEMENTS
    if program < H:
        _store_unit(
            vector_sums, matrix_sums, weight1, bias1, weight2,
            grad_weight0, grad_bias0, grad_weight1, grad_bias1, grad_weight2, grad_bias2, program, programs,
            H, H_PADDED, PROGRAMS,
        )  # fmt: skip
    elif program < H + references:
        BLOCKS: tl.constexpr = (G * V + BLOCK - 1) // BLOCK
        element = (program - H) * ELEMENTS + tl.arange(0, ELEMENTS)
        at = element // (V * 2) * (BLOCKS * V * 2) + element % (V * 2)
        _store_sums(reference_sums, grad_reference, at, element, crops * V * 2, V * 2, BLOCKS)
    else:
        size = crops * G * V * 2
        element = (program - H - references) * ELEMENTS + tl.arange(0, ELEMENTS)
        _store_sums(position_sums, grad_position, element, element, size, size, PARTS)


def _sizes(position_NGV2: Tensor, weights: Sequence[Tensor]) -> dict[str, int]:
    _, groups, joints, _ = position_NGV2.shape
    hidden = weights[2].shape[0]
    return {"G": groups, "V": joints, "H": hidden, "H_PADDED": padded(hidden)}


def _blocks(position_NGV2: Tensor) -> int:
    """Blocks of rows of each crop."""
    _, groups, joints, _ = position_NGV2.shape
    return cdiv(groups * joints, BLOCK.value)


@operator("position_bias")
def forward(reference_NV2: Tensor, position_NGV2: Tensor, weights: list[Tensor]) -> Tensor:
    """bias_NGVV; `weights`: weight and bias of the three layers in turn."""
    crops, groups, joints, _ = position_NGV2.shape
    out = reference_NV2.new_empty(crops, groups, joints, joints)
    rows = 64 if out.dtype == torch.bfloat16 else 32  # float32 has no tensor cores
    launch(
        position_bias_forward, (cdiv(crops * _blocks(position_NGV2) * BLOCK.value, rows), PARTS),
        reference_NV2, position_NGV2, *weights, out, crops,
        **_sizes(position_NGV2, weights), JOINTS=cdiv(joints, PARTS), ROWS=rows, warps=4, stages=1,
    )  # fmt: skip
    return out


def _backward_tile(dtype: torch.dtype) -> dict[str, int]:
    """Of those that compile without spills, the one with the fewest instructions for a row."""
    if dtype == torch.float32:
        return {"ROWS": 32, "warps": 8, "stages": 1}
    return {"ROWS": 64 if compute_capability() >= 90 else 32, "warps": 4, "stages": 1}


@operator("position_bias_backward")
def backward(grad_NGVV: Tensor, reference_NV2: Tensor, position_NGV2: Tensor, weights: list[Tensor]) -> list[Tensor]:
    """Gradients of reference, position, and of `weights` in their order."""
    crops, groups, joints, _ = position_NGV2.shape
    sizes, tile = _sizes(position_NGV2, weights) | {"PARTS": PARTS}, _backward_tile(grad_NGVV.dtype)
    hidden, block = sizes["H"], BLOCK.value
    tiles = cdiv(crops * _blocks(position_NGV2) * block, tile["ROWS"])
    programs = min(tiles * PARTS, MOST_PROGRAMS)

    def sums(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=grad_NGVV.device)

    partial = [
        sums(tiles * tile["ROWS"] // block, joints, 2),
        sums(PARTS, *position_NGV2.shape),
        sums(programs, hidden, FEATURES.value),
        sums(programs, hidden, hidden),
    ]
    launch(
        position_bias_backward, (programs,), grad_NGVV, reference_NV2, position_NGV2, *weights[:5], *partial, crops,
        tiles * PARTS, **sizes, JOINTS=cdiv(joints, PARTS), SUMMED=SUMMED, **tile,
    )  # fmt: skip
    grads = [torch.empty_like(x) for x in (reference_NV2, position_NGV2, *weights)]
    blocks = sum(cdiv(grad.numel(), MERGED_ELEMENTS) for grad in grads[:2])
    launch(
        position_bias_gradients, (hidden + blocks,), *partial, *weights[2:5], *grads, crops, programs,
        **sizes, PROGRAMS=MERGED_PROGRAMS, ELEMENTS=MERGED_ELEMENTS, warps=MERGING_WARPS, stages=1,
    )  # fmt: skip
    return grads


def _save(ctx, inputs, output) -> None:
    reference_NV2, position_NGV2, weights = inputs
    ctx.save_for_backward(reference_NV2, position_NGV2, *weights)


def _gradients(ctx, grad_NGVV: Tensor):
    reference_NV2, position_NGV2, *weights = ctx.saved_tensors
    grad_reference, grad_position, *grad_weights = backward(grad_NGVV, reference_NV2, position_NGV2, weights)
    return grad_reference, grad_position, grad_weights


forward.register_autograd(_gradients, setup_context=_save)
