"""EfficientNet-B0's feature maps for hand crops, with torchvision's key names and order of random draws.

So released Uni-Sign checkpoints and ImageNet weights load unchanged, without torchvision.
Source: Tan and Le 2019, "EfficientNet", Table 1; stochastic depth: Huang et al. 2016.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

from torch import Tensor, nn

from unisign_fast.kernels.bn_silu.convolution import Conv, convolve
from unisign_fast.kernels.bn_silu.reference import Excitation, Parts
from unisign_fast.kernels.mbconv.op import mbconv
from unisign_fast.kernels.mbconv.reference import Block, Layer
from unisign_fast.model.batch_norm import BatchNorm2d

# expansion, kernel, stride, channels, layers of each stage; the stem has 32 channels
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
STEM_CHANNELS = 32
STOCHASTIC_DEPTH = 0.2  # torchvision's, reached linearly by the last block; the published code trains with it

BatchNormFactory = Callable[..., nn.Module]  # builds a norm from a number of channels and `parts`


def scaled_channels(channels: float) -> int:
    """The nearest multiple of 8, at least 8 and never less than 90 % of the requested width."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class ConvNorm(nn.ModuleList):
    """Convolution without bias, to ceil(side / stride) pixels, then BatchNorm, then SiLU if `activate`."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, groups: int, batch_norm: BatchNormFactory,
        activate: bool = True,
    ):  # fmt: skip
        conv = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
        super().__init__([conv, batch_norm(outputs)])
        self.activate = activate

    def forward(self, x_NCHW: Tensor, parts: Parts | Sequence[int]) -> Tensor:
        return self[1](convolve(x_NCHW, self.conv), parts, self.activate)

    @property
    def conv(self) -> Conv:
        """The convolution in the form that kernels take."""
        conv = self[0]
        assert isinstance(conv, nn.Conv2d)
        return Conv(conv.weight, conv.stride[0], conv.groups)

    @property
    def layer(self) -> Layer:
        """Convolution and BatchNorm in the form that kernels take."""
        batch_norm = self[1]
        assert isinstance(batch_norm, BatchNorm2d)
        return Layer(self.conv, batch_norm.norm)


class SqueezeExcitation(nn.Module):
    """The two layers of squeeze and excitation; `mbconv` applies them."""

    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    @property
    def layer(self) -> Excitation:
        """Both layers in the form that kernels take."""
        squeeze, excite = self.fc1, self.fc2
        assert squeeze.bias is not None and excite.bias is not None
        return Excitation(squeeze.weight.flatten(1), squeeze.bias, excite.weight.flatten(1), excite.bias)


class StochasticDepth(nn.Module):
    """In training, drops a residual branch for some crops (with probability `p`) and scales up the others."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x_NCHW
        kept_N111 = x_NCHW.new_empty(x_NCHW.shape[0], 1, 1, 1).bernoulli_(1 - self.p)
        return x_NCHW * kept_N111.div_(1 - self.p)


class MBConv(nn.Module):
    """Inverted bottleneck: expand, depthwise convolution, squeeze and excitation, project, residual."""

    def __init__(
        self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int, drop: float,
        batch_norm: BatchNormFactory,
    ):  # fmt: skip
        super().__init__()
        wide = scaled_channels(inputs * expansion)
        layers: list[nn.Module] = []
        if wide != inputs:
            layers.append(ConvNorm(inputs, wide, 1, 1, 1, batch_norm))
        layers.append(ConvNorm(wide, wide, kernel, stride, wide, batch_norm))
        layers.append(SqueezeExcitation(wide, max(1, inputs // 4)))
        layers.append(ConvNorm(wide, outputs, 1, 1, 1, batch_norm, activate=False))
        self.block = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs
        self.stochastic_depth = StochasticDepth(drop)

    def forward(self, x_NCHW: Tensor, parts: Parts | Sequence[int]) -> Tensor:
        y_NCHW = self.branch(x_NCHW, parts)
        return self.stochastic_depth(y_NCHW) + x_NCHW if self.residual else y_NCHW

    def branch(self, x_NCHW: Tensor, parts: Parts | Sequence[int]) -> Tensor:
        """Everything except the residual; only the convolutions' outputs are saved for the backward pass."""
        *first, excitation, projection = self.block
        assert isinstance(excitation, SqueezeExcitation) and isinstance(projection, ConvNorm)
        layers = [convolution.layer for convolution in cast(list[ConvNorm], first)]
        block = Block(layers[0] if len(layers) > 1 else None, layers[-1], excitation.layer, projection.layer)
        return mbconv(x_NCHW, Parts.of(parts, x_NCHW), block, self.training)


class EfficientNet(nn.ModuleList):
    """x [N, 3, S, S] (normalised as for ImageNet) -> [N, `channels`, ceil(S/32), ceil(S/32)]; N may be 0.

    `parts` may share it, each with its own BatchNorm statistics; x then holds `per_part` crops of each part, one part
    after the other, followed by padding, whose output is meaningless.

    State names are those of torchvision's `efficientnet_b0().features`: 358 of them at width and depth 1, and
    4,007,548 parameters. `width` multiplies channels, `depth` the layers of a stage, rounded up.
    """

    def __init__(
        self,
        width: float = 1.0,
        depth: float = 1.0,
        parts: int = 1,
        batch_norm: BatchNormFactory = BatchNorm2d,
        bottleneck: type[MBConv] = MBConv,
    ):
        batch_norm = partial(batch_norm, parts=parts)
        stem = inputs = scaled_channels(STEM_CHANNELS * width)
        stages, layers = [], [max(1, math.ceil(stage[-1] * depth)) for stage in STAGES]
        built = 0
        for (expansion, kernel, stride, channels, _), count in zip(STAGES, layers):
            outputs, blocks = scaled_channels(channels * width), []
            for first in (True, *[False] * (count - 1)):
                drop = STOCHASTIC_DEPTH * built / sum(layers)
                blocks.append(bottleneck(inputs, outputs, expansion, kernel, stride if first else 1, drop, batch_norm))
                inputs, built = outputs, built + 1
            stages.append(nn.Sequential(*blocks))
        head = ConvNorm(inputs, 4 * inputs, 1, 1, 1, batch_norm)
        super().__init__([ConvNorm(3, stem, 3, 2, 1, batch_norm), *stages, head])
        self.channels = 4 * inputs
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x_NCHW: Tensor, per_part: Sequence[int]) -> Tensor:
        stem, *stages, head = self
        parts = Parts.of(per_part, x_NCHW)
        y_NCHW = stem(x_NCHW, parts)
        for stage in stages:
            for block in cast(nn.Sequential, stage):
                y_NCHW = block(y_NCHW, parts)
        return head(y_NCHW, parts)
