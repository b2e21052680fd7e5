"""Carries out a training run from its settings: stores, tokenizer, initial weights, trainer, test scores."""

import sys
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from unisign_fast.checkpoints.model_card import model_card
from unisign_fast.checkpoints.model_folder import save_model, start_from
from unisign_fast.checkpoints.run_folders import model_in
from unisign_fast.checkpoints.weight_files import load_strictly, read_weights, save_weights
from unisign_fast.evaluation.evaluate import MAIN_METRIC, evaluate_split, write_evaluation
from unisign_fast.kernels.dispatch import default_backend
from unisign_fast.model.config import ModelConfig
from unisign_fast.model.flops import TRAINING, forward_flops
from unisign_fast.model.rgb_branch import RGBBranch
from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.batches.loader import BatchLoader
from unisign_fast.pipelines.batches.packed_batch import PackedBatch
from unisign_fast.pipelines.batches.reader import ClipReader
from unisign_fast.pipelines.clips.dataset import ClipSet
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.skeletons import check_skeleton
from unisign_fast.pipelines.store.keypoint_store import KeypointStore
from unisign_fast.text.tokenizer import Tokenizer
from unisign_fast.training.initial_weights import (
    load_pretrained_efficientnet,
    load_pretrained_mt5,
)
from unisign_fast.training.interruption import Interrupted
from unisign_fast.training.kernel_compilation import compile_kernels
from unisign_fast.training.memory import micro_batch_budget, out_of_memory_advice
from unisign_fast.training.metrics_logger import peak_flops
from unisign_fast.training.run_data import (
    compare_keypoint_sources,
    has_split,
    head_classes,
    open_stores,
    training_clips,
    training_share,
    wants_demo,
    warn_of_unknown,
)
from unisign_fast.training.run_language import check_source, language_parts
from unisign_fast.training.run_lock import locked
from unisign_fast.training.run_record import recipe_fingerprint, record, target_languages, write_cards
from unisign_fast.training.settings import RunSettings
from unisign_fast.training.trainer import Trainer, Validation, check_run_folder
from unisign_fast.utils.distributed import Ranks, start_ranks
from unisign_fast.utils.process_memory import keep_memory

LOADER_THREADS = 2


def train(settings: RunSettings) -> None:
    """Train in `settings.folder`. An interrupted run is resumed; a finished one is left unchanged.

    Fine-tuning ends by scoring its best weights on the test split, if the stores have one. Raises InputError for
    settings or data that cannot be used.
    """
    keep_memory()
    ranks = start_ranks()
    status = 0
    check_run_folder(settings.folder, settings.train, ranks)
    _announce(settings, ranks)
    stores = open_stores(settings, ranks)
    source = check_source(settings)
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
    tokenizer, shape, rows = language_parts(settings, source, stores, ranks)
    reader = ClipReader(stores, settings.data, tokenizer, settings.train.seed, ranks.device)
    if source is not None:
        check_skeleton(reader.skeleton, ModelConfig.load(source / "config.json").joints, stores[0].path)
    if ranks.is_first:
        compare_keypoint_sources(stores)
    clips = training_clips(reader, ranks)
    if ranks.is_first:
        warn_of_unknown(clips, tokenizer)
    clips = training_share(clips, settings)
    config = settings.model_config(shape, head_classes(settings, clips), reader.skeleton.name)
    torch.manual_seed(settings.train.seed)
    model = _load_initial_weights(UniSign(config), settings, source, rows, ranks)
    trained = settings.data_fraction > 0
    if trained:
        trainer = _trainer(settings, config, model, tokenizer, reader, clips, ranks)
        trainer.resume()
        record(settings, stores, ranks)  # only now: a rejected start must not change the run's record
        if not trainer.is_finished:
            compile_kernels(trainer, settings, config)
        with out_of_memory_advice(trainer.loader.budget, settings.data.max_frames):
            trained = trainer.train()
    else:
        record(settings, stores, ranks)
        _skip_training(settings, config, model, tokenizer, ranks)
    if settings.stage == 3:
        _score_test(settings, reader, ranks, again=trained)
    if ranks.is_first:
        write_cards(settings, target_languages(settings, clips))


def _announce(settings: RunSettings, ranks: Ranks) -> None:
    try:
        kernels = default_backend(ranks.device.type)
    except ValueError as error:
        where, _, problem = str(error).partition(": ")
        raise InputError(where, *problem.split("; ")) from None
    if ranks.is_first:
        data = "the demo corpus" if wants_demo(settings) else ", ".join(map(str, settings.stores))
        modality = "RGB-pose" if settings.rgb else "pose-only"
        where = f"{ranks.world_size} rank(s) on {ranks.device.type}, {kernels} kernels, into {settings.folder}"
        print(f"{settings.name} of the {settings.recipe} recipe on {data}, {modality}, {where}", flush=True)


def _load_initial_weights(
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
    """Pretrain the RGB encoder once per run; later starts load its weights from the run folder."""
    file, backbone = settings.folder / "handshapes.safetensors", rgb.backbone
    if ranks.from_first(file.is_file()):
        load_strictly(backbone, read_weights(file), file)
        return
    if ranks.is_first:
        print("pretraining the RGB encoder on drawn handshapes, which takes about a minute on a CPU", flush=True)
    from unisign_fast.training.handshape_pretraining import learn_handshapes  # late: only the demo recipe needs it

    accuracy = learn_handshapes(rgb, settings.data.crop_size, settings.train.seed)
    if ranks.is_first:
        print(f"it recognises {accuracy:.0%} of them", flush=True)
        save_weights(file, backbone.state_dict())
    ranks.barrier()


def _skip_training(
    settings: RunSettings, config: ModelConfig, model: UniSign, tokenizer: Tokenizer, ranks: Ranks
) -> None:
    if ranks.is_first:
        print(f"--data-fraction 0: nothing is trained; the initial weights are saved to {settings.folder / 'last'}")
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
    if has_split(reader, "dev"):
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

    @cache
    def card() -> str:
        return model_card(config, settings.data, languages=target_languages(settings, clips))

    known = {"flops": flops} if peak_flops(ranks.device) else {}
    return Trainer(
        model,
        open_loader,
        settings.train,
        settings.folder,
        ranks,
        recipe=recipe_fingerprint(settings, tokenizer, reader.stores),
        save_weights=lambda folder, state: save_model(folder, config, state, tokenizer, settings.data, card()),
        validation=validation,
        **known,
    )


def _score_test(settings: RunSettings, reader: ClipReader, ranks: Ranks, again: bool) -> None:
    """Score the best weights on the test split, unless done before; `again` repeats it after more training."""
    written = settings.folder / "scores-test.json"
    if ranks.from_first(written.is_file()) and not again or not has_split(reader, "test"):
        return
    model, tokenizer = UniSign.load(model_in(settings.folder))
    evaluation = evaluate_split(model.to(ranks.device), tokenizer, reader, "test", ranks)
    if ranks.is_first:
        write_evaluation(settings.folder, "test", evaluation)
        scores = ", ".join(f"{name} {value:.2f}" for name, value in evaluation.scores.values.items())
        print(f"test: {scores}; predictions in {settings.folder / 'predictions-test.jsonl'}", flush=True)
    ranks.barrier()
