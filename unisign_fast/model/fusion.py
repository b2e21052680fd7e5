"""Prior-guided fusion: fuses a hand crop's RGB features into that hand's pose features (paper, section 3.3, Figure 5b).

Shapes as in pipelines/batches/packed_batch.py; G groups of E channels, G * E = C. A crop's feature map has H x W cells.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import sdpa_kernel

from unisign_fast.kernels.deformable_attention.op import deformable_attention
from unisign_fast.kernels.deformable_offsets.op import deformable_offsets
from unisign_fast.kernels.position_bias.op import position_bias
from unisign_fast.model.attention import BACKENDS
from unisign_fast.model.batch_norm import Float32Buffers

Fusion = Literal["deformable", "cross"]
GateKind = Literal["live", "published"]
GateInput = Literal["pose,fused", "fused,pose"]

GROUPS = 8  # heads of the attentions, and groups of the deformable sampling
MOST_CELLS = 16  # cells of a map: EfficientNet-B0 on 112 x 112 pixels gives 4 x 4
OFFSET_RANGE = 4 / 6  # largest offset, in units of half a crop


def sinusoid_table(positions: int, channels: int) -> Tensor:
    """Fixed position encoding [positions, channels]: interleaved sine and cosine, base 10000 (Vaswani et al. 2017)."""
    angle = torch.arange(positions, dtype=torch.float64)[:, None] / 10000 ** (
        torch.arange(channels, dtype=torch.float64) // 2 * 2 / channels
    )
    table = torch.where(torch.arange(channels) % 2 == 0, angle.sin(), angle.cos())
    return table.float()


class MapAttention(nn.Module):
    """Multi-head attention of the joints over all cells of the map: [N, V, C] and [N, H W, C] -> [N, V, C].

    It precedes the local, deformable attention.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(channels, channels) for _ in range(4))
        bound = math.sqrt(6 / (4 * channels))  # torch's Xavier bound of the joint 3C x C matrix
        for layer in (self.query, self.key, self.value):
            nn.init.uniform_(layer.weight, -bound, bound)
        for layer in (self.query, self.key, self.value, self.out):
            nn.init.zeros_(layer.bias)

    @sdpa_kernel(BACKENDS)
    def forward(self, joints_NVC: Tensor, cells_NSC: Tensor) -> Tensor:
        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (GROUPS, -1)).transpose(1, 2)

        attended = nn.functional.scaled_dot_product_attention(
            heads(self.query(joints_NVC)), heads(self.key(cells_NSC)), heads(self.value(cells_NSC))
        )
        return self.out(attended.transpose(1, 2).flatten(2))


class PositionBias(nn.Module):
    """The bias network 2 -> H -> H -> 1 of kernels/position_bias, one for all groups."""

    weight0: nn.Parameter
    bias0: nn.Parameter
    weight1: nn.Parameter
    bias1: nn.Parameter
    weight2: nn.Parameter
    bias2: nn.Parameter

    def __init__(self, hidden: int):
        super().__init__()
        # Own parameters instead of nn.Linear: ZeRO-3 gathers what a module owns when its forward is called.
        for layer, (inputs, outputs) in enumerate([(2, hidden), (hidden, hidden), (hidden, 1)]):
            bound = inputs**-0.5
            self.register_parameter(
                f"weight{layer}", nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
            )
            self.register_parameter(f"bias{layer}", nn.Parameter(torch.empty(outputs).uniform_(-bound, bound)))

    def forward(self, reference_NV2: Tensor, position_NGV2: Tensor) -> Tensor:
        layers: list[tuple[Tensor, Tensor]] = [
            (self.weight0, self.bias0),
            (self.weight1, self.bias1),
            (self.weight2, self.bias2),
        ]
        return position_bias(reference_NV2, position_NGV2, layers)


