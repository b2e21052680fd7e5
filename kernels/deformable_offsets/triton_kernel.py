"""Queries and sampling positions in Triton: one program per crop and group, with the offset network in registers.

E channels of a group and V joints, each padded to a power of two of at least 16.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..deformable_attention.triton_kernel import group_matrix
from ..launch import launch, operator, padded
from ..partial_sums import sum_rows

WARPS, WARPS_BACKWARD = 4, 4
MOST_PROGRAMS = 132  # of the backward pass for each group: one for each of an H200's multiprocessors


@triton.jit
def _tanh(x):
    return 1 - 2 / (tl.exp(2 * x) + 1)


@triton.jit
def _normal_share(z):
    """The standard normal distribution function at z; gelu(z) is z times it."""
    return 0.5 * (1 + tl.erf(z * 0.7071067811865476))


@triton.jit
def _network(scale, shift, out, channel, E: tl.constexpr):
    """Scale, shift and both rows of the offset network [1, E] in float32."""
    inside = channel < E
    factor = tl.load(scale + channel, inside, 0).to(tl.float32)[None, :]
    term = tl.load(shift + channel, inside, 0).to(tl.float32)[None, :]
    to_x = tl.load(out + channel, inside, 0).to(tl.float32)[None, :]
    return factor, term, to_x, tl.load(out + E + channel, inside, 0).to(tl.float32)[None, :]


@triton.jit
def keypoint_offsets_forward(
    joints, weight, scale, shift, out, reference, query, position, reach,
    G: tl.constexpr, V: tl.constexpr, E: tl.constexpr, V_PADDED: tl.constexpr, E_PADDED: tl.constexpr,
):  # fmt: skip
    """query [N, V, G * E] and position [N, G, V, 2] of one crop and group."""
    item = tl.program_id(0)
    crop, group = item // G, item % G
    joint, channel = tl.arange(0, V_PADDED), tl.arange(0, E_PADDED)
    inside = (joint[:, None] < V) & (channel[None, :] < E)
    place = (crop * V + joint[:, None]) * (G * E) + group * E + channel[None, :]
    matrix = group_matrix(weight, group, channel, E)
    joints_VE = tl.load(joints + place, inside, 0)
    query_VE = tl.dot(joints_VE, tl.trans(matrix), input_precision="ieee").to(query.dtype.element_ty)
    tl.store(query + place, query_VE, inside)
    factor, term, to_x, to_y = _network(scale, shift, out, channel, E)
    z = query_VE.to(tl.float32) * factor + term
    hidden = z * _normal_share(z)
    at = (crop * V + joint) * 2
    x = tl.load(reference + at, joint < V, 0).to(tl.float32) + reach * _tanh(tl.sum(hidden * to_x, 1))
    y = tl.load(reference + at + 1, joint < V, 0).to(tl.float32) + reach * _tanh(tl.sum(hidden * to_y, 1))
    at = position + (item * V + joint) * 2
    tl.store(at, x.to(position.dtype.element_ty), joint < V)
    tl.store(at + 1, y.to(position.dtype.element_ty), joint < V)


@triton.jit(do_not_specialize=["crops"])
def keypoint_offsets_backward(
    grad_query, grad_position, joints, weight, scale, shift, out, query,
    grad_joints, grad_weight, grad_network, reach, crops,
    G: tl.constexpr, V: tl.constexpr, E: tl.constexpr, V_PADDED: tl.constexpr, E_PADDED: tl.constexpr,
):  # fmt: skip
    """A program walks over crops of its group and keeps partial sums of the gradients of the group's matrix
    [P, G, E, E] and of the offset network [P, G, 4, E]: scale, shift, both rows.
    """
    group, program, programs = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    joint, channel = tl.arange(0, V_PADDED), tl.arange(0, E_PADDED)
    inside = (joint[:, None] < V) & (channel[None, :] < E)
    matrix = group_matrix(weight, group, channel, E)
    factor, term, to_x, to_y = _network(scale, shift, out, channel, E)
    d_weight = tl.zeros((E_PADDED, E_PADDED), tl.float32)
    grad_scale, grad_shift = tl.zeros((E_PADDED,), tl.float32), tl.zeros((E_PADDED,), tl.float32)
    grad_x, grad_y = tl.zeros((E_PADDED,), tl.float32), tl.zeros((E_PADDED,), tl.float32)
    for crop in range(program, crops, programs):
        place = (crop * V + joint[:, None]) * (G * E) + group * E + channel[None, :]
        query_VE = tl.load(query + place, inside, 0).to(tl.float32)
        z = query_VE * factor + term
        share = _normal_share(z)
        hidden = z * share
        x, y = _tanh(tl.sum(hidden * to_x, 1)), _tanh(tl.sum(hidden * to_y, 1))
        at = grad_position + ((crop * G + group) * V + joint) * 2
        x = tl.load(at, joint < V, 0).to(tl.float32) * reach * (1 - x * x)
        y = tl.load(at + 1, joint < V, 0).to(tl.float32) * reach * (1 - y * y)
        grad_x += tl.sum(x[:, None] * hidden, 0)
        grad_y += tl.sum(y[:, None] * hidden, 0)
        slope = share + z * tl.exp(-0.5 * z * z) * 0.3989422804014327
        grad_z = (x[:, None] * to_x + y[:, None] * to_y) * slope
        grad_scale += tl.sum(grad_z * query_VE, 0)
        grad_shift += tl.sum(grad_z, 0)
        d_query = tl.load(grad_query + place, inside, 0).to(tl.float32) + grad_z * factor
        d_query = tl.where(inside, d_query, 0).to(matrix.dtype)
        d_joints = tl.dot(d_query, matrix, input_precision="ieee")
        tl.store(grad_joints + place, d_joints.to(grad_joints.dtype.element_ty), inside)
        d_weight += tl.dot(tl.trans(d_query), tl.load(joints + place, inside, 0), input_precision="ieee")
    at = program * G + group
    mask = (channel[:, None] < E) & (channel[None, :] < E)
    tl.store(grad_weight + (at * E + channel[:, None]) * E + channel[None, :], d_weight, mask)
    row = grad_network + at * 4 * E + channel
    tl.store(row, grad_scale, channel < E)
    tl.store(row + E, grad_shift, channel < E)
    tl.store(row + 2 * E, grad_x, channel < E)
    tl.store(row + 3 * E, grad_y, channel < E)


def _constants(joints_NVC: Tensor, query_weight_GEE: Tensor) -> dict[str, int]:
    joints, (groups, width, _) = joints_NVC.shape[1], query_weight_GEE.shape
    return {"G": groups, "V": joints, "E": width, "V_PADDED": padded(joints), "E_PADDED": padded(width)}


@operator("deformable_offsets")
def forward(inputs: list[Tensor], reach: float) -> tuple[Tensor, Tensor]:
    """query_NVC and position_NGV2. inputs: those of the reference but `reach`."""
    joints_NVC, query_weight_GEE, *_ = inputs
    crops, groups = len(joints_NVC), len(query_weight_GEE)
    outputs = torch.empty_like(joints_NVC), joints_NVC.new_empty(crops, groups, joints_NVC.shape[1], 2)
    sizes = _constants(joints_NVC, query_weight_GEE) | {"warps": WARPS, "stages": 1}
    launch(keypoint_offsets_forward, (crops * groups,), *inputs, *outputs, reach, **sizes)
    return outputs


@operator("deformable_offsets_backward")
def backward(
    grad_query_NVC: Tensor, grad_position_NGV2: Tensor, query_NVC: Tensor, inputs: list[Tensor], reach: float
) -> list[Tensor]:
    """Gradients of the inputs; query_NVC: the result of `forward`."""
    joints_NVC, query_weight_GEE, *_ = inputs
    (crops, _, _), (groups, width, _) = joints_NVC.shape, query_weight_GEE.shape
    programs, grad_joints = min(crops, MOST_PROGRAMS), torch.empty_like(joints_NVC)
    grad_weight = torch.empty(programs, groups, width, width, dtype=torch.float32, device=joints_NVC.device)
    grad_network = torch.empty(programs * groups, 4, width, dtype=torch.float32, device=joints_NVC.device)
    launch(
        keypoint_offsets_backward, (groups, programs), grad_query_NVC, grad_position_NGV2, *inputs[:-1], query_NVC,
        grad_joints, grad_weight, grad_network, reach, crops,
        **_constants(joints_NVC, query_weight_GEE), warps=WARPS_BACKWARD, stages=1,
    )  # fmt: skip
    parts = grad_network[:, 0], grad_network[:, 1], grad_network[:, 2:]
    grads = [x.sum(0).to(joints_NVC.dtype) for x in parts]
    grad_reference = grad_position_NGV2.sum(1, dtype=torch.float32).to(joints_NVC.dtype)
    return [grad_joints, sum_rows(grad_weight, query_weight_GEE), *grads, grad_reference]


def _save(ctx, inputs, output) -> None:
    tensors, ctx.reach = inputs
    ctx.save_for_backward(output[0], *tensors)


def _gradients(ctx, grad_query_NVC: Tensor, grad_position_NGV2: Tensor):
    query_NVC, *inputs = ctx.saved_tensors
    return backward(grad_query_NVC, grad_position_NGV2, query_NVC, inputs, ctx.reach), None


forward.register_autograd(_gradients, setup_context=_save)
