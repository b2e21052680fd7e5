"""A training run from its settings: stores, tokenizer, model with its first weights, trainer, test scores."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import google_crc32c
import numpy as np
import torch
from torch import Tensor

from unisign_fast import __version__
from unisign_fast.checkpoints.model_folder import require_model_folder, save_model, start_from, write_card
from unisign_fast.checkpoints.weight_files import load_strictly, read_weights, save_weights
from unisign_fast.evaluation.evaluate import MAIN_METRIC, evaluate_split, write_evaluation
from unisign_fast.kernels.dispatch import default_backend
from unisign_fast.model.config import ModelConfig, MT5Shape
from unisign_fast.model.flops import TRAINING, forward_flops
from unisign_fast.model.rgb_branch import RGBBranch
from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.atomic_io import replace_text
from unisign_fast.pipelines.batches.loader import BatchLoader
from unisign_fast.pipelines.batches.packed_batch import PackedBatch
from unisign_fast.pipelines.batches.reader import ClipReader
from unisign_fast.pipelines.clips.dataset import ClipSet
from unisign_fast.pipelines.demo_corpus import write_demo_corpus
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.rng import stream
from unisign_fast.pipelines.store.keypoint_store import KeypointStore
from unisign_fast.pipelines.targets import LANGUAGES
from unisign_fast.text.tokenizer import UNKNOWN, Tokenizer, prompt, train_tokenizer
from unisign_fast.text.vocabulary_trimming import MULTIPLE, rows_of, trim_tokenizer
from unisign_fast.training.disk import (
    MANIFEST,
    NotWhole,
    remove,
    seal,
    sealed_state,
    secured,
    writing,
)
from unisign_fast.training.handshape_pretraining import learn_handshapes
from unisign_fast.training.initial_weights import (
    load_pretrained_efficientnet,
    load_pretrained_mt5,
    pretrained_shape,
    pretrained_tokenizer,
)
from unisign_fast.training.interruption import Interrupted
from unisign_fast.training.memory import micro_batch_budget, naming_what_to_lower
from unisign_fast.training.metrics_logger import peak_flops
from unisign_fast.training.recipes import DEMO_CLIPS, DEMO_CORPUS
from unisign_fast.training.run_lock import locked
from unisign_fast.training.settings import RunSettings
from unisign_fast.training.trainer import Trainer, Validation, check_run_folder
from unisign_fast.utils.distributed import Ranks, start_ranks
from unisign_fast.utils.process_memory import keep_memory

LOADER_THREADS = 2
MUCH_UNKNOWN = 0.01  # of the targets' tokens


def train(settings: RunSettings) -> None:
    """Train in `settings.folder`. An interrupted run is resumed, a finished one is left unchanged.

    Fine-tuning ends with the scores of its best weights on the test split, if the stores have one.
    """
    keep_memory()
    ranks = start_ranks()
    status = 0
    check_run_folder(settings.folder, settings.train, ranks)
    _announce(settings, ranks)
    stores = _open_stores(settings, ranks)
    source = _source(settings)
    with locked(settings.folder, ranks):
        try:
            _train(settings, stores, source, ranks)
        except Interrupted as stop:
            if ranks.is_first:
                print(stop, file=sys.stderr, flush=True)
            status = stop.status
    ranks.leave(status)


def _train(settings: RunSettings, stores: list[KeypointStore], source: Path | None, ranks: Ranks) -> None:
    """The run itself, in a locked folder."""
    tokenizer, shape, rows = _language(settings, source, stores, ranks)
    reader = ClipReader(stores, settings.data, tokenizer, settings.train.seed, ranks.device)
    if ranks.is_first:
        compare_keypoint_sources(stores)
    clips = _training_clips(reader, ranks)
    if ranks.is_first:
        warn_of_unknown(clips, tokenizer)
    clips = _fraction(clips, settings)
    config = settings.model_config(shape, _head_classes(settings, clips))
    torch.manual_seed(settings.train.seed)
    model = _first_weights(UniSign(config), settings, source, rows, ranks)
    trained = settings.data_fraction > 0
    if trained:
        trainer = _trainer(settings, config, model, tokenizer, reader, clips, ranks)
        trainer.resume()
        _record(settings, stores, ranks)  # only now: a refused start must not change the record of the run
        with naming_what_to_lower(trainer.loader.budget):
            trained = trainer.train()
    else:
        _record(settings, stores, ranks)
        _skip_training(settings, config, model, tokenizer, ranks)
    if settings.stage == 3:
        _score_test(settings, reader, ranks, again=trained)
    if ranks.is_first:
        _write_cards(settings)


def _record(settings: RunSettings, stores: list[KeypointStore], ranks: Ranks) -> None:
    """Write RUN/settings.json, which `--config` reads: the settings, and the circumstances of this start."""
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
    """A store's content, independent of its path: the manifest's checksum covers texts and keypoint checksums."""
    return f"{len(store.clips)} clips, {store.clips.total_frames} frames, CRC-32C {store.manifest_crc32c:08x}"


def _announce(settings: RunSettings, ranks: Ranks) -> None:
    try:
        kernels = default_backend(ranks.device.type)
    except ValueError as error:
        where, _, problem = str(error).partition(": ")
        raise InputError(where, *problem.split("; ")) from None
    if ranks.is_first:
        data = "the demo corpus" if _wants_demo(settings) else ", ".join(map(str, settings.stores))
        modality = "RGB-pose" if settings.rgb else "pose-only"
        where = f"{ranks.world_size} rank(s) on {ranks.device.type}, {kernels} kernels, into {settings.folder}"
        print(f"{settings.name} of the {settings.recipe} recipe on {data}, {modality}, {where}", flush=True)


def _wants_demo(settings: RunSettings) -> bool:
    return any(DEMO_CORPUS in store.parents for store in settings.stores)


def _write_cards(settings: RunSettings) -> None:
    """The cards of the run's best and last weights; the test scores are those of the best, if there are any."""
    hidden = ("out", "start_from", "tokenizer")
    recipe = {name: value for name, value in settings.as_json().items() if name not in hidden}
    recipe["stores"] = [store.name for store in settings.stores]
    written = settings.folder / "scores-test.json"
    scores = json.loads(written.read_text(encoding="utf-8")) if written.is_file() else None
    for name in ("best", "last"):
        if (settings.folder / name / "config.json").is_file():
            write_card(settings.folder / name, ModelConfig.load(settings.folder / name / "config.json"), recipe, scores)
            scores = None


