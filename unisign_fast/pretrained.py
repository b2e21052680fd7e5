"""First weights: mT5 and EfficientNet-B0 from a folder or the hub, never silently random ones."""

from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import MT5Config, MT5ForConditionalGeneration

from pipelines.errors import InputError
from unisign_fast.config import MT5Shape
from unisign_fast.efficientnet import EfficientNet
from unisign_fast.language_model import LanguageModel
from unisign_fast.text_codec import TextCodec

IMAGENET_URL = "https://download.pytorch.org/models/efficientnet_b0_rwightman-7f5810bc.pth"
MT5_FILES = "config.json, pytorch_model.bin or model.safetensors, and spiece.model"


def pretrained_shape(source: str) -> MT5Shape:
    """The geometry of a pretrained mT5: a folder, or a name on the hub. Raises InputError where there is none."""
    try:
        config = MT5Config.from_pretrained(source)
    except OSError as error:
        raise _no_mt5(source, error) from None
    return MT5Shape(**{name: getattr(config, name) for name in MT5Shape.__dataclass_fields__})


def pretrained_codec(source: str) -> TextCodec:
    """The tokenizer of a pretrained mT5."""
    if Path(source).is_dir():
        return TextCodec(Path(source))
    try:
        return TextCodec(Path(hf_hub_download(source, "spiece.model")))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise _no_mt5(source, error) from None


def load_pretrained_mt5(language_model: LanguageModel, source: str) -> None:
    """Copy the pretrained weights into `language_model`, whose shape is theirs."""
    try:
        pretrained = MT5ForConditionalGeneration.from_pretrained(source, dtype=torch.float32, tie_word_embeddings=False)
    except OSError as error:
        raise _no_mt5(source, error) from None
    language_model.mt5.load_state_dict(pretrained.state_dict())


def load_pretrained_efficientnet(backbone: EfficientNet, source: str) -> None:
    """ImageNet weights into `backbone`: "imagenet" for torchvision's file from the web, or the path of that file."""
    if source != "imagenet":
        backbone.load_imagenet_weights(Path(source))
        return
    name = IMAGENET_URL.rpartition("/")[2]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not cached.is_file():
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(IMAGENET_URL, str(cached), hash_prefix="7f5810bc", progress=False)
        except (OSError, RuntimeError) as error:
            remedy = f"download {IMAGENET_URL} to {cached}, or give its path with --efficientnet"
            raise InputError("--efficientnet imagenet", f"cannot be had ({_first_line(error)})", remedy) from None
    backbone.load_imagenet_weights(cached)


def _no_mt5(source: str, error: Exception) -> InputError:
    remedy = f"download {MT5_FILES} of google/mt5-base into a folder and give it with --mt5"
    return InputError(f"--mt5 {source}", f"is no folder or hub name that can be read ({_first_line(error)})", remedy)


def _first_line(error: Exception) -> str:
    return (str(error).strip().split("\n") or [""])[0][:160]
