"""The whole training step, data in, forward, backward and optimiser, beside the published code's, on a GPU or a CPU.

    python benchmarks/throughput.py --p-samp 0.1
    python benchmarks/throughput.py --p-samp 0,0.1,0.25,0.5,1 --picture rgb.png   the trade-off of the paper's Table 9
    python benchmarks/throughput.py --draw-rows ROWS --picture rgb.png            of rows that --json wrote

Candidate and baseline (step/candidates.py) run interleaved trials on the same clips, frames and hands, each in a
process of its own that first takes as many steps as are measured. The medians of the trials are compared.
"""

import json as json_format
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

sys.path[0] = str(Path(__file__).parents[1])  # the project's root instead of this file's own folder

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.about import about
from benchmarks.step.interleaved import interleaved, peak_mib
from benchmarks.step.job import PHASES, Job
from benchmarks.step.options import StepOptions, baseline, progress
from benchmarks.step.worker import Worker
from unisign_fast.evaluation.predictions import write_json
from unisign_fast.pipelines.errors import InputError
from unisign_fast.utils.console import run_command

PEAK_TFLOPS = {"H100": 989, "H200": 989, "A100": 312}  # dense bfloat16, by NVIDIA's data sheets
PAPER = {0.0: 1.0, 0.1: 1.3, 0.25: 1.7, 0.5: 2.2}  # Table 9: training time relative to pose-only
CANDIDATES = ("fast", "baseline")


@dataclass(frozen=True)
class Row:
    """One recipe at one share of sampled frames; rates are medians over the trials."""

    candidate: str  # fast, or baseline: the published step
    recipe: str
    stage: int
    p_samp: float
    unique_share: float  # share of the frames' hands, since drawing is with replacement
    crops: str
    kernels: str
    precision: str
    zero_stage: int
    vocabulary: int
    clips_per_step: int
    clips_per_micro_batch: int
    clips_per_s: float
    frames_per_s: float
    tokens_per_s: float
    gflop_per_s: float  # useful ones (unisign_fast/model/flops.py)
    utilisation: float | None  # of the stated peak
    peak_tflops: float | None
    peak_mib: float  # of the GPU's memory, or of the process
    padding: float  # share of the positions that mT5's encoder computes
    phases: dict[str, float]  # shares of the time
    times_faster: float  # than the baseline, median of the trials
    memory_share: float  # of the baseline's
    loss: float  # of the last step
    device: str
    torch: str
    commit: str
    date: str


def measure(job: Job, options: StepOptions, peak_tflops: float | None) -> list[Row]:
    """The rows of both recipes at the job's share."""
    jobs = {"fast": job, "baseline": baseline(job)}
    with ExitStack() as stack:
        workers = {candidate: stack.enter_context(Worker(jobs[candidate])) for candidate in CANDIDATES}
        trials = interleaved(workers, options, f"p_samp {job.p_samp:g}")
        phases = {}
        for candidate, worker in workers.items():
            progress(f"p_samp {job.p_samp:g}: time of the phases, {candidate}")
            phases[candidate] = worker.ask("phases", steps=options.steps)
            worker.stop()
    memory = {candidate: peak_mib(trials[candidate]) for candidate in CANDIDATES}
    result = []
    for candidate in CANDIDATES:
        pairs = zip(trials["baseline"], trials[candidate])
        faster = median(theirs["seconds"] / ours["seconds"] for theirs, ours in pairs)
        share = memory[candidate] / memory["baseline"]
        measurements = trials[candidate], phases[candidate], memory[candidate], faster, share
        result.append(_row(jobs[candidate], *measurements, peak_tflops))
    return result


def _row(
    job: Job, trials: list[dict], phases: dict, mib: float, faster: float, share: float, peak: float | None
) -> Row:
    def rate(what: str) -> float:
        return median(trial[what] / trial["seconds"] for trial in trials)

    seconds = phases["seconds"]
    crops, frames = (sum(trial[what] for trial in trials) for what in ("crops", "frames"))
    settings = {name: value for name, value in asdict(job).items() if name in Row.__dataclass_fields__}
    settings |= {"crops": job.data.crops}
    return Row(
        **settings,
        unique_share=crops / (2 * frames),
        clips_per_s=rate("clips"),
        frames_per_s=rate("frames"),
        tokens_per_s=rate("tokens"),
        gflop_per_s=rate("flops") / 1e9,
        utilisation=rate("flops") / 1e12 / peak if peak else None,
        peak_tflops=peak,
        peak_mib=mib,
        padding=phases["padding"],
        phases={name: seconds.get(name, 0.0) / sum(seconds.values()) for name in PHASES},
        times_faster=faster,
        memory_share=share,
        loss=trials[-1]["losses"][-1],
        **about(),
    )


def known_peak(precision: str) -> float | None:
    """TFLOP/s of the current GPU in dense bfloat16; None for unknown GPUs, for float32 and for a CPU."""
    name = about()["device"]
    return next((peak for known, peak in PEAK_TFLOPS.items() if known in name and precision == "bf16"), None)


