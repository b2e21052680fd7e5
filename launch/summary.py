"""Prints one table of the runs below a folder: task, modality, metric with its signature, score, clips/s per stage.

    python launch/summary.py runs/demo
"""

from pathlib import Path

from rich.console import Console

from unisign_fast.console import run_command
from unisign_fast.summary import summary_table


def summary(root: Path = Path("runs/demo"), /) -> None:
    """Print the table of the runs below a folder.

    Args:
        root: Folder of runs.
    """
    Console().print(summary_table(root))


if __name__ == "__main__":
    run_command(summary)
