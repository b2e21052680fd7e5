"""The model that a run starts from, and the tokenizer and shape of its language model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from unisign_fast.checkpoints.model_folder import require_model_folder
from unisign_fast.model.config import ModelConfig, MT5Shape
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.store.keypoint_store import KeypointStore
from unisign_fast.pipelines.targets import LANGUAGES
from unisign_fast.text.tokenizer import Tokenizer, prompt, train_tokenizer
from unisign_fast.text.vocabulary_trimming import MULTIPLE, rows_of, trim_tokenizer
from unisign_fast.training.disk import MANIFEST, Incomplete, remove, seal, sealed_state, sync_and_hash, writing
from unisign_fast.training.initial_weights import pretrained_shape, pretrained_tokenizer
from unisign_fast.training.settings import RunSettings
from unisign_fast.utils.distributed import Ranks


def check_source(settings: RunSettings) -> Path | None:
    """The model folder to start from, if any. Raises InputError if it holds no model or does not fit the settings."""
    source = settings.source
    if source is not None:
        remedy = "give a model folder or a run with --start-from, or train the previous stage with launch/pretrain.py"
        require_model_folder(source, "--start-from", remedy)
        config = ModelConfig.load(source / "config.json")
        common = ("fusion", "gate", "gate_input") if config.rgb and settings.rgb else ()
        for name in ("parts", "part_bias", "body_anchors", *common):
            if getattr(config, name) != getattr(settings.model, name):
                where = f"--{name.replace('_', '-')}"
                raise InputError(where, f"{source} was trained with {getattr(config, name)}", "use the same")
    return source


def language_parts(
    settings: RunSettings, source: Path | None, stores: list[KeypointStore], ranks: Ranks
) -> tuple[Tokenizer, MT5Shape, Tensor | None]:
    """The tokenizer and the shape of mT5: from the model to start from, from a pretrained mT5, or new.

    If the vocabulary is trimmed, also the rows that are kept, int64.
    """

    def texts() -> list[str]:
        return training_texts(stores, settings.data.language)

    if source is not None or settings.mt5 != "random":
        if source is not None:
            full, shape = Tokenizer(source), ModelConfig.load(source / "config.json").mt5
        else:
            full, shape = pretrained_tokenizer(settings.mt5), pretrained_shape(settings.mt5)
        if not settings.trim_vocabulary:
            return full, shape, None
        tokenizer = _corpus_tokenizer(settings, ranks, lambda folder: trim_tokenizer(full, texts(), folder))
        return tokenizer, replace(shape, vocab_size=len(tokenizer)), rows_of(tokenizer, full)
    if settings.tokenizer is not None:
        tokenizer = Tokenizer(settings.tokenizer)
    else:
        tokenizer = _corpus_tokenizer(settings, ranks, lambda folder: train_tokenizer(texts(), folder))
    shape = replace(settings.model.mt5, vocab_size=-(-len(tokenizer) // MULTIPLE) * MULTIPLE)
    return tokenizer, shape, None


def _corpus_tokenizer(settings: RunSettings, ranks: Ranks, build: Callable[[Path], Tokenizer]) -> Tokenizer:
    """The run's own tokenizer: built from the training texts once, and rebuilt if its files are damaged."""
    folder = settings.folder / "tokenizer"

    def ensure() -> None:
        if not ranks.is_first or _is_sound(folder):
            return
        if folder.exists():
            print(f"{folder} is damaged: rebuilding the tokenizer from the training texts", flush=True)
        with writing(settings.folder):
            remove(folder)
            settings.folder.mkdir(parents=True, exist_ok=True)
            build(folder)
            names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
            seal(folder, {}, {name: sync_and_hash(folder / name) for name in names})

    ranks.together(ensure)
    return Tokenizer(folder)


def _is_sound(folder: Path) -> bool:
    """Whether the run's tokenizer is undamaged; without a manifest (version 0.1), whether it can be read."""
    try:
        if (folder / MANIFEST).exists():
            sealed_state(folder)
        else:
            Tokenizer(folder)
    except (Incomplete, InputError):
        return False
    return True


def training_texts(stores: list[KeypointStore], language: str | None) -> list[str]:
    """The texts that a corpus tokenizer should cover: all texts of the training clips, prompts of rare languages."""
    clips = [store.clips[number] for store in stores for number in store.clips.numbers_in("train")]
    texts = [text for clip in clips for text in (clip.text, clip.gloss, *clip.translations.values()) if text]
    others = {clip.language for clip in clips} | ({language} if language else set())
    return texts + [prompt(other) for other in sorted(others - LANGUAGES.keys())]  # LANGUAGES are always covered
