"""A model on disk: a self-contained folder that can be uploaded to the Hugging Face hub as it is.

FOLDER/config.json               unisign_fast.model.config.ModelConfig
FOLDER/model.safetensors         weights, float32
FOLDER/spiece.model              the tokenizer
FOLDER/preprocessor_config.json  unisign_fast.pipelines.settings.DataSettings: how clips are prepared for it
FOLDER/README.md                 the model card: data, recipe, scores
FOLDER/published_unused.safetensors  converted RGB-pose checkpoints only: a layer that only the authors' code has

It contains no pickle: loading runs no code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from huggingface_hub import ModelCard
from torch import Tensor, nn

from unisign_fast.checkpoints.hub import download_folder, upload_folder
from unisign_fast.checkpoints.model_card import model_card
from unisign_fast.checkpoints.run_folders import is_model, model_in
from unisign_fast.checkpoints.weight_files import check_fit, load_strictly, read_weights, save_weights
from unisign_fast.pipelines.atomic_io import replace_json, replace_text
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.input_files import read_settings, read_text
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.pipelines.targets import language_code
from unisign_fast.text.tokenizer import Tokenizer
from unisign_fast.text.vocabulary_trimming import trimmed_weights

if TYPE_CHECKING:  # models import this module, not the reverse
    from unisign_fast.model.config import ModelConfig

FILES = ("config.json", "model.safetensors", "spiece.model", "preprocessor_config.json", "README.md")
UNUSED_FILE = "published_unused.safetensors"
# The same tensor as language_model.mt5.shared.weight; only the latter is stored.
TIED = tuple(f"language_model.mt5.{stack}.embed_tokens.weight" for stack in ("encoder", "decoder"))
SHARED = "language_model.mt5.shared.weight"
# Parameters that a later stage may add to, or drop from, the model it starts from.
ADDED = ("rgb.", "head.")
DROPPED = ("language_model.", "head.")


@dataclass(frozen=True)
class Companions:
    """The files stored along with a model's weights."""

    tokenizer: Tokenizer
    data: DataSettings
    card: str  # text of the model card


