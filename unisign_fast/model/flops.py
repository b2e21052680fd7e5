"""The useful FLOPs of a training step: what the model requires, however it is computed.

Counts matrix products and convolutions only, two FLOPs per multiply-add: no padding, no recomputation, logits of real
target tokens only, and each sampled hand once.
"""

from collections.abc import Sequence
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from unisign_fast.kernels.dispatch import forcing
from unisign_fast.model.config import ModelConfig
from unisign_fast.model.efficientnet import EfficientNet
from unisign_fast.model.fusion import PriorGuidedFusion
from unisign_fast.model.st_gcn import TEMPORAL_BLOCKS, TEMPORAL_KERNEL

HOPS = 2
TRAINING = 3  # times the forward pass: backward does its work again for the inputs' gradients and for the weights'


def forward_flops(
    config: ModelConfig, frames: Sequence[int], prompts: Sequence[int], tokens: Sequence[int], crops: int, side: int
) -> dict[str, int]:
    """FLOPs of a forward pass over some clips, by phase.

    frames, prompts, tokens: each clip's frames, prompt tokens and target tokens (with the end token). crops: the number
    of hand crops of all clips, each of `side` x `side` pixels.
    """
    mt5, total = config.mt5, sum(frames)
    width, inner = mt5.d_model, mt5.num_heads * mt5.d_kv
    feed_forward = 3 * width * mt5.d_ff  # two projections into the gate, one out
    positions = [f + p for f, p in zip(frames, prompts)]
    encoder = sum(positions) * (4 * width * inner + feed_forward) + sum(2 * s * s * inner for s in positions)
    decoder = sum(tokens) * (6 * width * inner + feed_forward)  # self-attention has four products, cross-attention two
    decoder += sum(2 * t * (t + 1) // 2 * inner + 2 * t * s * inner for t, s in zip(tokens, positions))
    across = sum(positions) * 2 * width * inner
    features = config.pose_channels[-1] * len(config.part_names)
    counted = {
        "pose encoder": total * _pose_encoder(config),
        "temporal encoder": total * (_temporal_encoder(config) + features * width),
        "mT5 encoder": mt5.num_layers * encoder,
        "mT5 decoder": mt5.num_decoder_layers * decoder,
        "cross keys and values": mt5.num_decoder_layers * across,
        "vocabulary loss": sum(tokens) * width * mt5.vocab_size,
    }
    if config.head != "language_model":  # a task head's own products are few, and not counted
        for phase in ("mT5 decoder", "cross keys and values", "vocabulary loss"):
            del counted[phase]
        if config.head_features == "sign":
            del counted["mT5 encoder"]
    work = {phase: 2 * products for phase, products in counted.items()}
    if config.rgb:
        rgb_encoder, fusion = _crop_flops(config, side)
        work |= {"RGB encoder": crops * rgb_encoder, "fusion": crops * fusion}
    return work


def _graph_conv(inputs: int, outputs: int, joints: int) -> int:
    """Multiply-adds per frame: aggregation over the joints at the smaller width, and one linear map per hop."""
    return HOPS * joints * (joints * min(inputs, outputs) + inputs * outputs)


def _pose_encoder(config: ModelConfig) -> int:
    """Multiply-adds per frame, all parts."""
    channels, total = config.pose_channels, 0
    for joints in (len(config.joints.parts[part].joints) for part in config.part_names):
        total += joints * 3 * channels[0]
        for inputs, outputs in zip(channels, channels[1:]):
            shortcut = joints * inputs * outputs if inputs != outputs else 0
            total += _graph_conv(inputs, outputs, joints) + shortcut
    return total


def _temporal_encoder(config: ModelConfig) -> int:
    """Multiply-adds per frame, all parts."""
    channels = config.pose_channels[-1]
    joints = [len(config.joints.parts[part].joints) for part in config.part_names]
    return TEMPORAL_BLOCKS * sum(
        _graph_conv(channels, channels, v) + TEMPORAL_KERNEL * v * channels * channels for v in joints
    )


@cache
def _crop_flops(config: ModelConfig, side: int) -> tuple[int, int]:
    """FLOPs per crop of the RGB encoder, including the projection, and of the fusion, counted by PyTorch."""
    channels, joints = config.pose_channels[-1], config.joints.hand_size
    with torch.device("meta"):
        backbone = EfficientNet(config.backbone_width, config.backbone_depth)
        projection = torch.nn.Conv2d(backbone.channels, channels, 1)
        fusion = PriorGuidedFusion(channels, config.fusion, config.gate, config.gate_input)
        crop, pose, points = torch.empty(1, 3, side, side), torch.empty(1, joints, channels), torch.empty(1, joints, 2)
    backbone.eval()
    with forcing("reference"), FlopCounterMode(display=False) as encoder_flops:
        map_NCHW = projection(backbone(crop, [1]))
    with forcing("reference"), FlopCounterMode(display=False) as fusion_flops:
        fusion(pose, map_NCHW, points)
    return encoder_flops.get_total_flops(), fusion_flops.get_total_flops()
