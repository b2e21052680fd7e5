"""Queries and sampling positions of the deformable attention: the operation the model calls."""

import torch
from torch import Tensor

from ..dispatch import run
from ..launch import contiguous
from ..spec import Case, KernelSpec
from .reference import deformable_offsets as reference

MOST_JOINTS, MOST_WIDTH = 32, 32  # a crop and group must fit one program's registers


@torch.library.custom_op("unisign_fast::deformable_offsets", mutates_args=())
def _forward(
    joints_NVC: Tensor,
    query_weight_GEE: Tensor,
    scale_E: Tensor,
    shift_E: Tensor,
    out_2E: Tensor,
    reference_NV2: Tensor,
    reach: float,
) -> tuple[Tensor, Tensor]:
    from .triton_kernel import forward

    inputs = contiguous([joints_NVC, query_weight_GEE, scale_E, shift_E, out_2E, reference_NV2])
    return forward(*inputs, reach)


@_forward.register_fake
def _(joints_NVC, query_weight_GEE, scale_E, shift_E, out_2E, reference_NV2, reach):
    crops, joints, _ = joints_NVC.shape
    position = joints_NVC.new_empty(crops, query_weight_GEE.shape[0], joints, 2)
    return joints_NVC.new_empty(joints_NVC.shape), position


@torch.library.custom_op("unisign_fast::keypoint_offsets_backward", mutates_args=())
def _backward(
    grad_query_NVC: Tensor,
    grad_position_NGV2: Tensor,
    query_NVC: Tensor,
    joints_NVC: Tensor,
    query_weight_GEE: Tensor,
    scale_E: Tensor,
    shift_E: Tensor,
    out_2E: Tensor,
    reach: float,
) -> list[Tensor]:
    from .triton_kernel import backward

    gradients = contiguous([grad_query_NVC, grad_position_NGV2])
    inputs = contiguous([query_NVC, joints_NVC, query_weight_GEE, scale_E, shift_E, out_2E])
    return backward(*gradients, *inputs, reach)


@_backward.register_fake
def _(grad_query_NVC, grad_position_NGV2, query_NVC, joints_NVC, query_weight_GEE, scale_E, shift_E, out_2E, reach):
    crops, joints, _ = joints_NVC.shape
    inputs = joints_NVC, query_weight_GEE, scale_E, shift_E, out_2E
    return [*(x.new_empty(x.shape) for x in inputs), joints_NVC.new_empty(crops, joints, 2)]


def _save(ctx, inputs, output) -> None:
    *tensors, _, ctx.reach = inputs
    ctx.save_for_backward(output[0], *tensors)


def _gradients(ctx, grad_query_NVC: Tensor, grad_position_NGV2: Tensor):
    return *_backward(grad_query_NVC, grad_position_NGV2, *ctx.saved_tensors, ctx.reach), None


_forward.register_autograd(_gradients, setup_context=_save)


def _refusal(joints_NVC: Tensor, query_weight_GEE: Tensor, *_) -> str | None:
    sizes = ("joints", joints_NVC.shape[1], MOST_JOINTS), ("channels of a group", query_weight_GEE.shape[1], MOST_WIDTH)
    return next((f"{size} {what} are more than {most}" for what, size, most in sizes if size > most), None)


def _inputs(shape: dict, random) -> tuple:
    crops, groups, joints, width = (shape[name] for name in "NGVE")
    return (
        random(crops, joints, groups * width),
        random(groups, width, width, scale=width**-0.5),
        random(width),
        random(width),
        random(2, width, scale=width**-0.5),
        random(crops, joints, 2),
        0.6,
    )


def _flops(shape: dict) -> int:
    """Two for each product and sum of the matrices."""
    return 2 * shape["N"] * shape["G"] * shape["V"] * shape["E"] * (shape["E"] + 2)


def _bytes(shape: dict, itemsize: int) -> int:
    """Reads joints, references and weights; writes queries and positions."""
    per_joint = 2 * shape["G"] * shape["E"] + 2 * shape["G"] + 2
    return itemsize * (shape["N"] * shape["V"] * per_joint + shape["G"] * shape["E"] ** 2 + 4 * shape["E"])


def _backward_bytes(shape: dict, itemsize: int) -> int:
    """As forward, with queries read again and the gradient of joints written in their place."""
    return _bytes(shape, itemsize) + itemsize * 2 * shape["N"] * shape["V"] * shape["G"] * shape["E"]


_MODEL = {"G": 8, "V": 21, "E": 32}

SPEC = KernelSpec(
    name="deformable_offsets",
    reference=reference,
    triton=_forward,
    refusal=_refusal,
    inputs=_inputs,
    cases=(
        Case({"N": 3, **_MODEL}, "the model's sizes"),
        Case({"N": 2, "G": 2, "V": 5, "E": 3}, "narrower than the smallest matrix product"),
        Case({"N": 2, "G": 1, "V": 32, "E": 17}, "the most joints, a width of no power of two"),
        Case({"N": 1, "G": 3, "V": 1, "E": 32}, "one joint, the widest group"),
        Case({"N": 0, **_MODEL}, "no sampled hand"),
    ),
    training=(
        Case({"N": 192, **_MODEL}, "hands of 4 clips at p_samp 0.1"),
        Case({"N": 768, **_MODEL}, "hands of 16 clips at p_samp 0.1"),
    ),
    flops=_flops,
    backward_flops=lambda shape: 2 * _flops(shape),
    bytes=_bytes,
    backward_bytes=_backward_bytes,
)


def deformable_offsets(
    joints_NVC: Tensor,
    query_weight_GEE: Tensor,
    scale_E: Tensor,
    shift_E: Tensor,
    out_2E: Tensor,
    reference_NV2: Tensor,
    reach: float,
) -> tuple[Tensor, Tensor]:
    """query_NVC, position_NGV2; see kernels/deformable_offsets/reference.py."""
    return run(SPEC, joints_NVC, query_weight_GEE, scale_E, shift_E, out_2E, reference_NV2, reach)
