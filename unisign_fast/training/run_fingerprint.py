"""What must match for a checkpoint to be resumed, and what may change between the starts of a run.

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
REMEDY = "resume with the values that the run was started with, or start another run in a new folder"


def run_fingerprint(
    model: nn.Module, settings: TrainSettings, ranks: Ranks, steps_per_epoch: int, recipe: dict
) -> dict:
    """The fingerprint of a run, as JSON values. `recipe`: what else defines the run (model, data)."""
    kept = {name: value for name, value in asdict(settings).items() if name not in MAY_CHANGE}
    kept |= {"steps of an epoch": steps_per_epoch}
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    layout = {"epochs": settings.epochs, "ranks": ranks.world_size, "zero_stage": settings.zero_stage}
    return json.loads(json.dumps({"setting": kept, "recipe": recipe, "shape": shapes, LAYOUT: layout}))


def check_fingerprint(folder: Path, saved: dict, ours: dict) -> list[str]:
    """The allowed changes, a sentence each. Raises InputError that names the first difference that is not allowed."""
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
        problem = f"setting epochs was {epochs} and is now {now['epochs']}"
        raise InputError(folder, problem, "give at least as many as before")
    if now["epochs"] > epochs:
        yield (
            f"epochs grow from {epochs} to {now['epochs']}: the cosine is stretched to the new end, so the learning "
            "rate is higher from here on than originally planned"
        )
    for name, label in (("ranks", "ranks"), ("zero_stage", "ZeRO stage")):
        if before.get(name, now[name]) != now[name]:
            yield f"{label} {before[name]} before, {now[name]} now: the same run, with the same clips in each step"


def check_same_layout(folder: Path, saved: dict, settings: TrainSettings, ranks: Ranks) -> None:
    """Raises InputError unless ranks and ZeRO stage are those of a checkpoint of version 0.1 (DeepSpeed's shards)."""
    for option, before, now in (
        ("ranks", saved["setting"].get("ranks"), ranks.world_size),
        ("zero_stage", saved["setting"].get("zero_stage"), settings.zero_stage),
    ):
        if before != now:
            problem = f"was written by version 0.1 with {option} {before}, and {option} is now {now}"
            remedy = f"resume with {option} {before} once; checkpoints written from then on allow any value"
            raise InputError(folder, problem, remedy)


def _of_version_0_1(saved: dict, ours: dict) -> dict:
    """A fingerprint of version 0.1 in the current form, without data paths and without entries added since."""
    setting, recipe = dict(saved.get("setting", {})), dict(saved.get("recipe", {}))
    layout = {name: setting.pop(name, None) for name in ("epochs", "ranks", "zero_stage")}
    steps = setting.pop("optimiser steps", 0)
    setting["steps of an epoch"] = steps // layout["epochs"] if layout["epochs"] else None
    for name in ("stores", "start_from", "tokenizer"):
        recipe.pop(name, None)
    layout = {name: value for name, value in layout.items() if value is not None}
    return {"setting": setting, "recipe": recipe, "shape": saved.get("shape", {}), LAYOUT: layout}