class KeypointAttention(nn.Module):
    """Deformable attention with the keypoints as reference points: each joint samples the map around its keypoint.

    joints [N, V, C], map [N, C, H, W], reference points [N, V, 2] in [-1, 1] -> [N, V, C].
    """

    def __init__(self, channels: int):
        super().__init__()
        width, hidden = channels // GROUPS, channels // 4
        bound = width**-0.5
        self.query, self.key, self.value = (
            nn.Parameter(torch.empty(GROUPS, width, width).uniform_(-bound, bound)) for _ in range(3)
        )
        # The offset network is shared by the groups; its first layer is depthwise, one scale and shift per channel.
        self.offset_scale = nn.Parameter(torch.empty(width).uniform_(-1, 1))
        self.offset_shift = nn.Parameter(torch.empty(width).uniform_(-1, 1))
        self.offset_out = nn.Parameter(torch.empty(2, width).uniform_(-bound, bound))
        self.position_bias = PositionBias(hidden)
        self.out = nn.Linear(channels, channels)

    def forward(self, joints_NVC: Tensor, map_NCHW: Tensor, reference_NV2: Tensor) -> Tensor:
        network = self.offset_scale, self.offset_shift, self.offset_out
        query_NVC, position_NGV2 = deformable_offsets(joints_NVC, self.query, *network, reference_NV2, OFFSET_RANGE)
        bias_NGVV = self.position_bias(reference_NV2, position_NGV2)
        out_NVC = deformable_attention(query_NVC, map_NCHW, position_NGV2, self.key, self.value, bias_NGVV)
        return self.out(out_NVC)


class Gate(nn.Module):
    """How much of the fused feature replaces the pose feature: [N, V, 1] in [0, 1) (equation 3).

    Zero at the start, so that Stage 2 begins exactly where Stage 1 ended. `live`: only the last layer starts at zero,
    and the output is |tanh|, whose slope at zero is one, so it learns from the first step. A plain tanh can change sign
    while it is small, which reverses what the RGB branch has learned; on the demo corpus it never opens.
    `published`: all weights start at zero, and the tanh is followed by a ReLU, whose gradient at zero is zero. It never
    opens by itself, but published weights need it.
    """

    def __init__(self, channels: int, kind: GateKind, order: GateInput):
        super().__init__()
        self.kind, self.order = kind, order
        self.hidden = nn.Linear(2 * channels, channels)
        self.out = nn.Linear(channels, 1)
        for layer in (self.out,) if kind == "live" else (self.hidden, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, pose_NVC: Tensor, fused_NVC: Tensor) -> Tensor:
        both = (pose_NVC, fused_NVC) if self.order == "pose,fused" else (fused_NVC, pose_NVC)
        logit = self.out(nn.functional.gelu(self.hidden(torch.cat(both, -1))))
        if self.kind == "published":
            return logit.tanh().relu()
        return torch.where(logit < 0, -logit, logit).tanh()


class PriorGuidedFusion(Float32Buffers):
    """From pose_NVC and the crop's map_NCHW, the gated mixture (1 - g) pose + g fused (equations 3 and 4).

    `fusion="cross"` uses a second attention over the whole map instead of the deformable one (Table 10).
    """

    fourier: Tensor
    cell_encoding: Tensor

    def __init__(self, channels: int, fusion: Fusion, gate: GateKind, gate_input: GateInput):
        super().__init__()
        self.map_attention = MapAttention(channels)
        self.local = KeypointAttention(channels) if fusion == "deformable" else MapAttention(channels)
        self.deformable = fusion == "deformable"
        self.gate = Gate(channels, gate, gate_input)
        self.register_buffer("fourier", torch.randn(2, channels // 2))
        self.register_buffer("cell_encoding", sinusoid_table(MOST_CELLS, channels), persistent=False)

    def forward(self, pose_NVC: Tensor, map_NCHW: Tensor, points_NV2: Tensor) -> Tensor:
        """Fused features [N, V, C]. points_NV2: the joints' positions in the crop, x and y in [0, 1]."""
        reference_NV2 = (2 * points_NV2 - 1).to(pose_NVC.dtype)
        fused_NVC = self.fuse(pose_NVC, map_NCHW, reference_NV2)
        gate_NV1 = self.gate(pose_NVC, fused_NVC)
        return gate_NV1 * fused_NVC + (1 - gate_NV1) * pose_NVC

    def fuse(self, pose_NVC: Tensor, map_NCHW: Tensor, reference_NV2: Tensor) -> Tensor:
        """The fused feature before the gate: attention over the whole map, then around each keypoint."""
        phase = 2 * math.pi * (reference_NV2.float() @ self.fourier)
        encoding_NVC = torch.cat([phase.sin(), phase.cos()], -1).to(pose_NVC.dtype)
        cells_NSC = map_NCHW.flatten(2).transpose(1, 2)
        cells_NSC = cells_NSC + self.cell_encoding[: cells_NSC.shape[1]].to(map_NCHW.dtype)
        joints_NVC = pose_NVC + self.map_attention(pose_NVC + encoding_NVC, cells_NSC)
        if self.deformable:
            return self.local(joints_NVC, map_NCHW, reference_NV2)
        return self.local(joints_NVC + encoding_NVC, cells_NSC)
