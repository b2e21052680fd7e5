"""Inverted bottleneck in plain PyTorch, without its residual.

Shapes: x [N, C, H, W] to [N, O, ceil(H / stride), ceil(W / stride)]; parts and padding as in bn_silu/reference.py.
Sources: Sandler et al. 2018, "MobileNetV2", section 3.3; with squeeze and excitation: Tan et al. 2019, "MnasNet".
"""

from typing import NamedTuple

from torch import Tensor

from ..bn_silu.convolution import Conv, convolve
from ..bn_silu.reference import Excitation, Norm, Parts, bn_silu


class Layer(NamedTuple):
    """A convolution and the normalization of its output."""

    conv: Conv
    norm: Norm


class Block(NamedTuple):
    """The layers of an inverted bottleneck; SiLU follows all normalizations but the last."""

    expand: Layer | None  # 1x1; None where the block keeps the number of channels
    depthwise: Layer
    excitation: Excitation  # the gate between the depthwise convolution and the projection
    project: Layer  # 1x1


def mbconv(x_NCHW: Tensor, parts: Parts, block: Block, training: bool) -> Tensor:
    """The normalized projection. Training normalizes by batch statistics; see bn_silu."""
    return layer_by_layer(bn_silu, x_NCHW, parts, block, training)


def layer_by_layer(normalize, x_NCHW: Tensor, parts: Parts, block: Block, training: bool) -> Tensor:
    """The block as calls of some version of `bn_silu`, each fused with the convolution that follows it."""
    expand, depthwise, excitation, project = block
    if expand is None:
        out_NCHW = convolve(x_NCHW, depthwise.conv)
    else:
        out_NCHW = convolve(x_NCHW, expand.conv)
        out_NCHW = normalize(out_NCHW, parts, expand.norm, training, True, None, depthwise.conv)
    out_NCHW = normalize(out_NCHW, parts, depthwise.norm, training, True, excitation, project.conv)
    return normalize(out_NCHW, parts, project.norm, training, False)
