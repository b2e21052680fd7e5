"""Queries and sampling positions of the deformable attention: the operation that the model calls."""

from torch import Tensor

from ..dispatch import Operation
from ..launch import contiguous, operator
from .reference import deformable_offsets as reference

MOST_JOINTS, MOST_WIDTH = 32, 32  # a crop and group must fit one program's registers


@operator("deformable_offsets")
def _forward(inputs: list[Tensor], reach: float) -> tuple[Tensor, Tensor]:
    from .triton_kernel import forward

    return forward(contiguous(inputs), reach)


@operator("deformable_offsets_backward")
def _backward(
    grad_query_NVC: Tensor, grad_position_NGV2: Tensor, query_NVC: Tensor, inputs: list[Tensor], reach: float
) -> list[Tensor]:
    from .triton_kernel import backward

    grads = grad_query_NVC.contiguous(), grad_position_NGV2.contiguous()
    return backward(*grads, query_NVC, contiguous(inputs), reach)


def _save(ctx, inputs, output) -> None:
    tensors, ctx.reach = inputs
    ctx.save_for_backward(output[0], *tensors)


def _gradients(ctx, grad_query_NVC: Tensor, grad_position_NGV2: Tensor):
    query_NVC, *inputs = ctx.saved_tensors
    return _backward(grad_query_NVC, grad_position_NGV2, query_NVC, inputs, ctx.reach), None


_forward.register_autograd(_gradients, setup_context=_save)


def _gpu(*inputs: Tensor | float) -> tuple[Tensor, Tensor]:
    *tensors, reach = inputs
    return _forward(tensors, reach)


def _refusal(joints_NVC: Tensor, query_weight_GEE: Tensor, *_) -> str | None:
    sizes = ("joints", joints_NVC.shape[1], MOST_JOINTS), ("channels of a group", query_weight_GEE.shape[1], MOST_WIDTH)
    return next((f"{size} {what} are more than {most}" for what, size, most in sizes if size > most), None)


deformable_offsets = Operation("deformable_offsets", reference, _gpu, _refusal)
