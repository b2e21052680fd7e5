"""The temporal encoder: joint features of a body part to one feature a frame (paper, section 3.2, Table 11)."""

from torch import Tensor, nn

from kernels.activation.op import activation
from kernels.activation.reference import Activation
from unisign_fast.graph_block import GraphBlock

BLOCKS = 3
TAPS = 5  # Table 11's temporal kernel, in frames


class TemporalEncoder(nn.Module):
    """Three graph blocks with convolution over time, then the mean over the joints: [F, V, C] -> [F, C].

    `parts`: how many body parts share the encoder; each has BatchNorm statistics of its own.
    """

    def __init__(self, adjacency_KVV: Tensor, channels: int, parts: int = 1):
        super().__init__()
        blocks = (GraphBlock(channels, channels, adjacency_KVV, TAPS, parts) for _ in range(BLOCKS))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x_FVC: Tensor, offsets: Tensor, part: int = 0) -> Tensor:
        x = Activation(x_FVC)
        for block in self.blocks:
            x = block(x, offsets, part)
        return activation(x).mean(1)
