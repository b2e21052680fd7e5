"""Rows by their index: the operation that attention calls."""

from typing import Any

from torch import Tensor

from ..dispatch import Operation
from .reference import gather_rows as reference


def _gpu(*arguments: Any) -> Tensor:
    from .triton_kernel import gather_rows

    return gather_rows(*arguments)


gather_rows = Operation("gather_rows", reference, _gpu)
