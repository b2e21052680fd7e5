"""The block that pose and temporal encoders are stacks of: graph convolution, convolution over time, residual."""

import torch
from torch import Tensor, nn

from kernels.graph_conv.op import graph_conv
from kernels.temporal_conv.op import temporal_conv
from unisign_fast.batch_norm import BatchNorm


def _torch_default_(weight: Tensor, bias: Tensor, fan_in: int) -> None:
    """torch's initial values of a convolution with this fan-in, for parameters stored in another shape."""
    bound = fan_in**-0.5
    nn.init.uniform_(weight, -bound, bound)
    nn.init.uniform_(bias, -bound, bound)


class GraphConv(nn.Module):
    """Convolution over the joints with one learned adjacency a hop; see kernels/graph_conv."""

    def __init__(self, in_channels: int, out_channels: int, adjacency_KVV: Tensor):
        super().__init__()
        hops = adjacency_KVV.shape[0]
        self.adjacency = nn.Parameter(adjacency_KVV.clone())
        self.weight = nn.Parameter(torch.empty(hops, out_channels, in_channels))
        self.bias = nn.Parameter(torch.empty(hops, out_channels))
        _torch_default_(self.weight, self.bias, in_channels)

    def forward(self, x_FVC: Tensor) -> Tensor:
        return graph_conv(x_FVC, self.adjacency, self.weight, self.bias)


class TemporalConv(nn.Module):
    """Convolution over time within each clip; see kernels/temporal_conv."""

    def __init__(self, channels: int, taps: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(taps, channels, channels))
        self.bias = nn.Parameter(torch.empty(channels))
        _torch_default_(self.weight, self.bias, channels * taps)

    def forward(self, x_FVC: Tensor, offsets: Tensor) -> Tensor:
        return temporal_conv(x_FVC, offsets, self.weight, self.bias)


class ProjectedResidual(nn.Module):
    """The residual path where the number of channels changes: 1x1 convolution and BatchNorm."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels))
        _torch_default_(self.weight, self.bias, in_channels)
        self.batch_norm = BatchNorm(out_channels)

    def forward(self, x_FVC: Tensor) -> Tensor:
        return self.batch_norm(nn.functional.linear(x_FVC, self.weight, self.bias))


class GraphBlock(nn.Module):
    """relu(time(relu(BN(graph(x)))) + residual(x)); time is a convolution with BatchNorm, or nothing (`taps` 0).

    x_FVC -> y_FVO. The published code's ST-GCN layer (paper, section 3.2 and Table 11).
    """

    def __init__(self, in_channels: int, out_channels: int, adjacency_KVV: Tensor, taps: int = 0):
        super().__init__()
        self.graph = GraphConv(in_channels, out_channels, adjacency_KVV)
        self.graph_norm = BatchNorm(out_channels)
        self.time = TemporalConv(out_channels, taps) if taps else None
        self.time_norm = BatchNorm(out_channels) if taps else None
        self.residual = nn.Identity() if in_channels == out_channels else ProjectedResidual(in_channels, out_channels)

    def forward(self, x_FVC: Tensor, offsets: Tensor) -> Tensor:
        y_FVO = self.graph_norm(self.graph(x_FVC)).relu()
        if self.time is not None:
            y_FVO = self.time_norm(self.time(y_FVO, offsets))
        return (y_FVO + self.residual(x_FVC)).relu()
