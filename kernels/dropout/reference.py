"""Dropout in plain PyTorch."""

from torch import Tensor
from torch.nn import functional


def dropout(x: Tensor, p: float) -> Tensor:
    """x with each element zero with probability p, the others divided by 1 - p."""
    return functional.dropout(x, p)
