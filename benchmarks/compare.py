"""The training step of this tree against that of another commit, in turns, on the same clips.

    python benchmarks/compare.py HEAD~3 --p-samp 0.1

The commit is unpacked into a temporary folder, with the benchmarks of this tree, so that both sides are measured by
the same script; the repository is not touched.
"""

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

sys.path[0] = str(Path(__file__).parents[1])  # the project's root in the place of this file's own folder

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.step_options import StepOptions, about, progress
from benchmarks.step_worker import ROOT, Worker
from pipelines.errors import InputError
from unisign_fast.console import run_command
from unisign_fast.predictions import write_json


@dataclass(frozen=True)
class Row:
    """One tree: medians over the turns, and how many times faster than the other commit (20, 50 and 80 %)."""

    tree: str  # "this tree", or the commit
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


def unpack(revision: str, folder: Path) -> str:
    """The files of a commit, its benchmarks replaced by this tree's, in `folder`; returns its short name."""
    git = ["git", "-C", str(ROOT)]
    named = subprocess.run(
        [*git, "rev-parse", "--verify", "--short", f"{revision}^{{commit}}"], capture_output=True, text=True
    )
    if named.returncode:
        raise InputError("REV", f"{revision} is no commit of this repository", "see git log")
    files = subprocess.run([*git, "archive", named.stdout.strip()], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(files)) as archive:
        archive.extractall(folder, filter="data")
    shutil.copytree(ROOT / "benchmarks", folder / "benchmarks", dirs_exist_ok=True)
    return named.stdout.strip()


def compare(
    rev: tyro.conf.Positional[str],
    step: tyro.conf.OmitArgPrefixes[StepOptions] = StepOptions(),
    p_samp: float = 0.1,
    json: Path | None = None,
) -> None:
    """Measure this tree against another commit.

    Args:
        rev: The commit, as git names it.
        step: How it is measured.
        p_samp: Share of frames whose hands are sampled.
        json: File for the rows.
    """
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        tree = Path(folder) / "tree"
        tree.mkdir()
        name = unpack(rev, tree)
        job = step.job(Path(folder), (p_samp,))
        trees = {name: tree, "this tree": ROOT}
        workers = {name: stack.enter_context(Worker(job, path)) for name, path in trees.items()}
        for worker in workers.values():
            worker.wait_until_ready()
        for worker in workers.values():
            worker.ask("run", steps=step.steps)  # warms up
        turns = {name: [] for name in workers}
        for number in progress(range(step.rounds), "comparing"):
            for side in workers if number % 2 else reversed(workers):
                turns[side].append(workers[side].ask("run", steps=step.steps))
        memory = {side: worker.ask("memory")["bytes"] / 2**20 for side, worker in workers.items()}
    rows = [_row(side, p_samp, turns[side], turns[name], memory[side]) for side in workers]
    table = Table(title=f"Training step, {step.recipe}, p_samp {p_samp:g}; {rows[0].device}")
    for column in ("tree", "clips/s", "peak MiB", "loss", "times faster (p20, p80)"):
        table.add_column(column, justify="left" if column == "tree" else "right")
    for row in rows:
        faster = f"{row.faster_p50:.3f} ({row.faster_p20:.3f}, {row.faster_p80:.3f})"
        table.add_row(row.tree, f"{row.clips_per_s:.3f}", f"{row.peak_mib:.0f}", f"{row.loss:.4f}", faster)
    Console().print(table)
    if json is not None:
        write_json(json, [asdict(row) for row in rows])


def _row(tree: str, p_samp: float, turns: list[dict], others: list[dict], peak_mib: float) -> Row:
    faster = [theirs["seconds"] / ours["seconds"] for theirs, ours in zip(others, turns)]
    p20, _, _, p80 = quantiles(faster, n=5, method="inclusive") if len(faster) > 1 else 4 * faster
    seconds = median(turn["seconds"] for turn in turns)
    rate = median(turn["clips"] / turn["seconds"] for turn in turns)
    loss = turns[-1]["losses"][-1]
    return Row(tree, p_samp, seconds, rate, peak_mib, loss, p20, median(faster), p80, **about())


if __name__ == "__main__":
    run_command(compare)
