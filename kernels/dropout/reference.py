"""Dropout in plain PyTorch."""

from torch import Tensor
from torch.nn import functional


def dropout(x: Tensor, p: float) -> Tensor:
    """Each element of x is set to zero with probability p, and otherwise divided by 1 - p."""
    return functional.dropout(x, p)
