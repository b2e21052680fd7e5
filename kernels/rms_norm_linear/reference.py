"""RMS norm and the linear projections behind it in plain PyTorch: the truth that every faster version is held
against.
"""

import torch
from torch import Tensor
from torch.nn.functional import linear


def rms_norm_linear(x_RM: Tensor, scale_M: Tensor, eps: float, weights_OM: tuple[Tensor, ...]) -> Tensor:
    """y W^T for every weight, side by side, of y = x / sqrt(mean(x^2) + eps) * scale (Zhang and Sennrich, 2019).

    Args:
        x_RM: rows of the model's width.
        weights_OM: the projections, without a bias.
    Returns:
        [R, the sum of their outputs]; the norm in float32 at least, rounded once.
    """
    exact_RM = x_RM.to(torch.promote_types(x_RM.dtype, torch.float32))
    rstd_R1 = (exact_RM.square().mean(-1, keepdim=True) + eps).rsqrt()
    normed_RM = (exact_RM * rstd_R1 * scale_M).to(x_RM.dtype)
    return torch.cat([linear(normed_RM, weight_OM) for weight_OM in weights_OM], -1)
