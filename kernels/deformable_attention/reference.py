"""Keypoint-guided deformable attention in plain PyTorch: the reference that every faster version is tested against."""

import torch
from torch import Tensor
from torch.nn.functional import grid_sample


def deformable_attention(
    query_NVC: Tensor,
    map_NCHW: Tensor,
    position_NGV2: Tensor,
    key_weight_GEE: Tensor,
    value_weight_GEE: Tensor,
    bias_NGVV: Tensor,
) -> Tensor:
    """Each of G groups samples its own C / G = E channels of the map at its own positions (bilinear, zeros outside,
    align_corners False), projects the samples to keys and values, and attends over them: softmax(q.k / sqrt(E) + bias)
    (paper, section 3.3, prior-guided fusion; deformable attention, Xia et al. 2022).

    Args:
        query_NVC: V joints of N hand crops; group g owns channels g * E to (g + 1) * E.
        map_NCHW: features of the crops, without positional encoding.
        position_NGV2: x and y in [-1, 1], keypoint plus offset.
        key_weight_GEE, value_weight_GEE: per group, output by input channels.
        bias_NGVV: position bias, query joint by key joint.
    Returns:
        out_NVC, before the output projection.
    """
    crops, joints, channels = query_NVC.shape
    groups, width, _ = key_weight_GEE.shape
    query = query_NVC.view(crops, joints, groups, width)
    samples = grid_sample(
        map_NCHW.reshape(crops * groups, width, *map_NCHW.shape[2:]),
        position_NGV2.reshape(crops * groups, 1, joints, 2),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    ).view(crops, groups, width, joints)
    key = torch.einsum("ngev,gde->ngvd", samples, key_weight_GEE)
    value = torch.einsum("ngev,gde->ngvd", samples, value_weight_GEE)
    scores = torch.einsum("nigd,ngjd->ngij", query, key) * width**-0.5 + bias_NGVV
    return torch.einsum("ngij,ngjd->nigd", scores.softmax(-1), value).reshape(crops, joints, channels)
