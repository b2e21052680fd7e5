"""A residual sum and the RMS norm after it: the operation that the model calls."""

from typing import Any

from torch import Tensor

from ..dispatch import Operation
from .reference import residual_rms_norm as reference
from .reference import rms_norm


def _gpu(*arguments: Any) -> tuple[Tensor, Tensor]:
    from .triton_kernel import forward

    z_RM, y_RM, _ = forward(*arguments)
    return z_RM, y_RM


def _cpu(
    x_RM: Tensor, branch_RM: Tensor, scale_M: Tensor, eps: float, p: float, _: Tensor | None
) -> tuple[Tensor, Tensor]:
    from ..dropout.cpu_kernel import dropout

    z_RM = x_RM + dropout(branch_RM, p)
    return z_RM, rms_norm(z_RM, scale_M, eps)


residual_rms_norm = Operation("residual_rms_norm", reference, _gpu, cpu=_cpu)
