"""The smoothed cross entropy of a linear layer in plain PyTorch: the reference for every faster version."""

import torch
from torch import Tensor
from torch.nn import functional


def cross_entropy(hidden_LD: Tensor, weight_WD: Tensor, labels_L: Tensor, smoothing: float) -> Tensor:
    """Sum over tokens of the smoothed cross entropy of softmax(hidden W^T), a scalar in float32 at least (equation 5).

    Args:
        hidden_LD, weight_WD: of one dtype.
        labels_L: int64 in [0, W).
        smoothing: the share of the target distribution that is uniform over all W classes.
    """
    logits_LW = functional.linear(hidden_LD, weight_WD)
    exact = torch.promote_types(logits_LW.dtype, torch.float32)
    return functional.cross_entropy(logits_LW.to(exact), labels_L, reduction="sum", label_smoothing=smoothing)
