"""Attention of packed sequences: the operation that the model calls."""

from typing import Any

from torch import Tensor

from ..dispatch import Operation
from .gpu_kernel import refusal
from .gpu_kernel import varlen_attention as gpu
from .reference import varlen_attention as reference


def _cpu(*arguments: Any) -> Tensor:
    from .cpu_kernel import varlen_attention

    return varlen_attention(*arguments)


varlen_attention = Operation("varlen_attention", reference, gpu, refusal, _cpu)
