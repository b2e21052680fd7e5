"""Training steps of several processes in turns, so that a machine whose speed varies does so for all of them alike."""

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.about import about
from benchmarks.step_options import StepOptions, progress
from benchmarks.step_sides import Job
from benchmarks.step_worker import Worker
from unisign_fast.evaluation.predictions import write_json


@dataclass(frozen=True)
class Row:
    """One side: medians over the turns, and how many times faster than the first side (20, 50 and 80 %)."""

    side: str
    p_samp: float
    seconds: float  # of a turn
    clips_per_s: float
    peak_mib: float
    loss: float  # of the last step
    faster_p20: float
    faster_p50: float
    faster_p80: float
    device: str
    torch: str
    commit: str
    date: str


def take_turns(workers: dict[str, Worker], options: StepOptions, title: str) -> dict[str, list[dict]]:
    """What each worker said of its turns (`Side.run`).

    On a CPU a process ends with its turn: the memory of two recipes may not fit, and memory that is given back and
    taken again comes in small pages, which training does not meet.
    """
    turns = {side: [] for side in workers}
    for number in progress(range(options.rounds), title):
        for side in workers if number % 2 else reversed(workers):
            turns[side].append(workers[side].ask("run", steps=options.steps))
            if not torch.cuda.is_available():
                workers[side].stop()
    return turns


def peak_mib(turns: list[dict]) -> float:
    """Of the GPU's memory, or of the process."""
    return max(turn["peak_bytes"] for turn in turns) / 2**20


def compare_sides(sides: dict[str, tuple[Job, Path]], options: StepOptions, column: str, json: Path | None) -> None:
    """Measure jobs, each with the code of a tree, against the first; print a row each, and write them to `json`."""
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(*side)) for name, side in sides.items()}
        turns = take_turns(workers, options, "comparing")
    first, *_ = sides
    rows = [_row(name, sides[name][0], turns[name], turns[first]) for name in sides]
    table = Table(title=f"Training step, {options.recipe}, p_samp {rows[0].p_samp:g}; {rows[0].device}")
    for name in (column, "clips/s", "peak MiB", "loss", "times faster (p20, p80)"):
        table.add_column(name, justify="left" if name == column else "right")
    for row in rows:
        faster = f"{row.faster_p50:.3f} ({row.faster_p20:.3f}, {row.faster_p80:.3f})"
        table.add_row(row.side, f"{row.clips_per_s:.3f}", f"{row.peak_mib:.0f}", f"{row.loss:.4f}", faster)
    Console().print(table)
    if json is not None:
        write_json(json, [asdict(row) for row in rows])


def _row(side: str, job: Job, turns: list[dict], others: list[dict]) -> Row:
    faster = [theirs["seconds"] / ours["seconds"] for theirs, ours in zip(others, turns)]
    p20, _, _, p80 = quantiles(faster, n=5, method="inclusive") if len(faster) > 1 else 4 * faster
    seconds = median(turn["seconds"] for turn in turns)
    rate = median(turn["clips"] / turn["seconds"] for turn in turns)
    measured = seconds, rate, peak_mib(turns), turns[-1]["losses"][-1]
    return Row(side, job.p_samp, *measured, p20, median(faster), p80, **about())
