"""The authors' checkpoints to our model and back."""

import re
from pathlib import Path

import torch
from torch import Tensor

from unisign_fast.checkpoints.weight_files import check_fit, read_weights
from unisign_fast.model.config import ModelConfig, MT5Shape, published_settings
from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.skeleton import WHOLEBODY
from unisign_fast.published.layout import UNUSED, check_copies, publish, unpublish

POSE_FORM = {
    "skeleton": WHOLEBODY.name,
    "parts": "hands,body,face",
    "body_anchors": True,
    "part_bias": True,
    "head": "language_model",
}
RGB_FORM = {
    "fusion": "deformable",
    "gate": "published",
    "gate_input": "fused,pose",
    "backbone_width": 1.0,
    "backbone_depth": 1.0,
}


def load_published(path: Path) -> UniSign:
    """A model with the weights of a released file (.pth with the key `model`), in float32 and the published settings.

    Sizes are read off the file, and whether it is an RGB-pose model. Raises InputError when the file cannot be read,
    naming every entry that is missing, unknown or of another shape.
    """
    return model_from_published(read_weights(path), path)


def to_published(model: UniSign) -> dict[str, Tensor]:
    """The model's state as the published implementation loads it, from a file under the key `model`; memory is shared.

    Raises InputError when the published implementation has no such model.
    """
    for name, published in (POSE_FORM | RGB_FORM if model.config.rgb else POSE_FORM).items():
        ours = getattr(model.config, name)
        if ours != published:
            raise InputError(f"model: {name}", f"{ours!r} has no published form", f"train with {published!r} to export")
    result = publish(model.state_dict())
    if model.config.rgb:
        width = model.config.pose_channels[-1]
        result |= {f"{UNUSED}.weight": torch.zeros(width, width), f"{UNUSED}.bias": torch.zeros(width)}
    return result


def import_weights(weights: dict[str, Tensor], where: object) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Configuration and state, by our names, of a published table; each tensor keeps its type, and nothing is lost.

    The layer that the published code never uses stays under its own name, for `export_weights`. Raises InputError as
    `load_published` does.
    """
    with torch.device("meta"):
        model = UniSign(published_config(weights, where, MT5Shape.dropout_rate))
        check_fit(weights, to_published(model), where)
    check_copies(weights, where)
    unused = {name: tensor for name, tensor in weights.items() if is_unused(name)}
    return model.config, unpublish(weights, model.state_dict()) | unused


def export_weights(config: ModelConfig, own: dict[str, Tensor], where: object) -> dict[str, Tensor]:
    """The inverse of `import_weights`, of any trained model's state; the unused layer is zero where there is none.

    Raises InputError naming every entry that does not fit, or what the published implementation does not have.
    """
    with torch.device("meta"):
        model = UniSign(config)
        table = to_published(model)
    unused = {name: tensor for name, tensor in own.items() if is_unused(name)}
    own = {name: tensor for name, tensor in own.items() if name not in unused}
    check_fit(own, model.state_dict(), where)
    own = {name: own[name] for name in model.state_dict()}  # what is published as one is joined in this order
    kind = own["projection.weight"].dtype
    zeros = {n: torch.zeros(t.shape, dtype=kind) for n, t in table.items() if is_unused(n)}
    published = publish(own) | zeros | unused
    check_fit(published, table, where)
    return published


def is_unused(name: str) -> bool:
    """Whether a published entry belongs to the layer that the published code never uses."""
    return name.startswith(f"{UNUSED}.")


def model_from_published(
    weights: dict[str, Tensor], where: object, dropout_rate: float = MT5Shape.dropout_rate
) -> UniSign:
    """The model that a table of published names and tensors describes; `where` names the table in errors."""
    model = UniSign(published_config(weights, where, dropout_rate))
    check_fit(weights, to_published(model), where)
    check_copies(weights, where)
    model.load_state_dict(unpublish(weights, model.state_dict()))
    return model


def published_config(weights: dict[str, Tensor], where: object, dropout_rate: float) -> ModelConfig:
    """Sizes from the shapes of a published table. What it does not say is as published."""

    def size(name: str, axis: int = 0) -> int:
        if name not in weights or weights[name].dim() <= axis:
            raise InputError(where, f"no entry {name} of use", "give a checkpoint of the published Uni-Sign")
        return weights[name].shape[axis]

    def layers(stack: str) -> int:
        outcome = (re.match(rf"mt5_model\.{stack}\.block\.(\d+)\.", name) for name in weights)
        return len({block[1] for block in outcome if block})

    attention = "mt5_model.encoder.block.0.layer.0.SelfAttention."
    heads = size(attention + "relative_attention_bias.weight", 1)
    mt5 = MT5Shape(
        vocab_size=size("mt5_model.shared.weight"),
        d_model=size("mt5_model.shared.weight", 1),
        d_kv=size(attention + "q.weight") // max(1, heads),
        d_ff=size("mt5_model.encoder.block.0.layer.1.DenseReluDense.wi_0.weight"),
        num_layers=layers("encoder"),
        num_decoder_layers=layers("decoder"),
        num_heads=heads,
        dropout_rate=dropout_rate,
    )
    first, second, third = (size(f"gcn_modules.body.layer{level}_0.gcn.bn.weight") for level in range(3))
    channels = size("proj_linear.body.weight"), first, second, third
    return published_settings(ModelConfig(mt5=mt5, rgb="rgb_proj.weight" in weights, pose_channels=channels))
