"""Graph convolution in plain PyTorch: the truth that every faster version is held against."""

import torch
from torch import Tensor


def graph_conv(x_FVC: Tensor, adjacency_KVV: Tensor, weight_KOC: Tensor, bias_KO: Tensor) -> Tensor:
    """y[f, w] = sum over k, v of A[k, v, w] (W_k x[f, v] + b_k), the learnable graph convolution of the pose encoder
    (paper, section 3.2; ST-GCN, Yan et al. 2018, with learned edges).

    Aggregates before it multiplies, since C <= O: the smaller tensor is the one that exists K times.

    Args:
        x_FVC: packed frames, joints, input channels.
        adjacency_KVV: one matrix a hop, from joint v (row) to joint w (column).
        weight_KOC, bias_KO: one linear map a hop. The bias goes through the adjacency too.
    Returns:
        y_FVO.
    """
    hops, out_channels, in_channels = weight_KOC.shape
    aggregated = torch.einsum("kvw,fvc->fwkc", adjacency_KVV, x_FVC).flatten(2)
    weight = weight_KOC.permute(1, 0, 2).reshape(out_channels, hops * in_channels)
    bias_VO = adjacency_KVV.sum(1).T @ bias_KO
    return torch.nn.functional.linear(aggregated, weight) + bias_VO