def _open_stores(settings: RunSettings, ranks: Ranks) -> list[KeypointStore]:
    if not settings.stores:
        raise InputError("--stores", "no keypoint store is given", "name one or more written by launch/prepare.py")
    if _wants_demo(settings) and ranks.from_first(not DEMO_CORPUS.exists()):
        if ranks.is_first:
            print(f"writing the demo corpus to {DEMO_CORPUS} first ({DEMO_CLIPS} clips)", flush=True)
            write_demo_corpus(DEMO_CORPUS, DEMO_CLIPS, seed=0)
        ranks.barrier()
    return [KeypointStore.open(store) for store in settings.stores]


def compare_keypoint_sources(stores: list[KeypointStore]) -> None:
    """Warn if dev or test keypoints come from another source than the training keypoints, which lowers scores."""
    trained = [store for store in stores if len(store.clips.of_split("train"))]
    for store in stores:
        tested = any(len(store.clips.of_split(split)) for split in ("dev", "test"))
        for other in trained if tested else ():
            if other.keypoint_source != store.keypoint_source:
                origins = f"{store.keypoint_source}, those of {other.path} from {other.keypoint_source}"
                print(f"warning: keypoints of {store.path} are from {origins}", file=sys.stderr, flush=True)


def warn_of_unknown(clips: ClipSet, tokenizer: Tokenizer) -> None:
    """Warn if the tokenizer lacks pieces for much of the targets, which the model can then never write."""
    share = clips.share_of(UNKNOWN)
    if share > MUCH_UNKNOWN:
        problem = f"{share:.1%} of the targets' tokens are unknown to {tokenizer.path}"
        remedy = "start from a model whose tokenizer knows the language, as mT5's does"
        print(f"warning: {problem}: {remedy}", file=sys.stderr, flush=True)


def _source(settings: RunSettings) -> Path | None:
    """The model folder to start from, checked."""
    source = settings.source
    if source is not None:
        remedy = "give --start-from FOLDER, or train the stage before with launch/pretrain.py"
        require_model_folder(source, "--start-from", remedy)
        config = ModelConfig.load(source / "config.json")
        common = ("fusion", "gate", "gate_input") if config.rgb and settings.rgb else ()
        for name in ("parts", "part_bias", "body_anchors", *common):
            if getattr(config, name) != getattr(settings.model, name):
                where = f"--{name.replace('_', '-')}"
                raise InputError(where, f"{source} was trained with {getattr(config, name)}", "use the same")
    return source


