"""Queries and sampling positions in plain PyTorch: the reference that every faster version is tested against."""

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear


def deformable_offsets(
    joints_NVC: Tensor,
    query_weight_GEE: Tensor,
    scale_E: Tensor,
    shift_E: Tensor,
    out_2E: Tensor,
    reference_NV2: Tensor,
    reach: float,
) -> tuple[Tensor, Tensor]:
    """query = W_g x; position = reference + reach * tanh(out gelu(query * scale + shift)) (paper, section 3.3,
    prior-guided fusion: the keypoint is the reference point; deformable attention, Xia et al. 2022).

    Args:
        joints_NVC: V joints of N hand crops; group g owns channels g * E to (g + 1) * E.
        query_weight_GEE: per group, output by input channels.
        scale_E, shift_E, out_2E: the offset network, shared by the groups.
        reference_NV2: the keypoints in the crop, x and y in [-1, 1].
        reach: the largest offset.
    Returns:
        query_NVC, position_NGV2.
    """
    grouped_NVGE = joints_NVC.unflatten(-1, (query_weight_GEE.shape[0], -1))
    query_NVGE = torch.einsum("nvge,gde->nvgd", grouped_NVGE, query_weight_GEE)
    offset_NVG2 = torch.tanh(linear(gelu(query_NVGE * scale_E + shift_E), out_2E)) * reach
    return query_NVGE.flatten(2), reference_NV2[:, None] + offset_NVG2.transpose(1, 2)
