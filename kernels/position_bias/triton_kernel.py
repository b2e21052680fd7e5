"""Position bias in Triton: the hidden layers stay in registers, and the backward pass recomputes them.

A row is a pair (query joint i, sampled position j) of a crop and group. H hidden units, at most 64.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import cdiv, launch, operator, padded

ROWS = 64  # pairs of a tile
# Backward: the most that compile without spills (64 pairs spill 392 bytes a thread); float32 has no tensor cores.
ROWS_BACKWARD = {torch.bfloat16: 32, torch.float32: 16}
WARPS = 8  # with four, some of the GPUs and types spill
MOST_PROGRAMS = 132  # of the backward pass, each with partial sums of its own: as many as an H200 holds at once


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
def _distances(reference, position, crop, sampler, i, j, mask, V: tl.constexpr):
    """Reference of joint i minus position sampled for joint j, along x and y."""
    at, to = reference + (crop * V + i) * 2, position + (sampler * V + j) * 2
    x = tl.load(at, mask, 0).to(tl.float32) - tl.load(to, mask, 0).to(tl.float32)
    y = tl.load(at + 1, mask, 0).to(tl.float32) - tl.load(to + 1, mask, 0).to(tl.float32)
    return x, y


@triton.jit
def _first_layer(weight, bias, unit, is_unit):
    """Columns of the 2 -> H layer, and its bias."""
    x = tl.load(weight + unit * 2, is_unit, 0).to(tl.float32)
    y = tl.load(weight + unit * 2 + 1, is_unit, 0).to(tl.float32)
    return x, y, tl.load(bias + unit, is_unit, 0).to(tl.float32)


@triton.jit
def _matrix(weight, unit, H: tl.constexpr):
    """The H x H matrix (output by input), zero beyond H."""
    inside = (unit[:, None] < H) & (unit[None, :] < H)
    return tl.load(weight + unit[:, None] * H + unit[None, :], inside, 0)


@triton.jit(do_not_specialize=["rows"])
def position_bias_forward(
    reference, position, weight0, bias0, weight1, bias1, weight2, bias2, out, rows,
    G: tl.constexpr, V: tl.constexpr, H: tl.constexpr, H_PADDED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """out [rows], the bias of a tile of pairs; rows = N * G * V * V."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mask = row < rows
    sampler = row // (V * V)
    x, y = _distances(reference, position, sampler // G, sampler, row // V % V, row % V, mask, V)
    unit = tl.arange(0, H_PADDED)
    wx, wy, b = _first_layer(weight0, bias0, unit, unit < H)
    hidden = tl.maximum(_signed_log(x)[:, None] * wx[None, :] + _signed_log(y)[:, None] * wy[None, :] + b[None, :], 0)
    matrix = _matrix(weight1, unit, H)
    hidden = tl.dot(hidden.to(matrix.dtype), tl.trans(matrix), input_precision="ieee")
    hidden = tl.maximum(hidden + tl.load(bias1 + unit, unit < H, 0).to(tl.float32)[None, :], 0)
    last = tl.load(weight2 + unit, unit < H, 0).to(tl.float32)
    value = tl.sum(hidden * last[None, :], 1) + tl.load(bias2).to(tl.float32)
    tl.store(out + row, value.to(out.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["samplers"])
def position_bias_backward(
    grad, reference, position, weight0, bias0, weight1, bias1, weight2,
    grad_reference, grad_position, grad_first, grad_matrix, grad_second, samplers,
    G: tl.constexpr, V: tl.constexpr, V_PADDED: tl.constexpr, H: tl.constexpr, H_PADDED: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """Each program walks over its crops and groups (`samplers`) and keeps partial sums of the weights' gradients.

    grad_first [P, 3, H]: columns of weight0, bias0. grad_matrix [P, H, H]. grad_second [P, 3, H]: bias1, weight2,
    bias2 (once in each unit). grad_reference and grad_position [samplers, V, 2].
    """
    program, programs = tl.program_id(0), tl.num_programs(0)
    unit, joint = tl.arange(0, H_PADDED), tl.arange(0, V_PADDED)
    wx, wy, b0 = _first_layer(weight0, bias0, unit, unit < H)
    matrix = _matrix(weight1, unit, H)
    b1 = tl.load(bias1 + unit, unit < H, 0).to(tl.float32)
    last = tl.load(weight2 + unit, unit < H, 0).to(tl.float32)
    sum_wx, sum_wy, sum_b0 = tl.zeros_like(wx), tl.zeros_like(wx), tl.zeros_like(wx)
    sum_b1, sum_last, sum_b2 = tl.zeros_like(wx), tl.zeros_like(wx), tl.zeros_like(wx)
    sum_matrix = tl.zeros((H_PADDED, H_PADDED), tl.float32)
    for sampler in range(program, samplers, programs):
        to_x, to_y = tl.zeros((V_PADDED,), tl.float32), tl.zeros((V_PADDED,), tl.float32)
        at_x, at_y = tl.zeros((V_PADDED,), tl.float32), tl.zeros((V_PADDED,), tl.float32)
        for first in range(0, V * V, ROWS):
            row = first + tl.arange(0, ROWS)
            mask = row < V * V
            i, j = row // V, row % V
            x, y = _distances(reference, position, sampler // G, sampler, i, j, mask, V)
            fx, fy = _signed_log(x), _signed_log(y)
            hidden0 = tl.maximum(fx[:, None] * wx[None, :] + fy[:, None] * wy[None, :] + b0[None, :], 0)
            narrow0 = hidden0.to(matrix.dtype)
            hidden1 = tl.dot(narrow0, tl.trans(matrix), input_precision="ieee")
            hidden1 = tl.maximum(hidden1 + b1[None, :], 0)
            g = tl.load(grad + sampler * V * V + row, mask, 0).to(tl.float32)
            sum_last += tl.sum(g[:, None] * hidden1, 0)
            sum_b2 += tl.sum(g, 0)
            grad1 = tl.where(hidden1 > 0, g[:, None] * last[None, :], 0)
            sum_b1 += tl.sum(grad1, 0)
            narrow1 = grad1.to(matrix.dtype)
            sum_matrix += tl.dot(tl.trans(narrow1), narrow0, input_precision="ieee")
            grad0 = tl.where(hidden0 > 0, tl.dot(narrow1, matrix, input_precision="ieee"), 0)
            sum_wx += tl.sum(grad0 * fx[:, None], 0)
            sum_wy += tl.sum(grad0 * fy[:, None], 0)
            sum_b0 += tl.sum(grad0, 0)
            grad_x = tl.sum(grad0 * wx[None, :], 1) * _slope(x)
            grad_y = tl.sum(grad0 * wy[None, :], 1) * _slope(y)
            is_i, is_j = i[:, None] == joint[None, :], j[:, None] == joint[None, :]
            at_x += tl.sum(tl.where(is_i, grad_x[:, None], 0), 0)
            at_y += tl.sum(tl.where(is_i, grad_y[:, None], 0), 0)
            to_x -= tl.sum(tl.where(is_j, grad_x[:, None], 0), 0)
            to_y -= tl.sum(tl.where(is_j, grad_y[:, None], 0), 0)
        place, mask = (sampler * V + joint) * 2, joint < V
        tl.store(grad_reference + place, at_x, mask)
        tl.store(grad_reference + place + 1, at_y, mask)
        tl.store(grad_position + place, to_x, mask)
        tl.store(grad_position + place + 1, to_y, mask)
    mask = unit < H
    first_row, second_row = grad_first + program * 3 * H + unit, grad_second + program * 3 * H + unit
    tl.store(first_row, sum_wx, mask)
    tl.store(first_row + H, sum_wy, mask)
    tl.store(first_row + 2 * H, sum_b0, mask)
    tl.store(second_row, sum_b1, mask)
    tl.store(second_row + H, sum_last, mask)
    tl.store(second_row + 2 * H, sum_b2, mask)
    inside = (unit[:, None] < H) & (unit[None, :] < H)
    tl.store(grad_matrix + program * H * H + unit[:, None] * H + unit[None, :], sum_matrix, inside)


@operator("position_bias")
def forward(reference_NV2: Tensor, position_NGV2: Tensor, weights: list[Tensor]) -> Tensor:
    """bias_NGVV; `weights`: weight and bias of the three layers in turn."""
    crops, groups, joints, _ = position_NGV2.shape
    hidden = weights[2].shape[0]
    out = reference_NV2.new_empty(crops, groups, joints, joints)
    rows = out.numel()
    launch(
        position_bias_forward, (cdiv(rows, ROWS),), reference_NV2, position_NGV2, *weights, out, rows,
        G=groups, V=joints, H=hidden, H_PADDED=padded(hidden), ROWS=ROWS, warps=WARPS, stages=1,
    )  # fmt: skip
    return out


@operator("position_bias_backward")
def backward(grad_NGVV: Tensor, reference_NV2: Tensor, position_NGV2: Tensor, weights: list[Tensor]) -> list[Tensor]:
    """Gradients of reference, position, and of `weights` in their order."""
    crops, groups, joints, _ = position_NGV2.shape
    hidden = weights[2].shape[0]
    samplers = crops * groups
    programs = min(samplers, MOST_PROGRAMS)

    def sums(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=grad_NGVV.device)

    reference_NGV2, position = sums(crops, groups, joints, 2), sums(crops, groups, joints, 2)
    first, matrix, second = sums(programs, 3, hidden), sums(programs, hidden, hidden), sums(programs, 3, hidden)
    launch(
        position_bias_backward, (programs,), grad_NGVV, reference_NV2, position_NGV2, *weights[:5],
        reference_NGV2, position, first, matrix, second, samplers,
        G=groups, V=joints, V_PADDED=padded(joints), H=hidden, H_PADDED=padded(hidden),
        ROWS=ROWS_BACKWARD[grad_NGVV.dtype], warps=WARPS, stages=1,
    )  # fmt: skip
    grad_weights = [
        first[:, :2].sum(0).T.contiguous(),
        first[:, 2].sum(0),
        matrix.sum(0),
        second[:, 0].sum(0),
        second[:, 1:2].sum(0),
        second[:, 2, :1].sum(0),
    ]
    grads = [reference_NGV2.sum(1), position, *grad_weights]
    return [grad.to(x.dtype) for grad, x in zip(grads, [reference_NV2, position_NGV2, *weights])]


def _save(ctx, inputs, output) -> None:
    reference_NV2, position_NGV2, weights = inputs
    ctx.save_for_backward(reference_NV2, position_NGV2, *weights)


def _gradients(ctx, grad_NGVV: Tensor):
    reference_NV2, position_NGV2, *weights = ctx.saved_tensors
    grad_reference, grad_position, *grad_weights = backward(grad_NGVV, reference_NV2, position_NGV2, weights)
    return grad_reference, grad_position, grad_weights


forward.register_autograd(_gradients, setup_context=_save)
