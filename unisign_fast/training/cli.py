"""The command line of training: a recipe gives every default, so that --help shows what would really run."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args

import tyro

from unisign_fast.model.config import ModelConfig
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.training.recipes import RecipeName, RunSettings, Source, default_settings
from unisign_fast.training.settings import TrainSettings
from unisign_fast.utils.console import one_line_errors, without_local_rank

HELP, HELP_ALL = ("-h", "--help"), "--help-all"
IN_SHORT = {  # what --help shows, one screen; --help-all shows everything
    RunSettings: ("recipe", "stage", "stores", "out", "start_from", "mt5", "data", "train"),
    DataSettings: ("task", "p_samp"),
    TrainSettings: ("epochs", "clips_per_step", "frames_per_device", "learning_rate", "precision", "seed"),
}


def training_command(description: str, stages: tuple[int, ...]) -> None:
    """Parse the command line of a training script for these stages, and train."""
    arguments = without_local_rank(sys.argv[1:])
    with one_line_errors():
        default = _defaults(stages, arguments)
        if HELP_ALL in arguments:
            arguments = [HELP[-1]]
        elif any(option in arguments for option in HELP):
            _shorten_help()
            description = f"{description.splitlines()[0]} {HELP_ALL} shows every option of data, training and model."
        settings = tyro.cli(
            RunSettings,
            default=default,
            args=arguments,
            description=description,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagConversionOff),
        )
        if settings.stage not in stages:
            choice = " or ".join(map(str, stages))
            raise InputError("--stage", f"{settings.stage} is not a stage of this command", f"choose {choice}")
        from unisign_fast.training.run import train  # late: torch and deepspeed take seconds that --help need not

        train(settings)


def _defaults(stages: tuple[int, ...], arguments: list[str]) -> RunSettings:
    """The settings that the options which choose others (recipe, stage, task, ...) lead to."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--recipe", choices=get_args(RecipeName), default="demo")
    parser.add_argument("--settings", choices=get_args(Source))
    parser.add_argument("--stage", type=int, choices=stages, default=stages[0])
    parser.add_argument("--task", default="slt")
    parser.add_argument("--start-from", type=Path)
    try:
        chosen, _ = parser.parse_known_args(arguments)
    except argparse.ArgumentError:  # tyro will say it better
        chosen = parser.parse_args([])
    source = chosen.settings or _settings_of(chosen.start_from)
    return default_settings(chosen.recipe, source, chosen.stage, chosen.task)


def _shorten_help() -> None:
    """From now on, which is until the help is printed, what IN_SHORT does not name is left out of it."""
    for group, shown in IN_SHORT.items():
        group.__annotations__ |= {f.name: tyro.conf.Suppress[f.type] for f in fields(group) if f.name not in shown}


def _settings_of(start_from: Path | None) -> Source:
    """A model that came from the published code goes on with the published settings, unless told otherwise."""
    if start_from is None or not (start_from / "config.json").is_file():
        return "paper"
    return "published" if ModelConfig.load(start_from / "config.json").gate == "published" else "paper"
