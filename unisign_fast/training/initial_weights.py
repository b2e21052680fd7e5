"""Initial weights: mT5 and EfficientNet-B0 from a folder or the hub, never silently random."""

from pathlib import Path
from typing import Any

import msgspec
import torch
from huggingface_hub.errors import HFValidationError, HTTPError
from torch import Tensor

from unisign_fast.checkpoints.hub import download_file, first_line
from unisign_fast.checkpoints.weight_files import load_strictly, read_weights
from unisign_fast.model.config import MT5Shape
from unisign_fast.model.efficientnet import EfficientNet
from unisign_fast.model.mt5 import LanguageModel
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.input_files import read_json
from unisign_fast.text.tokenizer import Tokenizer
from unisign_fast.text.vocabulary_trimming import HEAD, SHARED, TIED, trimmed_weights

IMAGENET_URL = "https://download.pytorch.org/models/efficientnet_b0_rwightman-7f5810bc.pth"
MT5_FILES = "config.json, pytorch_model.bin or model.safetensors, and spiece.model"
MODEL_PREFIX = "language_model.mt5."  # prefix of mT5's weights in a model folder
UNUSED = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)  # in old files of the T5 family


def pretrained_shape(source: str) -> MT5Shape:
    """The shape of a pretrained mT5, given as a folder or a hub id. Raises InputError if there is none."""
    path = _mt5_file(source, "config.json")
    try:
        values: Any = read_json(path, _remedy())  # if it is not a table, the next line raises TypeError
        return msgspec.convert({name: values[name] for name in MT5Shape.__dataclass_fields__}, MT5Shape)
    except InputError as error:
        problem = f"is not an mT5 configuration ({error.where}: {error.problem})"
        raise InputError(path, problem, _remedy()) from None
    except (msgspec.ValidationError, KeyError, TypeError) as error:
        raise InputError(path, f"is not an mT5 configuration ({error!r})", _remedy()) from None


def pretrained_tokenizer(source: str) -> Tokenizer:
    """The tokenizer of a pretrained mT5. Raises InputError if there is none."""
    return Tokenizer(_mt5_file(source, "spiece.model"))


def read_vocabulary(source: str, option: str) -> tuple[Tokenizer, Tensor, Tensor]:
    """Tokenizer, embedding [W, D] and output head [W, D] of a pretrained mT5 or of a model folder.

    Raises InputError, naming the command's `option`, if one of them is missing.
    """
    path = _mt5_file(source, "model.safetensors", "pytorch_model.bin", option=option)
    weights = {name.removeprefix(MODEL_PREFIX): weight for name, weight in read_weights(path).items()}
    for name in (SHARED, HEAD):
        if name not in weights:
            raise InputError(path, f"has no {name}", _remedy(option))
    tokenizer = Tokenizer(_mt5_file(source, "spiece.model", option=option))
    return tokenizer, weights[SHARED], weights[HEAD]


def load_pretrained_mt5(language_model: LanguageModel, source: str, rows: Tensor | None = None) -> None:
    """Copy the pretrained weights into `language_model`. Raises InputError unless every weight exists and fits.

    `rows`: the vocabulary rows of `language_model`, if it is trimmed. transformers is not used: it initialises missing
    weights randomly and only logs this. For an untied mT5 saved as safetensors, these are both stacks' embeddings.
    """
    path = _mt5_file(source, "model.safetensors", "pytorch_model.bin")
    weights = {name: weight for name, weight in read_weights(path).items() if name not in UNUSED}
    if SHARED in weights:
        weights |= dict.fromkeys(TIED, weights[SHARED])
    load_strictly(language_model.mt5, trimmed_weights(weights, rows), path)


def load_pretrained_efficientnet(backbone: EfficientNet, source: str) -> None:
    """Load ImageNet weights into `backbone`: torchvision's file from the web ("imagenet"), or the file `source`.

    Raises InputError if the file cannot be downloaded or read, or does not fit.
    """
    if source != "imagenet":
        load_imagenet_weights(backbone, Path(source))
        return
    name = IMAGENET_URL.rpartition("/")[2]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not cached.is_file():
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(IMAGENET_URL, str(cached), hash_prefix="7f5810bc", progress=False)
        except (OSError, RuntimeError) as error:
            remedy = f"download {IMAGENET_URL} to {cached}, or give its path with --efficientnet"
            raise InputError("--efficientnet imagenet", f"cannot be downloaded ({first_line(error)})", remedy) from None
    load_imagenet_weights(backbone, cached)


def load_imagenet_weights(backbone: EfficientNet, path: Path) -> None:
    """Load torchvision's `efficientnet_b0_rwightman-*.pth`, or the same as safetensors, without its classifier.

    Raises InputError if the file cannot be read or is not a B0 of this width and depth.
    """
    weights = {k: v for k, v in read_weights(path).items() if not k.startswith("classifier.")}
    if not any(key.startswith("features.") for key in weights):
        raise InputError(path, "holds no `features.*` entry", "name torchvision's efficientnet_b0 weights")
    load_strictly(backbone, {key.removeprefix("features."): value for key, value in weights.items()}, path)


def _remedy(option: str = "--mt5") -> str:
    return f"download {MT5_FILES} of google/mt5-base into a folder and give it with {option}"


def _mt5_file(source: str, *names: str, option: str = "--mt5") -> Path:
    """The first of these files that exists in the folder or on the hub."""
    if Path(source).is_dir():
        files = [Path(source, name) for name in names if Path(source, name).is_file()]
        if not files:
            raise InputError(f"{option} {source}", f"has no {' or '.join(names)}", _remedy(option))
        return files[0]
    for name in names:
        try:
            return download_file(source, name)
        except (OSError, HTTPError, HFValidationError) as error:
            reason = first_line(error)
    raise InputError(f"{option} {source}", f"is not a readable folder or hub id ({reason})", _remedy(option))
