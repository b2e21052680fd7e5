"""Queries and sampling positions of the deformable attention: the operation the model calls."""

from torch import Tensor

from ..dispatch import Operation
from ..launch import contiguous, operator
from .reference import deformable_offsets as reference

MOST_JOINTS, MOST_WIDTH = 32, 32  # a crop and group must fit one program's registers


@operator("deformable_offsets")
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

    joints_NVC, query_weight_GEE, reference_NV2 = contiguous([joints_NVC, query_weight_GEE, reference_NV2])
    scale_E, shift_E, out_2E = contiguous([scale_E, shift_E, out_2E])
    return forward(joints_NVC, query_weight_GEE, scale_E, shift_E, out_2E, reference_NV2, reach)


@operator("deformable_offsets_backward")
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

    grad_query_NVC, grad_position_NGV2 = contiguous([grad_query_NVC, grad_position_NGV2])
    query_NVC, joints_NVC, query_weight_GEE = contiguous([query_NVC, joints_NVC, query_weight_GEE])
    scale_E, shift_E, out_2E = contiguous([scale_E, shift_E, out_2E])
    inputs = query_NVC, joints_NVC, query_weight_GEE, scale_E, shift_E, out_2E
    return backward(grad_query_NVC, grad_position_NGV2, *inputs, reach)


def _save(ctx, inputs, output) -> None:
    *tensors, _, ctx.reach = inputs
    ctx.save_for_backward(output[0], *tensors)


def _gradients(ctx, grad_query_NVC: Tensor, grad_position_NGV2: Tensor):
    return *_backward(grad_query_NVC, grad_position_NGV2, *ctx.saved_tensors, ctx.reach), None


_forward.register_autograd(_gradients, setup_context=_save)


def _refusal(joints_NVC: Tensor, query_weight_GEE: Tensor, *_) -> str | None:
    sizes = ("joints", joints_NVC.shape[1], MOST_JOINTS), ("channels of a group", query_weight_GEE.shape[1], MOST_WIDTH)
    return next((f"{size} {what} are more than {most}" for what, size, most in sizes if size > most), None)


deformable_offsets = Operation("deformable_offsets", reference, _forward, _refusal)
