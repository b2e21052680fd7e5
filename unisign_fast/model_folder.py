"""A model on disk: a folder that needs nothing else.

FOLDER/config.json        unisign_fast.config.ModelConfig
FOLDER/model.safetensors  weights, float32
FOLDER/spiece.model       the tokenizer
"""

from pathlib import Path

from torch import Tensor

from pipelines.errors import InputError
from unisign_fast.config import ModelConfig
from unisign_fast.model import UniSign
from unisign_fast.text_codec import TextCodec
from unisign_fast.weight_files import load_strictly, read_weights, save_weights

# The same tensor as language_model.mt5.shared.weight, which alone is stored.
TIED = tuple(f"language_model.mt5.{stack}.embed_tokens.weight" for stack in ("encoder", "decoder"))
SHARED = "language_model.mt5.shared.weight"
# What a later stage may add to, or leave of, the model it starts from.
ADDED = ("rgb.", "head.")
LEFT_BEHIND = ("language_model.", "head.")


def save_model(folder: Path, config: ModelConfig, weights: dict[str, Tensor], codec: TextCodec) -> None:
    """Write a model folder; an existing one is overwritten, its weights last and in one move."""
    folder.mkdir(parents=True, exist_ok=True)
    config.save(folder / "config.json")
    codec.save(folder)
    save_weights(folder / "model.safetensors", {name: w for name, w in weights.items() if name not in TIED})


def load_model(folder: Path) -> tuple[UniSign, TextCodec]:
    """Read a model folder. Raises InputError when a file is missing or a weight does not fit."""
    config = ModelConfig.load(folder / "config.json")
    model = UniSign(config)
    path = folder / "model.safetensors"
    load_strictly(model, _with_tied(read_weights(path), model), path)
    return model, TextCodec(folder)


def start_from(model: UniSign, folder: Path) -> None:
    """Load an earlier stage's weights into `model`; only the RGB branch or a task head may be new.

    Raises InputError naming every weight that is missing or of another shape.
    """
    path = folder / "model.safetensors"
    weights = _with_tied(read_weights(path), model)
    own = model.state_dict()
    weights = {n: w for n, w in weights.items() if n in own or not n.startswith(LEFT_BEHIND)}
    fresh = {
        n: w for n, w in own.items() if n.startswith(ADDED) and not any(k.startswith(n.split(".")[0]) for k in weights)
    }
    load_strictly(model, {**weights, **fresh}, path)


def require_model_folder(folder: Path, option: str, remedy: str) -> None:
    """Raises InputError unless `folder` looks like a model folder."""
    if not (folder / "config.json").is_file():
        raise InputError(option, f"{folder} holds no trained model", remedy)


def _with_tied(weights: dict[str, Tensor], model: UniSign) -> dict[str, Tensor]:
    if SHARED not in weights or model.language_model is None:
        return weights
    return weights | {name: weights[SHARED] for name in TIED}
