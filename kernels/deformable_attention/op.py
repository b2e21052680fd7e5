"""Keypoint-guided deformable attention: the operation that the model calls."""

from torch import Tensor

from ..dispatch import Operation
from .reference import deformable_attention as reference

MOST_JOINTS, MOST_CELLS, MOST_WIDTH = 32, 16, 32  # a crop and group must fit one program's registers


def _gpu(*inputs: Tensor) -> Tensor:
    from .triton_kernel import forward

    return forward(list(inputs))


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
