"""The time of a training step, operation by operation: a trace, and a table of the costliest.

python benchmarks/profile_step.py --p-samp 0.1 --trace trace.json   then open the trace in https://ui.perfetto.dev
"""

import sys
import tempfile
from pathlib import Path
from typing import Literal

sys.path[0] = str(Path(__file__).parents[1])  # the project's root instead of this file's own folder

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.about import about
from benchmarks.step.options import StepOptions, baseline
from benchmarks.step.worker import Worker
from unisign_fast.evaluation.predictions import write_json
from unisign_fast.pipelines.errors import InputError
from unisign_fast.utils.console import run_command


def profile_step(
    step: tyro.conf.OmitArgPrefixes[StepOptions] = StepOptions(),
    p_samp: float = 0.1,
    candidate: Literal["fast", "baseline"] = "fast",
    trace: Path = Path("trace.json"),
    top: int = 25,
    json: Path | None = None,
) -> None:
    """Profile the training step.

    Args:
        step: How it is measured; `trials` steps warm up.
        p_samp: Share of frames whose hands are sampled.
        candidate: This project's step, or the published one.
        trace: File for the trace.
        top: Operations to show.
        json: File for the rows.
    """
    if not trace.resolve().parent.is_dir():
        raise InputError("--trace", f"there is no folder {trace.resolve().parent}", "create it, or name another folder")
    with tempfile.TemporaryDirectory() as folder:
        job = step.job(Path(folder), (p_samp,))
        with Worker(job if candidate == "fast" else baseline(job)) as worker:
            reply = worker.ask("profile", warm_up=step.trial_count, steps=step.steps, trace=str(trace.resolve()))
    total = sum(ms for _, _, ms in reply["operations"])
    names = "operation", "calls", "own ms", "share"
    rows = [dict(zip(names, (*one, one[2] / total))) for one in reply["operations"]]
    table = Table(title=f"{step.steps} step(s), {candidate} recipe, p_samp {p_samp:g}; {about()['device']}")
    for name in names:
        table.add_column(name, justify="left" if name == "operation" else "right")
    for row in rows[:top]:
        table.add_row(row["operation"], str(row["calls"]), f"{row['own ms']:.2f}", f"{row['share']:.1%}")
    Console().print(table)
    print(f"trace: {trace}")
    if json is not None:
        write_json(json, about() | {"candidate": candidate, "p_samp": p_samp, "rows": rows})


if __name__ == "__main__":
    run_command(profile_step)
