"""Continuous position bias in plain PyTorch: the reference that every faster version is tested against."""

import torch
from torch import Tensor


def position_bias(reference_NV2: Tensor, position_NGV2: Tensor, layers: list[tuple[Tensor, Tensor]]) -> Tensor:
    """bias[n, g, i, j] = MLP(sign(d) ln(|d| + 1)) with d = reference[n, i] - position[n, g, j] (Swin v2's continuous
    position bias between joint i and the position sampled for joint j).

    Args:
        reference_NV2: where each joint is in the map, in [-1, 1].
        position_NGV2: where each group samples.
        layers: (weight, bias) of the three linear layers 2 -> H -> H -> 1, ReLU between.
    Returns:
        bias_NGVV.
    """
    distance = reference_NV2[:, None, :, None] - position_NGV2[:, :, None]
    hidden = torch.sign(distance) * torch.log1p(distance.abs())
    for weight, bias in layers[:-1]:
        hidden = torch.nn.functional.linear(hidden, weight, bias).relu()
    return torch.nn.functional.linear(hidden, *layers[-1]).squeeze(-1)
