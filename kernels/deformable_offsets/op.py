"""Queries and sampling positions of the deformable attention: the operation that the model calls."""

from torch import Tensor

from ..dispatch import Operation
from .reference import deformable_offsets as reference

MOST_JOINTS, MOST_WIDTH = 32, 32  # a crop and group must fit one program's registers


def _gpu(*inputs: Tensor | float) -> tuple[Tensor, Tensor]:
    from .triton_kernel import forward

    *tensors, reach = inputs
    return forward(tensors, reach)


def _refusal(joints_NVC: Tensor, query_weight_GEE: Tensor, *_) -> str | None:
    sizes = ("joints", joints_NVC.shape[1], MOST_JOINTS), ("channels of a group", query_weight_GEE.shape[1], MOST_WIDTH)
    return next((f"{size} {what} are more than {most}" for what, size, most in sizes if size > most), None)


deformable_offsets = Operation("deformable_offsets", reference, _gpu, _refusal)