def tables(rows: list[Row]) -> Iterator[Table]:
    """Rates, the time of the phases, and, where pose-only was measured too, the cost of RGB."""
    row = rows[0]
    sizes = f"{row.clips_per_step} clips a step, {row.clips_per_micro_batch} at once, {row.vocabulary} classes"
    numbers = f"{row.precision}, ZeRO {row.zero_stage}, {row.kernels} kernels"
    title = f"Training step, {row.recipe} stage {row.stage}, {sizes}, {numbers}; {row.device}"
    names = "p_samp", "recipe", "clips/s", "frames/s", "tokens/s", "GFLOP/s", "of peak", "peak MiB", "padding"
    rates = _table(title, *names, "times faster", "memory")
    for row in rows:
        use = "" if row.utilisation is None else f"{row.utilisation:.1%} of {row.peak_tflops:g} TFLOP/s"
        values = (
            f"{row.clips_per_s:.3f}",
            f"{row.frames_per_s:.0f}",
            f"{row.tokens_per_s:.1f}",
            f"{row.gflop_per_s:.0f}",
        )
        compared = f"{row.times_faster:.2f}", f"{row.memory_share:.2f}"
        rates.add_row(
            f"{row.p_samp:g}", row.candidate, *values, use, f"{row.peak_mib:.0f}", f"{row.padding:.1%}", *compared
        )
    yield rates
    shares = _table("Share of the time, %, with waiting for the device between phases", "p_samp", "recipe", *PHASES)
    for row in rows:
        shares.add_row(f"{row.p_samp:g}", row.candidate, *(f"{100 * row.phases[name]:.1f}" for name in PHASES))
    yield shares
    if costs := cost_of_rgb(rows):
        names = "nominal share", "unique share", *CANDIDATES, "paper, Table 9"
        trade_off = _table("Time of a step relative to pose-only", *names)
        for p_samp, unique, ours, theirs in costs:
            paper = f"{PAPER[p_samp]:.1f}" if p_samp in PAPER else "none"
            trade_off.add_row(f"{p_samp:.0%}", f"{unique:.1%}", f"{ours:.2f}", f"{theirs:.2f}", paper)
        yield trade_off


def cost_of_rgb(rows: list[Row]) -> list[tuple[float, float, float, float]]:
    """For each share of frames: nominal, unique, and time per clip relative to pose-only of both recipes.

    Empty without a pose-only row.
    """
    result = {(row.candidate, row.p_samp): row for row in rows}
    shares = sorted({row.p_samp for row in rows})
    if shares[0] > 0 or len(shares) == 1:
        return []

    def cost(candidate: str, p_samp: float) -> float:
        return result[candidate, 0.0].clips_per_s / result[candidate, p_samp].clips_per_s

    return [(p, result["fast", p].unique_share, *(cost(candidate, p) for candidate in CANDIDATES)) for p in shares]


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for name in columns:
        table.add_column(name, justify="left" if name == "recipe" else "right")
    return table


def draw(rows: list[Row], file: Path) -> None:
    """Clips a second and the cost of RGB against the nominal share of frames."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (speed, cost) = pyplot.subplots(1, 2, figsize=(11, 4.2))
    for candidate, marker in zip(CANDIDATES, "os"):
        mine = sorted((row.p_samp, row.clips_per_s) for row in rows if row.candidate == candidate)
        speed.plot([100 * p for p, _ in mine], [rate for _, rate in mine], marker=marker, label=candidate)
    costs = cost_of_rgb(rows)
    for number, (candidate, marker) in enumerate(zip(CANDIDATES, "os"), 2):
        cost.plot([100 * one[0] for one in costs], [one[number] for one in costs], marker=marker, label=candidate)
    cost.plot([100 * p for p in PAPER], PAPER.values(), "k^--", label="paper, Table 9")
    speed.set(xlabel="p_samp, % of frames (nominal)", ylabel="clips/s", ylim=(0, None))
    cost.set(xlabel="p_samp, % of frames (nominal)", ylabel="time relative to pose-only", ylim=(0, None))
    for axes in (speed, cost):
        axes.grid(alpha=0.3)
        axes.legend()
    row = rows[0]
    figure.suptitle(f"{row.recipe}, stage {row.stage}, {row.precision}; {row.device}, commit {row.commit}")
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def throughput(
    step: tyro.conf.OmitArgPrefixes[StepOptions] = StepOptions(),
    p_samp: str = "0.1",
    peak_tflops: float | None = None,
    json: Path | None = None,
    picture: Path | None = None,
    draw_rows: Path | None = None,
) -> None:
    """Measure the training step, this project's and the published one.

    Args:
        step: How it is measured.
        p_samp: Share of frames whose hands are sampled, or several, as 0,0.1,0.25,0.5,1.
        peak_tflops: What the hardware could do; known of some GPUs in bf16.
        json: File for the rows.
        picture: File for the picture: clips/s and the cost of RGB.
        draw_rows: Measure nothing; take the rows that --json wrote.
    """
    if draw_rows is not None:
        rows = [Row(**row) for row in json_format.loads(draw_rows.read_text(encoding="utf-8"))]
    else:
        rows = []
        with tempfile.TemporaryDirectory() as folder:
            shares = _shares(p_samp)
            job = step.job(Path(folder), shares)
            peak = peak_tflops or known_peak(job.precision)
            for share in shares:
                rows += measure(replace(job, p_samp=share), step, peak)
                if json is not None:  # after each, so that a run cut short keeps what it has
                    write_json(json, [asdict(row) for row in rows])
    console = Console(width=None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", 160)))
    for table in tables(rows):
        console.print(table)
    if picture is not None:
        draw(rows, picture)


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        raise InputError("--p-samp", f"{text!r} is not a list of numbers", "write 0.1, or 0,0.1,0.25") from None


if __name__ == "__main__":
    run_command(throughput)
