"""Dropout: the operation that the model calls."""

from typing import Any

import torch
from torch import Tensor

from ..dispatch import Operation, backend_for
from .reference import dropout as reference


def _cpu(*arguments: Any) -> Tensor:
    from .cpu_kernel import dropout

    return dropout(*arguments)


dropout = Operation("dropout", reference, reference, cpu=_cpu)  # PyTorch's is one launch on a GPU


def dropout_seeds(count: int, like: Tensor) -> list[Tensor | None]:
    """The seeds of the masks of `count` fused dropouts, [1] int64 each: GPU kernels redraw a mask in the backward pass
    instead of saving it. None for other backends, which use torch's generator.
    """
    if backend_for(like) != "gpu":
        return [None] * count
    return list(torch.randint(2**31, (count,), device=like.device).split(1))
