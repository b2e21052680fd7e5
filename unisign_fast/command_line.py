"""The command line of training: a recipe gives every default, so that --help shows what would really run."""

import argparse
import sys
from pathlib import Path
from typing import get_args

import tyro

from pipelines.errors import InputError
from unisign_fast.config import ModelConfig
from unisign_fast.console import one_line_errors, without_local_rank
from unisign_fast.recipes import RecipeName, RunSettings, Source, default_settings


def training_command(description: str, stages: tuple[int, ...]) -> None:
    """Parse the command line of a training script for these stages, and train."""
    arguments = without_local_rank(sys.argv[1:])
    with one_line_errors():
        settings = tyro.cli(
            RunSettings,
            default=_defaults(stages, arguments),
            args=arguments,
            description=description,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagConversionOff),
        )
        if settings.stage not in stages:
            choice = " or ".join(map(str, stages))
            raise InputError("--stage", f"{settings.stage} is not a stage of this command", f"choose {choice}")
        from unisign_fast.training_run import train  # late: torch and deepspeed take seconds that --help need not

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


def _settings_of(start_from: Path | None) -> Source:
    """A model that came from the published code goes on with the published settings, unless told otherwise."""
    if start_from is None or not (start_from / "config.json").is_file():
        return "paper"
    return "published" if ModelConfig.load(start_from / "config.json").gate == "published" else "paper"
