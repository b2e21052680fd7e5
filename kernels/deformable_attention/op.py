"""Keypoint-guided deformable attention: the operation the model calls."""

import torch
from torch import Tensor

from ..dispatch import run
from ..spec import Case, KernelSpec
from .reference import deformable_attention as reference

MOST_JOINTS, MOST_CELLS, MOST_WIDTH = 32, 16, 32  # a crop and group must fit one program's registers


@torch.library.custom_op("unisign_fast::deformable_attention", mutates_args=())
def _forward(
    query_NVC: Tensor,
    map_NCHW: Tensor,
    position_NGV2: Tensor,
    key_weight_GEE: Tensor,
    value_weight_GEE: Tensor,
    bias_NGVV: Tensor,
) -> Tensor:
    from .triton_kernel import forward

    inputs = query_NVC, map_NCHW, position_NGV2, key_weight_GEE, value_weight_GEE, bias_NGVV
    return forward(*(x.contiguous() for x in inputs))


@_forward.register_fake
def _(query_NVC, *others):
    return query_NVC.new_empty(query_NVC.shape)


@torch.library.custom_op("unisign_fast::keypoint_sampling_backward", mutates_args=())
def _backward(
    grad_NVC: Tensor,
    query_NVC: Tensor,
    map_NCHW: Tensor,
    position_NGV2: Tensor,
    key_weight_GEE: Tensor,
    value_weight_GEE: Tensor,
    bias_NGVV: Tensor,
) -> list[Tensor]:
    from .triton_kernel import backward

    inputs = query_NVC, map_NCHW, position_NGV2, key_weight_GEE, value_weight_GEE, bias_NGVV
    return backward(grad_NVC.contiguous(), *(x.contiguous() for x in inputs))


@_backward.register_fake
def _(grad_NVC, *inputs):
    return [x.new_empty(x.shape) for x in inputs]


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx, grad_NVC: Tensor):
    return tuple(_backward(grad_NVC, *ctx.saved_tensors))


_forward.register_autograd(_gradients, setup_context=_save)


def _refusal(
    query_NVC: Tensor, map_NCHW: Tensor, position_NGV2: Tensor, key_weight_GEE: Tensor, *_: Tensor
) -> str | None:
    joints, cells, width = query_NVC.shape[1], map_NCHW[0, 0].numel() if len(map_NCHW) else 0, key_weight_GEE.shape[1]
    for what, size, most in (
        ("joints", joints, MOST_JOINTS),
        ("cells of the map", cells, MOST_CELLS),
        ("channels of a group", width, MOST_WIDTH),
    ):
        if size > most:
            return f"{size} {what} are more than {most}"
    return None


def _inputs(shape: dict, random) -> tuple:
    crops, groups, joints, width, (height, columns) = (shape[name] for name in ("N", "G", "V", "E", "HW"))
    channels = groups * width
    return (
        random(crops, joints, channels),
        random(crops, channels, height, columns),
        random(crops, groups, joints, 2, scale=0.8),  # a fifth of them is outside the map
        random(groups, width, width, scale=width**-0.5),
        random(groups, width, width, scale=width**-0.5),
        random(crops, groups, joints, joints),
    )


def _flops(shape: dict) -> int:
    """Two for each product and sum: samples, keys and values, scores, attended values."""
    joints, width, cells = shape["V"], shape["E"], shape["HW"][0] * shape["HW"][1]
    return 2 * shape["N"] * shape["G"] * joints * width * (cells + 2 * width + 2 * joints)


def _bytes(shape: dict, itemsize: int) -> int:
    joints, width, cells = shape["V"], shape["E"], shape["HW"][0] * shape["HW"][1]
    per_item = 2 * joints * width + cells * width + 2 * joints + joints**2
    return itemsize * (shape["N"] * shape["G"] * per_item + 2 * shape["G"] * width**2)


_MODEL = {"G": 8, "V": 21, "E": 32, "HW": (4, 4)}

SPEC = KernelSpec(
    name="deformable_attention",
    reference=reference,
    triton=_forward,
    refusal=_refusal,
    inputs=_inputs,
    cases=(
        Case({"N": 3, **_MODEL}, "the model's sizes"),
        Case({"N": 2, "G": 2, "V": 5, "E": 3, "HW": (2, 2)}, "narrower than the smallest matrix product"),
        Case({"N": 2, "G": 1, "V": 32, "E": 32, "HW": (3, 5)}, "the most joints and channels; a map that is no square"),
        Case({"N": 1, "G": 3, "V": 1, "E": 17, "HW": (1, 1)}, "one joint, one cell, a width of no power of two"),
        Case({"N": 0, **_MODEL}, "no sampled hand"),
    ),
    training=(
        Case({"N": 192, **_MODEL}, "hands of 4 clips at p_samp 0.1"),
        Case({"N": 768, **_MODEL}, "hands of 16 clips at p_samp 0.1"),
    ),
    flops=_flops,
    # Recomputes the forward pass, then twice its products for the gradients of their two sides.
    backward_flops=lambda shape: 3 * _flops(shape),
    bytes=_bytes,
    # Reads what the forward pass read and the gradient of its output; writes the gradients of what it read.
    backward_bytes=lambda shape, itemsize: 2 * _bytes(shape, itemsize),
)


def deformable_attention(
    query_NVC: Tensor,
    map_NCHW: Tensor,
    position_NGV2: Tensor,
    key_weight_GEE: Tensor,
    value_weight_GEE: Tensor,
    bias_NGVV: Tensor,
) -> Tensor:
    """out_NVC, before the output projection; see kernels/deformable_attention/reference.py."""
    return run(SPEC, query_NVC, map_NCHW, position_NGV2, key_weight_GEE, value_weight_GEE, bias_NGVV)
