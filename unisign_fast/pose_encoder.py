"""The pose encoder: keypoints of a body part to features of joints, frame by frame (paper, section 3.2, Table 11)."""

from torch import Tensor, nn

from kernels.activation.op import activation
from kernels.activation.reference import Activation
from unisign_fast.graph_block import GraphBlock


class PoseEncoder(nn.Module):
    """Linear embedding of (x, y, confidence), then three spatial graph blocks: [F, V, 3] -> [F, V, C].

    `channels`: embedding, then the output of each block; the paper's are 64, then 64, 128, 256. `parts`: how many body
    parts share the encoder; each has BatchNorm statistics of its own.
    """

    def __init__(self, adjacency_KVV: Tensor, channels: tuple[int, ...], parts: int = 1):
        super().__init__()
        self.embedding = nn.Linear(3, channels[0])
        sizes = zip(channels, channels[1:])
        self.blocks = nn.ModuleList(GraphBlock(i, o, adjacency_KVV, parts=parts) for i, o in sizes)
        nn.init.trunc_normal_(self.embedding.weight, std=0.02)
        nn.init.zeros_(self.embedding.bias)

    def forward(self, pose_FV3: Tensor, offsets: Tensor, part: int = 0) -> Tensor:
        x = Activation(self.embedding(pose_FV3))
        for block in self.blocks:
            x = block(x, offsets, part)
        return activation(x)
