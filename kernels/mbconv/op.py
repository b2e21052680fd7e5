"""The inverted bottleneck that the model calls."""

from typing import Any

from torch import Tensor

from ..bn_silu.op import MOST_PARTS, bn_silu
from ..bn_silu.reference import Parts
from ..dispatch import Operation
from .reference import Block, layer_by_layer
from .reference import mbconv as reference

KERNEL_SIZES, STRIDES = (3, 5), (1, 2)


def _gpu(*arguments: Any) -> Tensor:
    from .gpu_kernel import mbconv

    return mbconv(*arguments)


def _cpu(*arguments: Any) -> Tensor:
    """The layers one after another."""
    return layer_by_layer(bn_silu.cpu, *arguments)


def _refusal(x_NCHW: Tensor, parts: Parts, block: Block, *_) -> str | None:
    conv = block.depthwise.conv
    if len(parts.counts) > MOST_PARTS:
        return f"{len(parts.counts)} parts are more than {MOST_PARTS}"
    if conv.weight.shape[-1] not in KERNEL_SIZES or conv.stride not in STRIDES:
        return f"kernel size {conv.weight.shape[-1]} with stride {conv.stride}: only {KERNEL_SIZES} and {STRIDES}"
    return None


mbconv = Operation("mbconv", reference, _gpu, _refusal, _cpu)
