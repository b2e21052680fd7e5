"""Attention of packed sequences: the operation that the model calls."""

from torch import Tensor

from ..dispatch import Operation
from ..packing import Packing
from .gpu_kernel import refusal
from .gpu_kernel import varlen_attention as gpu
from .reference import varlen_attention as reference


def _cpu(projected: tuple[Tensor, ...], bias: Tensor, queries: Packing, keys: Packing, heads: int, p: float) -> Tensor:
    from .cpu_kernel import varlen_attention

    return varlen_attention(projected, bias, queries, keys, heads, p)


varlen_attention = Operation("varlen_attention", reference, gpu, refusal, _cpu)
