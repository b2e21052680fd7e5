"""Keypoint-guided deformable attention: the operation that the model calls."""

from torch import Tensor

from ..dispatch import Operation
from ..launch import contiguous, operator
from .reference import deformable_attention as reference

MOST_JOINTS, MOST_CELLS, MOST_WIDTH = 32, 16, 32  # a crop and group must fit one program's registers


@operator("deformable_attention")
def _forward(inputs: list[Tensor]) -> Tensor:
    from .triton_kernel import forward

    return forward(contiguous(inputs))


@operator("deformable_attention_backward")
def _backward(grad_NVC: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    from .triton_kernel import backward

    return backward(grad_NVC.contiguous(), contiguous(inputs))


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[0])


def _gradients(ctx, grad_NVC: Tensor):
    return _backward(grad_NVC, list(ctx.saved_tensors))


_forward.register_autograd(_gradients, setup_context=_save)


def _gpu(*inputs: Tensor) -> Tensor:
    return _forward(list(inputs))


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


deformable_attention = Operation("deformable_attention", reference, _gpu, _refusal)