class ModelFolderMixin(nn.Module):
    """Mixin for models that are loaded from, and saved as, a model folder. Its `config_class` reads config.json."""

    config_class: ClassVar[type["ModelConfig"]]
    config: "ModelConfig"
    companions: Companions | None = None

    def __init__(self, config: "ModelConfig"):
        super().__init__()
        self.config = config

    @classmethod
    def load(cls, folder: Path) -> tuple[Self, Tokenizer]:
        """The model of a folder, in training mode, and its tokenizer.

        Raises InputError when a file is missing or a weight does not fit.
        """
        config = cls.config_class.load(folder / "config.json")
        path = folder / "model.safetensors"
        weights = with_tied(read_weights(path))
        with torch.device("meta"):  # allocate the model only after its weights are checked
            check_fit(weights, cls(config).state_dict(), path)
        model = cls(config)
        load_strictly(model, weights, path)
        model.companions = Companions(Tokenizer(folder), load_data_settings(folder), read_card(folder))
        return model, model.companions.tokenizer

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Self:
        """The model of a folder, a run or a hub id, for evaluation; its `companions` hold the tokenizer and more.

        Weights are float32 on the CPU unless `dtype` and `device` say otherwise. Raises InputError when the model is
        unavailable, a file is missing or a weight does not fit.
        """
        model, _ = cls.load(find_model(source))
        return model.to(device=device, dtype=dtype).eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a model loaded by `from_pretrained` as a model folder. Raises InputError if it has no companions."""
        if self.companions is None:
            raise InputError("save_pretrained", "the model has no tokenizer", "set model.companions, or use save_model")
        companions = self.companions
        save_model(Path(folder), self.config, self.state_dict(), companions.tokenizer, companions.data, companions.card)

    def push_to_hub(self, repo_id: str, *, private: bool = False, message: str = "Upload a Uni-Sign model") -> str:
        """Upload the model folder that `save_pretrained` writes to a hub repository, created if needed; returns its
        address. The token comes from `hf auth login` or HF_TOKEN. Raises InputError if the hub refuses or cannot be
        reached.
        """
        with TemporaryDirectory(prefix="push-") as folder:
            self.save_pretrained(folder)
            return upload_folder(Path(folder), repo_id, private, message)


def find_model(source: str | Path) -> Path:
    """The folder of a model: `source` itself, the best (else last) model of a run, or the download of a hub id.

    HF_HUB_OFFLINE is respected. Raises InputError that names what to download and where to put it.
    """
    folder = Path(source)
    if folder.is_dir():
        return model_in(folder)
    remedy = f"name a folder, or put {', '.join(FILES[:4])} of {source} into one and name it"
    return download_folder(str(source), [*FILES, UNUSED_FILE], remedy)


def save_model(
    folder: Path,
    config: "ModelConfig",
    weights: dict[str, Tensor],
    tokenizer: Tokenizer,
    data: DataSettings = DataSettings(),
    card: str = "",
) -> None:
    """Write a model folder, or overwrite an existing one, the weights last and atomically.

    `data` describes how clips were prepared in training. Without `card`, a card without scores is written.
    """
    config.save(folder / "config.json")
    tokenizer.save(folder)
    replace_json(folder / "preprocessor_config.json", asdict(data))
    replace_text(folder / "README.md", card or model_card(config, data))
    save_weights(folder / "model.safetensors", {name: w for name, w in weights.items() if name not in TIED})


def write_card(
    folder: Path, config: "ModelConfig", recipe: Mapping, scores: Mapping | None, languages: Sequence[str] = ()
) -> None:
    """Replace the card of a model folder at the end of a run; arguments as for `model_card`."""
    card = model_card(config, load_data_settings(folder), recipe, scores, languages)
    replace_text(folder / "README.md", card)


def read_card(folder: Path) -> str:
    """The model card; "" if there is none."""
    card = folder / "README.md"
    return read_text(card, max_bytes=2**24) if card.is_file() else ""


def trained_languages(folder: Path) -> list[str]:
    """The training languages that the model card names; [] if it names none."""
    try:
        language = ModelCard(read_card(folder)).data.get("language")
    except Exception:  # a card written by another tool, or a damaged one: YAML can raise anything
        return []
    languages = language if isinstance(language, list) else [language]
    return [language for language in languages if isinstance(language, str)]


def untrained_language(folder: Path, language: str) -> str | None:
    """A message if the model card lists training languages and this one is not among them."""
    trained = trained_languages(folder)
    if not trained or language_code(language) in trained:
        return None
    return f"{folder}: its model card names {', '.join(trained)} as training languages, not {language}"


def load_data_settings(folder: Path) -> DataSettings:
    """How clips are prepared for the model of a folder. Raises InputError if the file is missing or invalid."""
    path = folder / "preprocessor_config.json"
    remedy = "copy the file from the run, or train or convert the model again"
    if not path.is_file():
        raise InputError(path, "does not exist", remedy)
    return read_settings(path, DataSettings, "holds no data settings", remedy)


def start_from(model: nn.Module, folder: Path, rows: Tensor | None = None) -> None:
    """Load an earlier stage's weights into `model`; only the RGB branch or a task head may be new.

    `rows`: the vocabulary rows of `model`, if it is trimmed and the weights are not.
    Raises InputError naming every weight that is missing or has the wrong shape.
    """
    path = folder / "model.safetensors"
    weights = trimmed_weights(with_tied(read_weights(path)), rows)
    own = model.state_dict()
    weights = {n: w for n, w in weights.items() if n in own or not n.startswith(DROPPED)}
    fresh = {
        n: w for n, w in own.items() if n.startswith(ADDED) and not any(k.startswith(n.split(".")[0]) for k in weights)
    }
    load_strictly(model, {**weights, **fresh}, path)


def require_model_folder(folder: Path, option: str, remedy: str) -> None:
    """Raises InputError unless `folder` looks like a model folder."""
    if not is_model(folder):
        raise InputError(option, f"{folder} holds no trained model", remedy)


def with_tied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights with the single stored embedding under all its names, as in a model's state."""
    return weights | dict.fromkeys(TIED, weights[SHARED]) if SHARED in weights else weights
