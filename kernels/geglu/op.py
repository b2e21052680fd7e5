"""The gate of a feed-forward: the operation that the model calls."""

from typing import Any

from torch import Tensor

from ..dispatch import Operation
from .reference import geglu as reference


def _gpu(*arguments: Any) -> Tensor:
    from .triton_kernel import forward

    return forward(*arguments)


def _cpu(gate_up_R2F: Tensor, p: float, _: Tensor | None) -> Tensor:
    from ..dropout.cpu_kernel import dropout

    return dropout(reference(gate_up_R2F, 0.0, None), p)


geglu = Operation("geglu", reference, _gpu, cpu=_cpu)
