"""What a run records about itself: RUN/settings.json, its model cards, and the fingerprint of its recipe."""

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import google_crc32c
import msgspec

from unisign_fast import __version__
from unisign_fast.checkpoints.model_folder import write_card
from unisign_fast.evaluation.score_file import read_scores
from unisign_fast.model.config import ModelConfig
from unisign_fast.pipelines.atomic_io import replace_text
from unisign_fast.pipelines.clips.dataset import ClipSet
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.store.keypoint_store import KeypointStore
from unisign_fast.pipelines.targets import language_code
from unisign_fast.text.tokenizer import Tokenizer
from unisign_fast.training.disk import writing
from unisign_fast.training.settings import RunSettings
from unisign_fast.utils.distributed import Ranks


def record(settings: RunSettings, stores: list[KeypointStore], ranks: Ranks) -> None:
    """Write RUN/settings.json, which `--config` reads: the settings, and command, commit, versions and data."""
    start = {
        "command": sys.argv,
        "commit": commit(),
        "versions": {name: version(name) for name in ("torch", "deepspeed", "transformers", "numpy")},
        "unisign_fast": __version__,
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "ranks": ranks.world_size,
        "data": [{"store": str(store.path), "content": content_of(store)} for store in stores],
    }

    def write() -> None:
        if ranks.is_first:
            with writing(settings.folder):
                settings.folder.mkdir(parents=True, exist_ok=True)
                replace_text(
                    settings.folder / "settings.json",
                    json.dumps(settings.as_json() | {"start": start}, indent=2, ensure_ascii=False) + "\n",
                )

    ranks.together(write)


def commit() -> str | None:
    """The commit of the running code, with a + if files have changed since; None outside a repository."""
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        changes = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+" if changes.stdout else "") if head.returncode == 0 else None


def content_of(store: KeypointStore) -> str:
    """Identifies a store's content, whatever its path: the manifest's checksum covers texts and keypoint checksums."""
    return f"{len(store.clips)} clips, {store.clips.total_frames} frames, CRC-32C {store.manifest_crc32c:08x}"


def target_languages(settings: RunSettings, clips: ClipSet) -> list[str]:
    """The languages of the training targets, as the model card names them."""
    if settings.data.language is not None:
        return [language_code(settings.data.language)]
    languages = set()
    for number in range(len(clips)):
        with suppress(InputError):  # a damaged clip
            languages.add(language_code(clips[number].clip.language))
    return sorted(languages)


def write_cards(settings: RunSettings, languages: Sequence[str]) -> None:
    """Write the cards of the run's best and last weights; test scores belong to the best, or to the last without it."""
    hidden = ("out", "start_from", "tokenizer")
    recipe = {name: value for name, value in settings.as_json().items() if name not in hidden}
    recipe["stores"] = [store.name for store in settings.stores]
    written = settings.folder / "scores-test.json"
    scores = msgspec.structs.asdict(read_scores(written)) if written.is_file() else None
    for name in ("best", "last"):
        if (settings.folder / name / "config.json").is_file():
            config = ModelConfig.load(settings.folder / name / "config.json")
            write_card(settings.folder / name, config, recipe, scores, languages)
            scores = None


def recipe_fingerprint(settings: RunSettings, tokenizer: Tokenizer, stores: list[KeypointStore]) -> dict:
    """What defines the run besides TrainSettings; data, tokenizer and initial weights by checksum."""
    plain = settings.as_json()
    derived = ("mt5", "rgb", "head_classes", "skeleton")  # follow from the rest, and from the weights' shapes
    model = {name: value for name, value in plain["model"].items() if name not in derived}
    others = {name: plain[name] for name in ("recipe", "settings", "stage", "mt5", "efficientnet")}
    others |= {name: plain[name] for name in ("trim_vocabulary", "data_fraction")}
    first = crc32c_of(settings.source / "model.safetensors") if settings.source else None
    contents = {f"store {number}": content_of(store) for number, store in enumerate(stores, 1)}
    data_record = contents | {"tokenizer content": tokenizer.fingerprint, "first weights": first}
    data = {name: value for name, value in plain["data"].items() if name != "augment" or value}  # earlier runs lack it
    return others | data_record | data | model


def crc32c_of(path: Path) -> str:
    """The CRC-32C of a file, as eight hexadecimal digits."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(2**24):
            checksum = google_crc32c.extend(checksum, block)
    return f"{checksum:08x}"
