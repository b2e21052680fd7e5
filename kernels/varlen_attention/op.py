"""Attention of packed sequences: the operation that the model calls."""

from typing import Any

from torch import Tensor

from ..dispatch import Operation
from .reference import varlen_attention as reference

BIAS_MULTIPLE = 64  # of a bias's queries and keys on a GPU: the tiles then load it without a mask


def bias_size(longest: int) -> int:
    """The queries or keys that a bias for sequences of that length should have."""
    return -(-longest // BIAS_MULTIPLE) * BIAS_MULTIPLE


def _gpu(*arguments: Any) -> Tensor:
    from .gpu_kernel import varlen_attention

    return varlen_attention(*arguments)


def _cpu(*arguments: Any) -> Tensor:
    from .cpu_kernel import varlen_attention

    return varlen_attention(*arguments)


varlen_attention = Operation("varlen_attention", reference, _gpu, cpu=_cpu)
