"""Scores a model on a split of a keypoint store, or existing predictions; compares two systems.

python launch/evaluate.py --model FOLDER --stores STORE --split test --out OUT
python launch/evaluate.py --model FOLDER --stores STORE --out OUT --baseline OTHER_FOLDER
python launch/evaluate.py --predictions TRANSLATIONS.jsonl --task slt
python launch/evaluate.py --predictions FILE.txt --references FILE.txt --task slt --language de
python launch/evaluate.py --predictions RUN --baseline OTHER_RUN --task slt
"""

import sys
from typing import TYPE_CHECKING

import tyro

from unisign_fast.evaluation.options import Options
from unisign_fast.utils.console import run_command

if TYPE_CHECKING:
    from unisign_fast.evaluation.session import Result


def evaluate(scoring: tyro.conf.OmitArgPrefixes[Options]) -> None:
    """Score a model (ranks share its clips) or predictions; docs/evaluation.md explains the fields."""
    from unisign_fast.evaluation.session import evaluate  # late import: keeps --help quick

    evaluate(scoring, show)


def show(result: "Result") -> None:
    """Print warnings, the clips left out, the table of scores, and how they were computed."""
    from rich.console import Console

    from unisign_fast.evaluation.score_table import score_notes, score_table

    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for problem in result.evaluation.bad_clips if result.evaluation else ():
        print(f"left out: {problem}")
    console = Console()
    console.print(score_table(result))
    console.print("\n".join(score_notes(result)), highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    run_command(evaluate, examples=__doc__)
