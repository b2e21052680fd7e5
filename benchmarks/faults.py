"""Fault injection: damages training runs, stores, inputs and corpus making, and reports the outcomes.

    python benchmarks/faults.py training --minutes 60
    python benchmarks/faults.py stores --minutes 5
    python benchmarks/faults.py inputs --minutes 5
    python benchmarks/faults.py curation --minutes 40

Prints the number of trials, the outcomes and the longest time for every kind of fault. Exits with status 1 if an
outcome is wrong. The same seed gives the same faults.
"""

import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

sys.path[0] = str(Path(__file__).parents[1])  # the project's root instead of this file's own folder

from rich.console import Console
from rich.table import Table

from unisign_fast.evaluation.predictions import write_json
from unisign_fast.utils.console import run_command

if TYPE_CHECKING:
    from benchmarks.faults_stores import FaultRow

A_ROUND = 500  # stores or inputs
Part = Literal["training", "stores", "inputs", "curation"]


def faults(part: Part, /, minutes: float = 5, seed: int = 0, json: Path | None = None) -> None:
    """Inject faults and print the outcomes.

    Args:
        part: What to damage.
        minutes: Duration of the campaign; every kind is tried at least once.
        seed: The same seed gives the same faults.
        json: File for the rows.
    """
    run = import_module(f"benchmarks.faults_{part}").run  # late: slow, and curation needs the optional Ray
    rows = _rounds(run, minutes, seed) if part in ("stores", "inputs") else run(minutes, seed)
    Console(width=160).print(table(part, rows))
    wrong = sum(row.wrong for row in rows)
    print(f"{sum(row.tried for row in rows)} faults, {wrong} wrong")
    if json:
        write_json(
            json, [{"kind": row.kind, "outcomes": row.outcomes, "worst_seconds": row.worst_seconds} for row in rows]
        )
    if wrong:
        raise SystemExit(1)


def table(part: str, rows: "list[FaultRow]") -> Table:
    """A row for each kind: how often it was tried, its outcomes, and the worst time."""
    names = sorted({name for row in rows for name in row.outcomes})
    shown = Table(part, "tried", *names, "worst, s")
    for row in rows:
        shown.add_row(
            row.kind, str(row.tried), *(str(row.outcomes[name]) for name in names), f"{row.worst_seconds:.1f}"
        )
    return shown


def _rounds(run: "Callable[[int, int], list[FaultRow]]", minutes: float, seed: int) -> "list[FaultRow]":
    """The summed outcomes of rounds of damaged stores or inputs, for a given time."""
    from benchmarks.faults_stores import FaultRow

    rows: dict[str, FaultRow] = {}
    end = time.monotonic() + 60 * minutes
    while not rows or time.monotonic() < end:
        for row in run(A_ROUND, seed):
            total = rows.setdefault(row.kind, FaultRow(row.kind, right=row.right))
            total.outcomes += row.outcomes
            total.worst_seconds = max(total.worst_seconds, row.worst_seconds)
        seed += 1
    return list(rows.values())


if __name__ == "__main__":
    run_command(faults)
