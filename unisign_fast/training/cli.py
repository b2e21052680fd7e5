"""The command line of training: a recipe sets every default, so --help shows the values a run would use."""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import tyro

from unisign_fast.checkpoints.run_folders import is_model, model_in
from unisign_fast.model.config import ModelConfig, MT5Shape
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.input_files import read_json
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.pipelines.targets import Task
from unisign_fast.training.recipes import default_settings
from unisign_fast.training.settings import RecipeName, RunSettings, SettingsName, Stage, TrainSettings, run_settings
from unisign_fast.utils.console import clean_exit, example_lines, hide_absent_defaults, without_local_rank

HELP, HELP_ALL = ("-h", "--help"), "--help-all"
IN_SHORT = {  # shown by --help; --help-all shows everything
    RunSettings: ("recipe", "stage", "stores", "out", "start_from", "mt5", "data", "train", "model"),
    ModelConfig: (),
    MT5Shape: (),
    DataSettings: ("task", "p_samp", "augment"),
    TrainSettings: ("epochs", "clips_per_step", "frames_per_device", "learning_rate", "precision", "seed"),
}
DERIVED = {
    ModelConfig: ("rgb", "head_classes", "skeleton"),
    MT5Shape: ("vocab_size",),
}  # follow from p_samp and the data, so they are not options
MORE = f"{HELP_ALL} shows all options; --config RUN/settings.json repeats a run."


def training_command(description: str, stages: tuple[int, ...]) -> None:
    """Parse the command line of a training script for these stages, and train."""
    arguments = without_local_rank(sys.argv[1:])
    with clean_exit():
        settings = parse(description, stages, arguments)
        from unisign_fast.training.run import train  # late: importing torch and deepspeed takes seconds

        train(settings)


def parse(description: str, stages: tuple[int, ...], arguments: list[str]) -> RunSettings:
    """The settings given on the command line. Raises InputError for invalid ones."""
    default, arguments = _defaults(stages, arguments)
    for group, names in DERIVED.items():
        _annotate(group, names, tyro.conf.Fixed)
    if HELP_ALL in arguments:
        arguments = [HELP[-1]]
        description = f"{description.splitlines()[0]}{example_lines(description)}"
    elif any(option in arguments for option in HELP):
        for group, shown in IN_SHORT.items():
            _annotate(group, [f.name for f in fields(group) if f.name not in shown], tyro.conf.Suppress)
        hide_absent_defaults(RunSettings, default)
        description = f"{description.splitlines()[0]} {MORE}{example_lines(description)}"
    settings = tyro.cli(
        RunSettings,
        default=default,
        args=arguments,
        description=description,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagConversionOff, tyro.conf.SuppressFixed),
    )
    if settings.stage not in stages:
        choice = " or ".join(map(str, stages))
        raise InputError("--stage", f"{settings.stage} is not a stage of this command", f"choose {choice}")
    return settings


def _defaults(stages: tuple[int, ...], arguments: list[str]) -> tuple[RunSettings, list[str]]:
    """The defaults implied by --config, --recipe, --stage, --task and the like; and the arguments without --config."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", type=Path)
    try:
        config, arguments = parser.parse_known_args(arguments)
    except argparse.ArgumentError:
        raise InputError("--config", "has no value", "give the settings.json of a run") from None
    recorded = _read_config(config.config) if config.config else {}
    parser.add_argument("--recipe", choices=get_args(RecipeName), default=recorded.get("recipe", "demo"))
    parser.add_argument("--settings", choices=get_args(SettingsName), default=recorded.get("settings"))
    parser.add_argument("--stage", type=int, choices=stages, default=recorded.get("stage", stages[0]))
    parser.add_argument("--task", default=recorded.get("data", {}).get("task", "slt"))
    parser.add_argument("--start-from", type=Path)
    try:
        chosen, _ = parser.parse_known_args(arguments)
    except argparse.ArgumentError:  # tyro reports it in more detail
        chosen = parser.parse_args([])
    settings = chosen.settings or _settings_of(chosen.start_from)
    default = default_settings(chosen.recipe, settings, chosen.stage, chosen.task)
    return run_settings(config.config, recorded, default) if recorded else default, arguments


def _read_config(path: Path) -> dict:
    """The settings in a run's settings.json, without its record of the start."""
    remedy = "give the settings.json of a run"
    values = read_json(path, remedy)
    if not isinstance(values, dict):
        raise InputError(path, "does not hold a run's settings", remedy)
    data = values.get("data", {})
    if not isinstance(data, dict):
        raise InputError(f"{path}: data", "is not a group of settings", remedy)
    choices = {"recipe": RecipeName, "settings": SettingsName, "stage": Stage, "task": Task}
    for name, value in (values | data).items():  # the defaults depend on these; `run_settings` checks all
        if name in choices and value not in get_args(choices[name]):
            raise InputError(f"{path}: {name}", "is not a valid choice", remedy)
    return {name: value for name, value in values.items() if name != "start"}


def _annotate(group: type, names: Iterable[str], marker: Any) -> None:
    """Mark fields of a group of settings for tyro: Fixed removes the option, Suppress hides it from the help."""
    group.__annotations__ |= {f.name: marker[f.type] for f in fields(group) if f.name in names}


def _settings_of(start_from: Path | None) -> SettingsName:
    """Default of --settings: a model imported from the published code keeps the published settings."""
    if start_from is None or not is_model(folder := model_in(start_from)):
        return "paper"
    return "published" if ModelConfig.load(folder / "config.json").gate == "published" else "paper"
