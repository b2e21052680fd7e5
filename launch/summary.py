"""Prints a table of the runs in a folder: task, modality, metric with its signature, score, clips/s per stage.

python launch/summary.py runs/demo
"""

import sys
from pathlib import Path

from unisign_fast.utils.console import run_command


def summary(root: Path = Path("runs/demo"), /, beside: tuple[Path, ...] = (), json: Path | None = None) -> None:
    """Print the table of the fine-tuning runs in a folder; docs/evaluation.md explains its columns.

    Args:
        root: Folder of runs, or one run.
        beside: Files written by --json whose scores to show beside these.
        json: File for the rows.
    """
    from rich.console import Console

    from unisign_fast.evaluation.summary import summarise, summary_table, write_rows  # late import: keeps --help quick

    rows, skipped = summarise(root)
    for problem in skipped:
        print(f"skipped: {problem}", file=sys.stderr)
    Console().print(summary_table(str(root), rows, beside))
    if json is not None:
        write_rows(json, rows)


if __name__ == "__main__":
    run_command(summary, examples=__doc__)
