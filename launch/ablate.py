"""The paper's experiments at demo size: Tables 7, 8, 9, 10, 13 (trained) and 12 (parameters, counted).

python launch/ablate.py 13
python launch/ablate.py 12
"""

from pathlib import Path
from typing import Literal

from unisign_fast.pipelines.errors import InputError
from unisign_fast.utils.console import run_command


def ablate(
    table: Literal[7, 8, 9, 10, 12, 13],
    /,
    seeds: tuple[int, ...] = (0, 1, 2),
    epochs: tuple[int, int, int] = (8, 4, 3),
    clips: int = 400,
    out: Path = Path("runs/ablate"),
    json: Path | None = None,
) -> None:
    """Train a table's runs on a demo corpus and print the paper's rows beside ours.

    Finished runs are reused by every table that needs them; an interrupted call resumes where it stopped.

    Args:
        table: Number of the paper's table. 7: fine-tuning paradigm; 8: share of the pre-training data; 9: p_samp; 10:
            fusion module; 12: parameters, which trains nothing; 13: sub-poses.
        seeds: Seeds of all training; the corpus stays the same.
        epochs: Epochs of stages 1, 2 and 3.
        clips: Clips of the demo corpus, half sentences, half words.
        out: Folder for the corpus and the runs.
        json: File for the numbers.
    """
    if min(epochs) < 1 or not seeds:
        raise InputError("--epochs" if seeds else "--seeds", "is below 1 or empty", "give 1 or more")
    from unisign_fast.paper import tables  # late import: torch takes seconds, which would slow --help

    if table == 12:
        tables.report_parameters(json)
    else:
        tables.report_ablation(table, seeds, epochs, clips, out, json)


if __name__ == "__main__":
    run_command(ablate, examples=__doc__)
