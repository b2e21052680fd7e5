"""Table 12 of the paper: parameters of Uni-Sign's parts, counted on modules without allocating weights."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from unisign_fast.model.efficientnet import EfficientNet
from unisign_fast.model.unisign import UniSign
from unisign_fast.training.recipes import RECIPES

IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class ParameterRow:
    """A part of the model."""

    part: str
    paper: float | None  # millions, as Table 12 prints it; None if it has no figure
    parameters: int


def count(*modules: nn.Module) -> int:
    """Number of parameters of all modules together."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def parameter_table() -> list[ParameterRow]:
    """The rows of the base recipe's RGB-pose model."""
    with torch.device("meta"):
        model = UniSign(replace(RECIPES["base"].model, rgb=True))
        backbone = EfficientNet()
        classifier = nn.Linear(backbone.channels, IMAGENET_CLASSES)
    assert model.rgb and model.language_model and model.part_bias is not None, "the base recipe has every part"
    rgb = count(model.rgb)
    return [
        ParameterRow("EfficientNet-B0 with its classifier", 5.2, count(backbone, classifier)),
        ParameterRow("EfficientNet-B0 without it, as used", None, count(model.rgb.backbone)),
        ParameterRow("GCN: pose and temporal encoders", 4.5, count(model.pose_encoders, model.temporal_encoders)),
        ParameterRow("prior-guided fusion and its projection", None, rgb - count(model.rgb.backbone)),
        ParameterRow("projection to mT5, with the part bias", None, count(model.projection) + model.part_bias.numel()),
        ParameterRow("mT5-Base", 582.4, count(model.language_model)),
        ParameterRow("whole model, pose-only", None, count(model) - rgb),
        ParameterRow("whole model, RGB-pose", None, count(model)),
    ]
