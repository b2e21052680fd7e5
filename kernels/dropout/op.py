"""Dropout: the operation that the model calls."""

from torch import Tensor

from ..dispatch import Operation
from .reference import dropout as reference


def _cpu(x: Tensor, p: float) -> Tensor:
    from .cpu_kernel import dropout

    return dropout(x, p)


def _refusal(*_) -> None:
    return None


dropout = Operation("dropout", reference, reference, _refusal, _cpu)  # PyTorch's is one launch on a GPU
