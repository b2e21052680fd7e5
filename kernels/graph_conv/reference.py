"""Graph convolution in plain PyTorch: the reference that every faster version is tested against."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..deferred_activation.reference import ConvOutput, DeferredActivation, deferred_activation, with_batch_stats


class GraphConvOutput(NamedTuple):
    """A graph convolution's activated input, its output, and the shortcut's output."""

    x_FVC: Tensor
    out: ConvOutput
    shortcut: ConvOutput | None


def graph_conv(
    x: DeferredActivation,
    adjacency_KVV: Tensor,
    weight_KOC: Tensor,
    bias_KO: Tensor,
    shortcut: tuple[Tensor, Tensor] | None,
    batch_stats: bool,
) -> GraphConvOutput:
    """y[f, w] = sum over k, v of A[k, v, w] (W_k x[f, v] + b_k), the learnable graph convolution of the pose encoder
    (paper, section 3.2; ST-GCN, Yan et al. 2018, with learned edges), and beside it the residual's 1x1
    convolution of the same x (the shortcut), where the number of channels changes.

    Aggregates before it multiplies, since C <= O: the smaller tensor is the one that exists K times.

    Args:
        x: packed frames, joints, input channels.
        adjacency_KVV: one matrix a hop, from joint v (row) to joint w (column).
        weight_KOC, bias_KO: one linear map a hop. The bias goes through the adjacency too.
        shortcut: weight_OC and bias_O of the 1x1 convolution.
        batch_stats: whether to return those of the outputs.
    """
    hops, out_channels, in_channels = weight_KOC.shape
    x_FVC = deferred_activation(x)
    aggregated = torch.einsum("kvw,fvc->fwkc", adjacency_KVV, x_FVC).flatten(2)
    weight = weight_KOC.permute(1, 0, 2).reshape(out_channels, hops * in_channels)
    bias_VO = adjacency_KVV.sum(1).T @ bias_KO
    out_FVO = torch.nn.functional.linear(aggregated, weight) + bias_VO
    shortcut_out = (
        None if shortcut is None else with_batch_stats(torch.nn.functional.linear(x_FVC, *shortcut), batch_stats)
    )
    return GraphConvOutput(x_FVC, with_batch_stats(out_FVO, batch_stats), shortcut_out)
