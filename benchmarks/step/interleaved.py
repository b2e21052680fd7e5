"""Interleaved trials of several processes, so that a machine whose speed drifts affects all of them alike."""

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

from rich.console import Console
from rich.table import Table

from benchmarks.about import about, on_gpu
from benchmarks.step.job import Job
from benchmarks.step.options import StepOptions, progress
from benchmarks.step.worker import Worker
from unisign_fast.evaluation.predictions import write_json


@dataclass(frozen=True)
class Row:
    """One candidate: medians over the trials, and the speed-up over the first candidate (20, 50 and 80 %)."""

    candidate: str
    p_samp: float
    seconds: float  # of a trial
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


def interleaved(workers: dict[str, Worker], options: StepOptions, title: str) -> dict[str, list[dict]]:
    """The replies of each worker to its trials (`Candidate.run`), with a line of progress after each.

    On a CPU a process ends with its trial: the memory of two recipes may not fit, and memory that is released and
    allocated again comes in small pages, which a training run does not see.
    """
    trials = {candidate: [] for candidate in workers}
    for number in range(options.trial_count):
        for candidate in workers if number % 2 else reversed(workers):
            progress(f"{title}: trial {number + 1} of {options.trial_count}, {candidate}: start, warm up, measure")
            trials[candidate].append(workers[candidate].ask("run", steps=options.steps))
            progress(f"    {trials[candidate][-1]['seconds']:.1f} s for {options.steps} step(s)")
            if not on_gpu():
                workers[candidate].stop()
    return trials


def peak_mib(trials: list[dict]) -> float:
    """Peak memory in MiB: the GPU's, or the process's."""
    return max(trial["peak_bytes"] for trial in trials) / 2**20


def compare_candidates(
    candidates: dict[str, tuple[Job, Path]], options: StepOptions, column: str, json: Path | None
) -> None:
    """Measure jobs, each with the code of a tree, against the first; print a row each, and write them to `json`."""
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(*candidate)) for name, candidate in candidates.items()}
        trials = interleaved(workers, options, "comparing")
    first, *_ = candidates
    rows = [_row(name, candidates[name][0], trials[name], trials[first]) for name in candidates]
    table = Table(title=f"Training step, {options.recipe}, p_samp {rows[0].p_samp:g}; {rows[0].device}")
    for name in (column, "clips/s", "peak MiB", "loss", "times faster (p20, p80)"):
        table.add_column(name, justify="left" if name == column else "right")
    for row in rows:
        faster = f"{row.faster_p50:.3f} ({row.faster_p20:.3f}, {row.faster_p80:.3f})"
        table.add_row(row.candidate, f"{row.clips_per_s:.3f}", f"{row.peak_mib:.0f}", f"{row.loss:.4f}", faster)
    Console().print(table)
    if json is not None:
        write_json(json, [asdict(row) for row in rows])


def _row(candidate: str, job: Job, trials: list[dict], others: list[dict]) -> Row:
    faster = [theirs["seconds"] / ours["seconds"] for theirs, ours in zip(others, trials)]
    p20, _, _, p80 = quantiles(faster, n=5, method="inclusive") if len(faster) > 1 else 4 * faster
    seconds = median(trial["seconds"] for trial in trials)
    rate = median(trial["clips"] / trial["seconds"] for trial in trials)
    measured = seconds, rate, peak_mib(trials), trials[-1]["losses"][-1]
    return Row(candidate, job.p_samp, *measured, p20, median(faster), p80, **about())