def _language(
    settings: RunSettings, source: Path | None, stores: list[KeypointStore], ranks: Ranks
) -> tuple[Tokenizer, MT5Shape, Tensor | None]:
    """The tokenizer, and the geometry of mT5: those of the model started from, of a pretrained mT5, or new ones.

    Where the vocabulary is trimmed, also which of its rows are kept.
    """

    def texts() -> list[str]:
        return _texts(stores, settings.data.language)

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


def _corpus_tokenizer(settings: RunSettings, ranks: Ranks, make: Callable[[Path], Tokenizer]) -> Tokenizer:
    """The run's tokenizer: trained on the training texts once, and trained again if its files are damaged."""
    folder = settings.folder / "tokenizer"

    def keep() -> None:
        if not ranks.is_first or _is_sound(folder):
            return
        if folder.exists():
            print(f"{folder} is damaged: making the tokenizer again from the training texts", flush=True)
        with writing(settings.folder):
            remove(folder)
            settings.folder.mkdir(parents=True, exist_ok=True)
            make(folder)
            names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
            seal(folder, {}, {name: secured(folder / name) for name in names})

    ranks.together(keep)
    return Tokenizer(folder)


def _is_sound(folder: Path) -> bool:
    """Whether the run's tokenizer is undamaged; without a manifest (version 0.1), whether it can be read."""
    try:
        if (folder / MANIFEST).exists():
            sealed_state(folder)
        else:
            Tokenizer(folder)
    except (NotWhole, InputError):
        return False
    return True


def _texts(stores: list[KeypointStore], language: str | None) -> list[str]:
    """All texts of the training clips, which the corpus tokenizer should cover, and the prompts of rare languages."""
    clips = [store.clips[number] for store in stores for number in store.clips.of_split("train")]
    texts = [text for clip in clips for text in (clip.text, clip.gloss, *clip.translations.values()) if text]
    others = {clip.language for clip in clips} | {language} - {None}
    return texts + [prompt(other) for other in sorted(others - LANGUAGES.keys())]  # tokenizers know those of LANGUAGES


def _training_clips(reader: ClipReader, ranks: Ranks) -> ClipSet:
    """The training clips; rank 0 tokenises them, and the others read its cache."""
    if ranks.is_first:
        reader.clips("train")
    ranks.barrier()
    return reader.clips("train")


def _fraction(clips: ClipSet, settings: RunSettings) -> ClipSet:
    """The share of the training clips that --data-fraction asks for; a larger share contains a smaller one."""
    order = stream(settings.train.seed, 0, "", "fraction").permutation(len(clips))
    kept = np.sort(order[: round(settings.data_fraction * len(clips))])
    if settings.data_fraction > 0 and not len(kept):
        problem = f"{settings.data_fraction} of {len(clips)} clips is none"
        raise InputError("--data-fraction", problem, "give a larger share, or 0 to train nothing")
    return clips.subset(kept.tolist())


def _head_classes(settings: RunSettings, clips: ClipSet) -> tuple[str, ...]:
    """Words or glosses of the training clips, where a task head needs them."""
    if settings.model.head == "language_model":
        return ()
    targets = [ref.clip.target(settings.data.task, settings.data.language) for ref in clips]
    return tuple(sorted({c for t in targets for c in (t.split() if settings.model.head == "ctc" else [t])}))


def _first_weights(
    model: UniSign, settings: RunSettings, source: Path | None, rows: Tensor | None, ranks: Ranks
) -> UniSign:
    if source is not None:
        start_from(model, source, rows)
    elif settings.mt5 != "random" and model.language_model is not None:
        load_pretrained_mt5(model.language_model, settings.mt5, rows)
    rgb_is_loaded = source is not None and ModelConfig.load(source / "config.json").rgb
    if model.rgb is None or rgb_is_loaded:
        return model
    if settings.efficientnet == "handshapes":
        _learn_handshapes(model.rgb, settings, ranks)
    elif settings.efficientnet != "random":
        load_pretrained_efficientnet(model.rgb.backbone, settings.efficientnet)
    return model


def _learn_handshapes(rgb: RGBBranch, settings: RunSettings, ranks: Ranks) -> None:
    """Learn handshapes once per run; later starts load the weights from its folder."""
    file, backbone = settings.folder / "handshapes.safetensors", rgb.backbone
    if ranks.from_first(file.is_file()):
        load_strictly(backbone, read_weights(file), file)
        return
    if ranks.is_first:
        print("the RGB encoder first learns handshapes from drawn pictures, about a minute on a CPU", flush=True)
    accuracy = learn_handshapes(rgb, settings.data.crop_size, settings.train.seed)
    if ranks.is_first:
        print(f"it names {accuracy:.0%} of them", flush=True)
        save_weights(file, backbone.state_dict())
    ranks.barrier()


