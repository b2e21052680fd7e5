"""The graph convolution that the model calls, fused with the preceding activation, the shortcut's 1x1 convolution and
the batch statistics.
"""

from typing import Any

from torch import Tensor

from ..deferred_activation.reference import DeferredActivation
from ..dispatch import Operation
from .reference import GraphConvOutput
from .reference import graph_conv as reference

MOST_JOINTS, MOST_HOPS = 32, 2


def _gpu(*arguments: Any) -> GraphConvOutput:
    from .gpu_kernel import graph_conv

    return graph_conv(*arguments)


def _refusal(x: DeferredActivation, adjacency_KVV: Tensor, *_) -> str | None:
    hops, joints = adjacency_KVV.shape[:2]
    if hops > MOST_HOPS:
        return f"{hops} hops are more than {MOST_HOPS}"
    return f"{joints} joints are more than {MOST_JOINTS}" if joints > MOST_JOINTS else None


def _cpu(*arguments: Any) -> GraphConvOutput:
    from .cpu_kernel import graph_conv

    return graph_conv(*arguments)


graph_conv = Operation("graph_conv", reference, _gpu, _refusal, _cpu)
