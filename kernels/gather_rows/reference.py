"""Rows by their index in plain PyTorch: the reference that every faster version is tested against."""

import torch
from torch import Tensor


def gather_rows(x_RW: Tensor, index_N: Tensor, inverse_R: Tensor) -> Tensor:
    """x[index], or zero where the index is -1. Converts packed sequences to padded ones and back.

    Args:
        x_RW: rows of any width.
        index_N: int64, each row at most once.
        inverse_R: where each row of x went, -1 for those that are not in the result; its gradient is a gather too.
    Returns:
        [N, W]
    """
    return torch.cat([x_RW, x_RW.new_zeros(1, x_RW.shape[1])])[index_N]
