"""The ST-GCN of the pose and temporal encoders (paper, section 3.2 and Table 11; Yan et al. 2018).

A block is a graph convolution over the joints, a convolution over time, and a residual. The pose encoder is three
spatial blocks; the temporal encoder three spatio-temporal ones.
"""

import torch
from torch import Tensor, nn

from unisign_fast.kernels.deferred_activation.op import deferred_activation
from unisign_fast.kernels.deferred_activation.reference import ConvOutput, DeferredActivation
from unisign_fast.kernels.graph_conv.op import graph_conv
from unisign_fast.kernels.graph_conv.reference import GraphConvOutput
from unisign_fast.kernels.temporal_conv.op import temporal_conv
from unisign_fast.kernels.temporal_conv.reference import Clips
from unisign_fast.model.batch_norm import BatchNorm

TEMPORAL_BLOCKS = 3
TEMPORAL_KERNEL = 5  # Table 11's temporal kernel, in frames


def _torch_default_(weight: Tensor, bias: Tensor, fan_in: int) -> None:
    """Initialise as torch does a convolution with this fan-in; the parameters here have another shape."""
    bound = fan_in**-0.5
    nn.init.uniform_(weight, -bound, bound)
    nn.init.uniform_(bias, -bound, bound)


class GraphConv(nn.Module):
    """Convolution over the joints with one learned adjacency per hop, and the shortcut's 1x1 convolution if the number
    of channels changes; see kernels/graph_conv. In training it also returns the outputs' batch statistics.
    """

    def __init__(self, in_channels: int, out_channels: int, adjacency_KVV: Tensor):
        super().__init__()
        hops = adjacency_KVV.shape[0]
        self.adjacency = nn.Parameter(adjacency_KVV.clone())
        self.weight = nn.Parameter(torch.empty(hops, out_channels, in_channels))
        self.bias = nn.Parameter(torch.empty(hops, out_channels))
        _torch_default_(self.weight, self.bias, in_channels)
        self.has_shortcut = in_channels != out_channels
        if self.has_shortcut:
            self.shortcut_weight = nn.Parameter(torch.empty(out_channels, in_channels))
            self.shortcut_bias = nn.Parameter(torch.empty(out_channels))
            _torch_default_(self.shortcut_weight, self.shortcut_bias, in_channels)

    def forward(self, x: DeferredActivation) -> GraphConvOutput:
        shortcut = (self.shortcut_weight, self.shortcut_bias) if self.has_shortcut else None
        return graph_conv(x, self.adjacency, self.weight, self.bias, shortcut, self.training)


class TemporalConv(nn.Module):
    """Convolution over time within each clip; see kernels/temporal_conv. In training it also returns the output's batch
    statistics."""

    def __init__(self, channels: int, kernel_size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(kernel_size, channels, channels))
        self.bias = nn.Parameter(torch.empty(channels))
        _torch_default_(self.weight, self.bias, channels * kernel_size)

    def forward(self, x: DeferredActivation, clips: Clips) -> ConvOutput:
        return temporal_conv(x, clips, self.weight, self.bias, self.training)


class GraphBlock(nn.Module):
    """The published code's ST-GCN layer (section 3.2, Table 11): relu(time(relu(BN(graph(x)))) + shortcut(x)).

    `time` is a convolution with BatchNorm, or the identity if `kernel_size` is 0; the shortcut is the identity, or a
    1x1 convolution with BatchNorm if the number of channels changes. x_FVC -> y_FVO, both as deferred activations: the
    convolution after the block computes them on load. `parts` body parts share it, each with its own statistics.
    """

    def __init__(
        self, in_channels: int, out_channels: int, adjacency_KVV: Tensor, kernel_size: int = 0, parts: int = 1
    ):
        super().__init__()
        self.graph = GraphConv(in_channels, out_channels, adjacency_KVV)
        self.graph_norm = BatchNorm(out_channels, parts)
        self.shortcut_norm = BatchNorm(out_channels, parts) if self.graph.has_shortcut else None
        self.time = TemporalConv(out_channels, kernel_size) if kernel_size else None
        self.time_norm = BatchNorm(out_channels, parts) if kernel_size else None

    def forward(self, x: DeferredActivation, clips: Clips | None, part: int = 0) -> DeferredActivation:
        x_FVC, out, shortcut = self.graph(x)
        scale_C, shift_C = self.graph_norm(out, part)
        y = DeferredActivation(out.conv_out_FVO, scale_C, shift_C, relu_before_residual=self.time is None)
        if self.time is not None and self.time_norm is not None:
            out = self.time(y, clips)
            scale_C, shift_C = self.time_norm(out, part)
            y = DeferredActivation(out.conv_out_FVO, scale_C, shift_C)
        if self.shortcut_norm is None:
            return y._replace(residual_FVC=x_FVC)
        scale_C, shift_C = self.shortcut_norm(shortcut, part)
        return y._replace(residual_FVC=shortcut.conv_out_FVO, residual_scale_C=scale_C, residual_shift_C=shift_C)


class PoseEncoder(nn.Module):
    """Linear embedding of (x, y, confidence), then three spatial graph blocks: [F, V, 3] -> [F, V, C].

    `channels`: of the embedding, then of each block's output; in the paper 64, then 64, 128, 256. `parts`: how many
    body parts share the encoder; each has its own BatchNorm statistics.
    """

    def __init__(self, adjacency_KVV: Tensor, channels: tuple[int, ...], parts: int = 1):
        super().__init__()
        self.embedding = nn.Linear(3, channels[0])
        sizes = zip(channels, channels[1:])
        self.blocks = nn.ModuleList(GraphBlock(i, o, adjacency_KVV, parts=parts) for i, o in sizes)
        nn.init.trunc_normal_(self.embedding.weight, std=0.02)
        nn.init.zeros_(self.embedding.bias)

    def forward(self, pose_FV3: Tensor, part: int = 0) -> Tensor:
        x = DeferredActivation(self.embedding(pose_FV3))
        for block in self.blocks:
            x = block(x, None, part)
        return deferred_activation(x)


class TemporalEncoder(nn.Module):
    """Three graph blocks with convolution over time, then the mean over the joints: [F, V, C] -> [F, C].

    `parts`: how many body parts share the encoder; each has its own BatchNorm statistics.
    """

    def __init__(self, adjacency_KVV: Tensor, channels: int, parts: int = 1):
        super().__init__()
        blocks = (GraphBlock(channels, channels, adjacency_KVV, TEMPORAL_KERNEL, parts) for _ in range(TEMPORAL_BLOCKS))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x_FVC: Tensor, clips: Clips, part: int = 0) -> Tensor:
        x = DeferredActivation(x_FVC)
        for block in self.blocks:
            x = block(x, clips, part)
        return deferred_activation(x, True)
