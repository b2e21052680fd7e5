"""Keypoint-guided deformable attention in Triton: one program per crop and group, all intermediates in registers.

A map of at most 4 x 4 cells makes bilinear sampling a small matrix product with hat weights,
S[i, s] = max(0, 1 - |x_i - x_s|) max(0, 1 - |y_i - y_s|), whose backward pass needs no atomics.
E channels of a group, V joints, S cells of the map, each padded to a power of two of at least 16.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import launch, operator, padded
from ..partial_sums import sum_rows

WARPS, WARPS_BACKWARD = 4, 8  # with fewer, float32 spills
MOST_PROGRAMS = 132  # of the backward pass for each group: one for each of an H200's multiprocessors


@triton.jit
def _hat(distance):
    return tl.maximum(1 - tl.abs(distance), 0)


@triton.jit
def _hat_slope(distance):
    """The derivative of `_hat`. At a cell's centre it is the right-hand derivative, as in grid_sample."""
    return tl.where((distance >= -1) & (distance < 0), 1.0, 0.0) - tl.where((distance >= 0) & (distance < 1), 1.0, 0.0)


@triton.jit
def _distances(position, item, joint, cell, V: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """[V, S] along x and y, in cells, from each cell's centre to each position (align_corners False)."""
    at = position + (item * V + joint) * 2
    x = tl.load(at, joint < V, 0).to(tl.float32)
    y = tl.load(at + 1, joint < V, 0).to(tl.float32)
    x, y = ((x + 1) * WIDTH - 1) / 2, ((y + 1) * HEIGHT - 1) / 2
    return x[:, None] - (cell % WIDTH)[None, :], y[:, None] - (cell // WIDTH)[None, :]


@triton.jit
def group_matrix(weight, group, channel, E: tl.constexpr):
    """The group's E x E matrix, output by input, zero beyond E."""
    inside = (channel[:, None] < E) & (channel[None, :] < E)
    return tl.load(weight + group * E * E + channel[:, None] * E + channel[None, :], inside, 0)


@triton.jit
def _attend(
    query, maps, bias, item, group, x, y, keys_weight, values_weight, joint, channel, cell,
    G: tl.constexpr, V: tl.constexpr, E: tl.constexpr, S: tl.constexpr, scale: tl.constexpr,
):  # fmt: skip
    """Query, map, samples, keys, values [V or S, E] and the shares [V, V] of one crop and group."""
    narrow = keys_weight.dtype
    is_joint, is_channel = joint[:, None] < V, channel[None, :] < E
    crop = item // G
    query_VE = tl.load(
        query + (crop * V + joint[:, None]) * (G * E) + group * E + channel[None, :], is_joint & is_channel, 0
    )
    map_SE = tl.load(maps + (item * E + channel[None, :]) * S + cell[:, None], (cell[:, None] < S) & is_channel, 0)
    weight_VS = tl.where(is_joint & (cell[None, :] < S), _hat(x) * _hat(y), 0)
    # The hat weights stay in float32: in bfloat16 they would not add up to one.
    samples_VE = tl.dot(weight_VS, map_SE.to(tl.float32), input_precision="ieee").to(narrow)
    keys_VE = tl.dot(samples_VE, tl.trans(keys_weight), input_precision="ieee").to(narrow)
    values_VE = tl.dot(samples_VE, tl.trans(values_weight), input_precision="ieee").to(narrow)
    pair = (item * V + joint[:, None]) * V + joint[None, :]
    inside = is_joint & (joint[None, :] < V)
    scores = tl.dot(query_VE, tl.trans(keys_VE), input_precision="ieee") * scale
    scores = tl.where(joint[None, :] < V, scores + tl.load(bias + pair, inside, 0).to(tl.float32), float("-inf"))
    shares = tl.exp(scores - tl.max(scores, 1)[:, None])
    return query_VE, map_SE, weight_VS, samples_VE, keys_VE, values_VE, shares / tl.sum(shares, 1)[:, None]


@triton.jit
def keypoint_sampling_forward(
    query, maps, position, key_weight, value_weight, bias, out,
    G: tl.constexpr, V: tl.constexpr, E: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
    V_PADDED: tl.constexpr, E_PADDED: tl.constexpr, S_PADDED: tl.constexpr, scale: tl.constexpr,
):  # fmt: skip
    """out [N, V, G * E] of one crop and group."""
    item = tl.program_id(0)
    group = item % G
    joint, channel, cell = tl.arange(0, V_PADDED), tl.arange(0, E_PADDED), tl.arange(0, S_PADDED)
    x, y = _distances(position, item, joint, cell, V, HEIGHT, WIDTH)
    keys_weight = group_matrix(key_weight, group, channel, E)
    values_weight = group_matrix(value_weight, group, channel, E)
    _q, _m, _w, _s, _k, values_VE, shares_VV = _attend(
        query, maps, bias, item, group, x, y, keys_weight, values_weight, joint, channel, cell,
        G, V, E, HEIGHT * WIDTH, scale,
    )  # fmt: skip
    out_VE = tl.dot(shares_VV.to(values_VE.dtype), values_VE, input_precision="ieee")
    place = out + (item // G * V + joint[:, None]) * (G * E) + group * E + channel[None, :]
    tl.store(place, out_VE.to(out.dtype.element_ty), (joint[:, None] < V) & (channel[None, :] < E))


@triton.jit(do_not_specialize=["crops"])
def keypoint_sampling_backward(
    grad, query, maps, position, key_weight, value_weight, bias,
    grad_query, grad_maps, grad_position, grad_keys, grad_values, grad_bias, crops,
    G: tl.constexpr, V: tl.constexpr, E: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
    V_PADDED: tl.constexpr, E_PADDED: tl.constexpr, S_PADDED: tl.constexpr, scale: tl.constexpr,
):  # fmt: skip
    """A program loops over crops of its group, with partial sums of the two matrices' gradients [P, G, E, E]."""
    group, program, programs = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    S: tl.constexpr = HEIGHT * WIDTH
    joint, channel, cell = tl.arange(0, V_PADDED), tl.arange(0, E_PADDED), tl.arange(0, S_PADDED)
    is_joint, is_channel = joint[:, None] < V, channel[None, :] < E
    keys_weight = group_matrix(key_weight, group, channel, E)
    values_weight = group_matrix(value_weight, group, channel, E)
    narrow = keys_weight.dtype
    sum_keys = tl.zeros((E_PADDED, E_PADDED), tl.float32)
    sum_values = tl.zeros((E_PADDED, E_PADDED), tl.float32)
    for crop in range(program, crops, programs):
        item = crop * G + group
        x, y = _distances(position, item, joint, cell, V, HEIGHT, WIDTH)
        query_VE, map_SE, weight_VS, samples_VE, keys_VE, values_VE, shares_VV = _attend(
            query, maps, bias, item, group, x, y, keys_weight, values_weight, joint, channel, cell, G, V, E, S, scale
        )
        place = (crop * V + joint[:, None]) * (G * E) + group * E + channel[None, :]
        grad_VE = tl.load(grad + place, is_joint & is_channel, 0)
        d_values = tl.dot(tl.trans(shares_VV.to(narrow)), grad_VE, input_precision="ieee").to(narrow)
        grad_shares = tl.dot(grad_VE, tl.trans(values_VE), input_precision="ieee")
        grad_scores = shares_VV * (grad_shares - tl.sum(grad_shares * shares_VV, 1)[:, None])
        pair = (item * V + joint[:, None]) * V + joint[None, :]
        tl.store(grad_bias + pair, grad_scores.to(grad_bias.dtype.element_ty), is_joint & (joint[None, :] < V))
        grad_scores = (grad_scores * scale).to(narrow)
        d_query = tl.dot(grad_scores, keys_VE, input_precision="ieee")
        tl.store(grad_query + place, d_query.to(grad_query.dtype.element_ty), is_joint & is_channel)
        d_keys = tl.dot(tl.trans(grad_scores), query_VE, input_precision="ieee").to(narrow)
        sum_keys += tl.dot(tl.trans(d_keys), samples_VE, input_precision="ieee")
        sum_values += tl.dot(tl.trans(d_values), samples_VE, input_precision="ieee")
        grad_samples = tl.dot(d_keys, keys_weight, input_precision="ieee")
        grad_samples += tl.dot(d_values, values_weight, input_precision="ieee")
        grad_map = tl.dot(tl.trans(weight_VS), grad_samples, input_precision="ieee")
        map_place = (item * E + channel[None, :]) * S + cell[:, None]
        tl.store(grad_maps + map_place, grad_map.to(grad_maps.dtype.element_ty), (cell[:, None] < S) & is_channel)
        grad_weight = tl.dot(grad_samples, tl.trans(map_SE.to(tl.float32)), input_precision="ieee")
        grad_weight = tl.where(is_joint & (cell[None, :] < S), grad_weight, 0)
        at = grad_position + (item * V + joint) * 2
        grad_x = tl.sum(grad_weight * _hat_slope(x) * _hat(y), 1) * (WIDTH / 2)
        grad_y = tl.sum(grad_weight * _hat(x) * _hat_slope(y), 1) * (HEIGHT / 2)
        tl.store(at, grad_x.to(grad_position.dtype.element_ty), joint < V)
        tl.store(at + 1, grad_y.to(grad_position.dtype.element_ty), joint < V)
    matrix = ((program * G + group) * E + channel[:, None]) * E + channel[None, :]
    inside = (channel[:, None] < E) & is_channel
    tl.store(grad_keys + matrix, sum_keys, inside)
    tl.store(grad_values + matrix, sum_values, inside)


def _constants(query_NVC: Tensor, map_NCHW: Tensor, key_weight_GEE: Tensor) -> dict[str, int | float]:
    groups, width, _ = key_weight_GEE.shape
    joints, (height, columns) = query_NVC.shape[1], map_NCHW.shape[2:]
    return {
        "G": groups,
        "V": joints,
        "E": width,
        "HEIGHT": height,
        "WIDTH": columns,
        "V_PADDED": padded(joints),
        "E_PADDED": padded(width),
        "S_PADDED": padded(height * columns),
        "scale": width**-0.5,
    }


@operator("deformable_attention")
def forward(inputs: list[Tensor]) -> Tensor:
    """out_NVC. inputs: those of the reference."""
    query_NVC, map_NCHW, _, key_weight_GEE, *_ = inputs
    out_NVC, constants = torch.empty_like(query_NVC), _constants(query_NVC, map_NCHW, key_weight_GEE)
    items = len(query_NVC) * len(key_weight_GEE)
    launch(keypoint_sampling_forward, (items,), *inputs, out_NVC, **constants, warps=WARPS, stages=1)
    return out_NVC


@operator("deformable_attention_backward")
def backward(grad_NVC: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Gradients of the inputs, in their types."""
    query_NVC, map_NCHW, _, key_weight_GEE, *_ = inputs
    grads = [torch.empty_like(x) for x in inputs]
    crops, groups = len(query_NVC), len(key_weight_GEE)
    programs = min(crops, MOST_PROGRAMS)
    sizes = programs, *key_weight_GEE.shape
    partial = [torch.empty(sizes, dtype=torch.float32, device=grad_NVC.device) for _ in range(2)]
    launch(
        keypoint_sampling_backward, (groups, programs), grad_NVC, *inputs, *grads[:3], *partial, grads[5], crops,
        **_constants(query_NVC, map_NCHW, key_weight_GEE), warps=WARPS_BACKWARD, stages=1,
    )  # fmt: skip
    grads[3:5] = [sum_rows(x, key_weight_GEE) for x in partial]
    return grads


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[0])


def _gradients(ctx, grad_NVC: Tensor):
    return backward(grad_NVC, list(ctx.saved_tensors))


forward.register_autograd(_gradients, setup_context=_save)
