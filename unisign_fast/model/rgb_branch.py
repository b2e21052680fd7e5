"""Encodes sampled hand crops as feature maps, and fuses them with the pose features of their frames."""

import torch
from torch import Tensor, nn

from unisign_fast.kernels.bn_silu.convolution import pointwise
from unisign_fast.kernels.bn_silu.op import bucketed_crops
from unisign_fast.model.batch_norm import Float32Buffers
from unisign_fast.model.config import ModelConfig
from unisign_fast.model.efficientnet import EfficientNet
from unisign_fast.model.fusion import PriorGuidedFusion
from unisign_fast.pipelines.batches.packed_batch import PackedBatch
from unisign_fast.pipelines.skeleton import HANDS

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pixels in [0, 1]


class RGBBranch(Float32Buffers):
    """EfficientNet-B0, a projection of its map to the width of the pose features, and prior-guided fusion (paper,
    section 3.3)."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        channels = config.pose_channels[-1]
        self.backbone = EfficientNet(config.backbone_width, config.backbone_depth, len(HANDS))
        self.projection = nn.Conv2d(self.backbone.channels, channels, 1)
        self.fusion = PriorGuidedFusion(channels, config.fusion, config.gate, config.gate_input)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, poses_FVC: list[Tensor], batch: PackedBatch) -> list[Tensor]:
        """The pose features [F, V, C] of the left and the right hand, with those of sampled frames fused."""
        maps_NCHW = self.maps(batch.crops, batch.crops_per_hand)
        frames = batch.crop_frame.split(batch.crops_per_hand)
        sampled_NVC = torch.cat([pose_FVC[frame_N] for pose_FVC, frame_N in zip(poses_FVC, frames)])
        fused = self.fusion(sampled_NVC, maps_NCHW, batch.crop_points).split(batch.crops_per_hand)
        return [x.index_copy(0, frame_N, fused_NVC) for x, frame_N, fused_NVC in zip(poses_FVC, frames, fused)]

    def maps(self, crops_N3SS: Tensor, per_hand: tuple[int, int]) -> Tensor:
        """The projected feature map of each crop, [N, C, ceil(S/32), ceil(S/32)]."""
        crops = len(crops_N3SS)
        padding = bucketed_crops(crops, crops_N3SS) - crops
        if padding:
            crops_N3SS = nn.functional.pad(crops_N3SS, (0, 0) * 3 + (0, padding))
        maps_NCHW = self.backbone(self.pixels(crops_N3SS), per_hand)[:crops]
        return pointwise(maps_NCHW, self.projection.weight, self.projection.bias)

    def pixels(self, crops_N3SS: Tensor) -> Tensor:
        """Convert bytes to the backbone's input, with the published arithmetic: one ulp here changes the map by 1e-5.

        The memory format is channels-last, here and throughout the backbone.
        """
        pixels = ((crops_N3SS.float() / 255 - self.mean) / self.std).to(self.projection.weight.dtype)
        return pixels.contiguous(memory_format=torch.channels_last)