def _skip_training(
    settings: RunSettings, config: ModelConfig, model: UniSign, tokenizer: Tokenizer, ranks: Ranks
) -> None:
    if ranks.is_first:
        print(f"--data-fraction 0: nothing is trained, the first weights go to {settings.folder / 'last'}")
        save_model(settings.folder / "last", config, model.state_dict(), tokenizer, settings.data)
    ranks.barrier()


def _trainer(
    settings: RunSettings,
    config: ModelConfig,
    model: UniSign,
    tokenizer: Tokenizer,
    reader: ClipReader,
    clips: ClipSet,
    ranks: Ranks,
) -> Trainer:
    budget = micro_batch_budget(settings.train, settings.data, config, settings.stage, ranks)

    def open_loader(on_bad_clip) -> BatchLoader:
        return BatchLoader(
            reader,
            clips,
            clips_per_step=settings.train.clips_per_step,
            budget=budget,
            on_bad_clip=on_bad_clip,
            rank=ranks.rank,
            ranks=ranks.world_size,
            max_bad_share=settings.train.max_bad_share,
            workers=LOADER_THREADS,
        )

    validation = None
    if _has_split(reader, "dev"):
        metric, better = MAIN_METRIC[settings.data.task]
        validation = Validation(
            lambda epoch: evaluate_split(model, tokenizer, reader, "dev", ranks).scores.values,
            metric,
            mode="max" if better is max else "min",
        )

    def flops(batch: PackedBatch) -> int:
        crops = sum(batch.crops_per_hand)
        sizes = batch.lengths, batch.prompt_lengths, batch.label_lengths, crops, settings.data.crop_size
        return TRAINING * sum(forward_flops(config, *sizes).values())

    known = {"flops": flops} if peak_flops(ranks.device) else {}
    return Trainer(
        model,
        open_loader,
        settings.train,
        settings.folder,
        ranks,
        recipe=_identity(settings, tokenizer, reader.stores),
        save_weights=lambda folder, state: save_model(folder, config, state, tokenizer, settings.data),
        validation=validation,
        **known,
    )


def _identity(settings: RunSettings, tokenizer: Tokenizer, stores: list[KeypointStore]) -> dict:
    """What defines the run besides TrainSettings; data, tokenizer and first weights by checksum."""
    plain = settings.as_json()
    derived = ("mt5", "rgb", "head_classes")  # they follow from the rest, and the weights' shapes cover them
    model = {name: value for name, value in plain["model"].items() if name not in derived}
    others = {name: plain[name] for name in ("recipe", "settings", "stage", "mt5", "efficientnet")}
    others |= {name: plain[name] for name in ("trim_vocabulary", "data_fraction")}
    first = crc32c_of(settings.source / "model.safetensors") if settings.source else None
    contents = {f"store {number}": content_of(store) for number, store in enumerate(stores, 1)}
    of_data = contents | {"tokenizer content": tokenizer.fingerprint, "first weights": first}
    data = {name: value for name, value in plain["data"].items() if name != "augment" or value}  # runs before had none
    return others | of_data | data | model


def crc32c_of(path: Path) -> str:
    """The checksum of a file, as hexadecimal digits."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(2**24):
            checksum = google_crc32c.extend(checksum, block)
    return f"{checksum:08x}"


def _has_split(reader: ClipReader, split: str) -> bool:
    return any(len(store.clips.of_split(split)) for store in reader.stores)


def _score_test(settings: RunSettings, reader: ClipReader, ranks: Ranks, again: bool) -> None:
    """Score the best weights on the test split, unless done before; `again` repeats it after more training."""
    written = settings.folder / "scores-test.json"
    if ranks.from_first(written.is_file()) and not again or not _has_split(reader, "test"):
        return
    best = settings.folder / "best"
    model, tokenizer = UniSign.load(best if (best / "config.json").is_file() else settings.folder / "last")
    evaluation = evaluate_split(model.to(ranks.device), tokenizer, reader, "test", ranks)
    if ranks.is_first:
        write_evaluation(settings.folder, "test", evaluation)
        scores = ", ".join(f"{name} {value:.2f}" for name, value in evaluation.scores.values.items())
        print(f"test: {scores}; predictions in {settings.folder / 'predictions-test.jsonl'}", flush=True)
    ranks.barrier()
