"""Reads scores-SPLIT.json, which `write_evaluation` and launch/evaluate.py write."""

from pathlib import Path
from typing import Annotated

import msgspec

from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.input_files import read_settings
from unisign_fast.text.normalization import RULES

REMEDY = "use a scores-SPLIT.json that a run or launch/evaluate.py wrote, or remove the file"


class ScoreFile(msgspec.Struct, frozen=True):
    """Scores in percent by metric, with 95 % intervals where they are known, and how they were computed."""

    values: Annotated[dict[str, float], msgspec.Meta(min_length=1)]
    intervals: dict[str, tuple[float, float]] = {}
    signature: str = ""
    normalization: str = "single-spaces"  # a key of RULES
    count: int = 0  # clips
    split: str = "test"
    language: str = ""
    bad_clips: list[str] = []


def read_scores(path: Path, metrics: tuple[str, ...] = ()) -> ScoreFile:
    """The scores in a file. Raises InputError naming file and field if it is invalid or lacks one of `metrics`."""
    scores = read_settings(path, ScoreFile, "holds no scores", REMEDY)
    if scores.normalization not in RULES:
        problem = f"{scores.normalization!r} is not one of {', '.join(RULES)}"
        raise InputError(f"{path}: normalization", problem, REMEDY)
    for metric in metrics:
        if metric not in scores.values:
            raise InputError(f"{path}: values", f"has no {metric}", REMEDY)
    return scores
