"""The settings and data that must match for a checkpoint to be resumed, and those that may change between starts of a
run.

Data is identified by its checksums, not by its paths. Ranks, ZeRO stage and micro-batch sizes may change, because the
clips of each step stay the same.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from torch import nn

from unisign_fast.pipelines.errors import InputError
from unisign_fast.training.settings import TrainSettings
from unisign_fast.utils.distributed import Ranks

MAY_CHANGE = {
    "epochs",  # may grow
    "frames_per_device",
    "tokens_per_device",
    "zero_stage",
    "checkpoint_every_steps",
    "evaluate_every_epochs",
    "early_stopping",
    "log_every_steps",
    "wandb",
    "resume",
    "max_bad_share",
    "on_bad_step",
    "max_skipped_steps",
}
LAYOUT = "layout"  # recorded, not compared
REMEDY = "go on with what the run was started with, or start another in a new folder"


def run_fingerprint(
    model: nn.Module, settings: TrainSettings, ranks: Ranks, steps_per_epoch: int, recipe: dict
) -> dict:
    """The fingerprint of a run, as JSON values."""
    kept = {name: value for name, value in asdict(settings).items() if name not in MAY_CHANGE}
    kept |= {"steps of an epoch": steps_per_epoch}
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    layout = {"epochs": settings.epochs, "ranks": ranks.world_size, "zero_stage": settings.zero_stage}
    return json.loads(json.dumps({"setting": kept, "recipe": recipe, "shape": shapes, LAYOUT: layout}))


def check_fingerprint(folder: Path, saved: dict, ours: dict) -> list[str]:
    """Allowed changes, as sentences. Raises InputError that names the first difference that is not allowed."""
    is_old = LAYOUT not in saved
    saved = _of_version_0_1(saved, ours) if is_old else saved
    for kind in ("setting", "recipe", "shape"):
        before_all, now_all = saved.get(kind, {}), ours[kind]
        for name in before_all if is_old and kind == "recipe" else (*before_all, *now_all):
            before, now = before_all.get(name), now_all.get(name)
            if before != now:
                raise InputError(folder, f"{kind} {name} was {before} and is now {now}", REMEDY)
    return list(_changes(folder, saved.get(LAYOUT, {}), ours))


def _changes(folder: Path, before: dict, ours: dict) -> Iterator[str]:
    now = ours[LAYOUT]
    epochs = before.get("epochs", now["epochs"])
    if now["epochs"] < epochs:
        raise InputError(
            folder, f"setting epochs was {epochs} and is now {now['epochs']}", "give at least as many as before"
        )
    if now["epochs"] > epochs:
        yield (
            f"epochs grow from {epochs} to {now['epochs']}: the cosine is stretched to their end, so that the learning "
            "rate is higher from here on than it was to be"
        )
    for name, said in (("ranks", "ranks"), ("zero_stage", "ZeRO stage")):
        if before.get(name, now[name]) != now[name]:
            yield f"{said} {before[name]} before, {now[name]} now: the same run, with the same clips in each step"


def check_same_layout(folder: Path, saved: dict, settings: TrainSettings, ranks: Ranks) -> None:
    """Checkpoints before version 0.2 hold DeepSpeed's shards: InputError unless ranks and ZeRO stage are theirs."""
    for option, before, now in (
        ("ranks", saved["setting"].get("ranks"), ranks.world_size),
        ("zero_stage", saved["setting"].get("zero_stage"), settings.zero_stage),
    ):
        if before != now:
            remedy = f"go on with {option} {before} once; the checkpoints written from then on fit any"
            raise InputError(folder, f"is of version 0.1 with {option} {before}, and {option} is now {now}", remedy)


def _of_version_0_1(saved: dict, ours: dict) -> dict:
    """A fingerprint of version 0.1 in today's form; data paths and newer entries are left out."""
    setting, recipe = dict(saved.get("setting", {})), dict(saved.get("recipe", {}))
    layout = {name: setting.pop(name, None) for name in ("epochs", "ranks", "zero_stage")}
    steps = setting.pop("optimiser steps", 0)
    setting["steps of an epoch"] = steps // layout["epochs"] if layout["epochs"] else None
    for name in ("stores", "start_from", "tokenizer"):
        recipe.pop(name, None)
    layout = {name: value for name, value in layout.items() if value is not None}
    return {"setting": setting, "recipe": recipe, "shape": saved.get("shape", {}), LAYOUT: layout}
