"""Scale and shift of a BatchNorm, and its running statistics: the operation that the model calls."""

from typing import Any

from torch import Tensor

from ..dispatch import Operation
from .reference import batch_norm as reference


def _gpu(*arguments: Any) -> tuple[Tensor, Tensor]:
    from .triton_kernel import BatchNorm

    return BatchNorm.apply(*arguments)


batch_norm = Operation("batch_norm", reference, _gpu)
