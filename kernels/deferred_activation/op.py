"""The deferred activation on its own, where no following convolution applies it on load: the operation the model
calls.
"""

from typing import Any

from torch import Tensor

from ..dispatch import Operation
from .reference import DeferredActivation
from .reference import deferred_activation as reference


def _gpu(x: DeferredActivation, joint_mean: bool = False) -> Tensor:
    if x.plain:
        return reference(x, joint_mean)
    from .triton_kernel import forward, mean_forward

    return (mean_forward if joint_mean else forward)(x.tensors(), x.relu_before_residual)


def _cpu(*arguments: Any) -> Tensor:
    from .cpu_kernel import deferred_activation

    return deferred_activation(*arguments)


deferred_activation = Operation("deferred_activation", reference, _gpu, cpu=_cpu)
