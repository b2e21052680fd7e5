"""The temporal convolution that the model calls, within each clip, fused with the preceding activation and the batch
statistics.
"""

from typing import Any

from torch import Tensor

from ..deferred_activation.reference import ConvOutput, DeferredActivation
from ..dispatch import Operation
from .reference import Clips
from .reference import temporal_conv as reference


def _gpu(x: DeferredActivation, clips: Clips, *arguments: Any) -> ConvOutput:
    from .triton_kernel import forward

    *parameters, batch_stats = arguments
    result = forward(x.tensors(), x.relu_before_residual, clips.bounds_2F, *parameters, batch_stats)
    return ConvOutput(*result[: 3 if batch_stats else 1])


def _cpu(x: DeferredActivation, clips: Clips, weight_TOC: Tensor, *rest: Any) -> ConvOutput:
    from .cpu_kernel import MAX_KERNEL_SIZE, temporal_conv

    run = temporal_conv if len(weight_TOC) <= MAX_KERNEL_SIZE else reference
    return run(x, clips, weight_TOC, *rest)


def _refusal(x: DeferredActivation, clips: Clips, weight_TOC: Tensor, *_) -> str | None:
    return None if weight_TOC.shape[0] % 2 else f"{weight_TOC.shape[0]} taps have no middle one"


temporal_conv = Operation("temporal_conv", reference, _gpu, _refusal, _cpu)
