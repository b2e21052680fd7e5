"""Several linear projections of one input in plain PyTorch, the reference for every faster version."""

import torch
from torch import Tensor
from torch.nn.functional import linear


def projections(x_RM: Tensor, weights_OM: tuple[Tensor, ...]) -> Tensor:
    """x W^T for every weight, side by side.

    Args:
        x_RM: rows of the model's width.
        weights_OM: the projections, without a bias.
    Returns:
        [R, the sum of their outputs]
    """
    return torch.cat([linear(x_RM, weight_OM) for weight_OM in weights_OM], -1)
