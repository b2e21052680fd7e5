"""Convolutions of channels-last maps: 1x1 ones as matrix products, the others by the library."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv2d, linear


class Conv(NamedTuple):
    """A convolution without bias whose output has ceil(side / stride) cells a side."""

    weight: Tensor  # [O, C / groups, k, k], k odd
    stride: int = 1
    groups: int = 1

    @property
    def pointwise(self) -> bool:
        """Whether the convolution is a matrix product over the channels."""
        return self.weight.shape[2:].numel() == self.stride == self.groups == 1

    @property
    def padding(self) -> int:
        """Zeros on each side."""
        return self.weight.shape[-1] // 2


def rows(x_NCHW: Tensor) -> Tensor:
    """[N * H * W, C]; a view of a channels-last map."""
    return x_NCHW.permute(0, 2, 3, 1).reshape(-1, x_NCHW.shape[1])


def as_map(x_RC: Tensor, like_NCHW: Tensor) -> Tensor:
    """The channels-last map of rows, with the crops and cells of another map."""
    crops, _, height, width = like_NCHW.shape
    return x_RC.view(crops, height, width, x_RC.shape[1]).permute(0, 3, 1, 2)


def pointwise(x_NCHW: Tensor, weight_OC11: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """A 1x1 convolution as a matrix product; cuDNN would plan it again for each number of crops."""
    return as_map(linear(rows(x_NCHW), weight_OC11.flatten(1), bias_O), x_NCHW)


def convolve(x_NCHW: Tensor, conv: Conv) -> Tensor:
    """The convolution of a map."""
    if conv.pointwise:
        return pointwise(x_NCHW, conv.weight)
    return conv2d(x_NCHW, conv.weight, None, conv.stride, conv.padding, groups=conv.groups)


def convolve_backward(grad_NOHW: Tensor, x_NCHW: Tensor, conv: Conv) -> tuple[Tensor, Tensor]:
    """Gradients of the map and of the weight."""
    if conv.pointwise:
        grad_RO = rows(grad_NOHW)
        grad_x_NCHW = as_map(grad_RO @ conv.weight.flatten(1), x_NCHW)
        return grad_x_NCHW, (grad_RO.T @ rows(x_NCHW)).view_as(conv.weight)
    geometry = [conv.stride] * 2, [conv.padding] * 2, [1, 1], False, [0, 0], conv.groups
    needs = [True, True, False]
    return torch.ops.aten.convolution_backward(grad_NOHW, x_NCHW, conv.weight, None, *geometry, needs)[:2]
