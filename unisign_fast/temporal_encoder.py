"""The temporal encoder of one body part: joint features to one feature a frame (paper, section 3.2, Table 11)."""

from torch import Tensor, nn

from kernels.activation.op import activation
from kernels.activation.reference import Activation
from unisign_fast.graph_block import GraphBlock

BLOCKS = 3
TAPS = 5  # Table 11's temporal kernel, in frames


class TemporalEncoder(nn.Module):
    """Three graph blocks with convolution over time, then the mean over the joints: [F, V, C] -> [F, C]."""

    def __init__(self, adjacency_KVV: Tensor, channels: int):
        super().__init__()
        self.blocks = nn.ModuleList(GraphBlock(channels, channels, adjacency_KVV, TAPS) for _ in range(BLOCKS))

    def forward(self, x_FVC: Tensor, offsets: Tensor) -> Tensor:
        x = Activation(x_FVC)
        for block in self.blocks:
            x = block(x, offsets)
        return activation(x).mean(1)
