"""A residual sum and the RMS norm after it in plain PyTorch, the reference for every faster version."""

import torch
from torch import Tensor
from torch.nn.functional import dropout


def residual_rms_norm(
    x_RM: Tensor, branch_RM: Tensor, scale_M: Tensor, eps: float, p: float, seed: Tensor | None
) -> tuple[Tensor, Tensor]:
    """z = x + dropout(branch), and y = z / sqrt(mean(z^2) + eps) * scale (Zhang and Sennrich, 2019).

    Args:
        x_RM, branch_RM: the residual stream, and what a sublayer adds to it.
        scale_M: the norm's weight.
        p: the probability of dropping an element of the branch.
        seed: [1] int64, the seed from which the backward pass redraws the mask (kernels/dropout); None if torch's
        generator draws it.
    Returns:
        z_RM and y_RM; the norm in float32 at least, rounded once.
    """
    z_RM = x_RM + dropout(branch_RM, p)
    return z_RM, rms_norm(z_RM, scale_M, eps)


def rms_norm(z_RM: Tensor, scale_M: Tensor, eps: float) -> Tensor:
    """The norm alone."""
    exact_RM = z_RM.to(torch.promote_types(z_RM.dtype, torch.float32))
    return (exact_RM * (exact_RM.square().mean(-1, keepdim=True) + eps).rsqrt() * scale_M).to(z_RM.dtype)
