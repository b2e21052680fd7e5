"""How training scales over GPUs: predicted from counted bytes and assumed speeds, and measured with two ranks on CPU.

    python benchmarks/scaling.py               the base recipe on 1 to 64 GPUs, predicted; needs no GPU
    python benchmarks/scaling.py --measure     one rank against two on CPU, by torchrun and by DeepSpeed's launcher
    python benchmarks/scaling.py --overhead    DeepSpeed's ZeRO 0 to 3 against a plain PyTorch loop, one rank

Strong scaling divides the clips of the recipe's optimiser step among the GPUs; weak scaling keeps the
clips per GPU of the published four. What a rank sends is tested against the calls that DeepSpeed makes
(tests/benchmarks/test_scaling.py).
"""

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from math import ceil
from pathlib import Path
from statistics import median
from typing import Literal

sys.path[0] = str(Path(__file__).parents[1])  # the project's root instead of this file's own folder

import torch
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.scaling_runs import (
    COLLECTIVES,
    MICRO_BATCHES,
    ZERO_STAGES,
    large_share,
    launched_rows,
    measure,
    moment_reductions,
)
from unisign_fast.evaluation.predictions import write_json
from unisign_fast.model.flops import TRAINING, forward_flops
from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.errors import InputError
from unisign_fast.training.memory import PUBLISHED_CLIPS
from unisign_fast.training.recipes import BASE, default_settings
from unisign_fast.utils.console import run_command
from unisign_fast.utils.distributed import start_ranks

STAGES = (1, 2, 3)
FRAMES, TOKENS, PROMPT = 240, 40, 12  # of every clip: 9.5 s at 25 frames/s, the paper's mean text
PUBLISHED_GPUS = 4
NODE = 8  # GPUs
SUSTAINED = 445e12  # FLOP/s of a GPU: 45 % of an H100's or H200's dense bf16 peak, the goal; not measured
LINK_USE = 0.8  # of a link's nominal speed that a collective reaches
NVLINK = 450e9  # bytes/s that a GPU sends: NVLink 4
NETWORKS = {"InfiniBand": 8 * 50e9, "Ethernet": 12.5e9}  # bytes/s that a node sends: 8 x 400 Gbit/s, 1 x 100 Gbit/s
LATENCY = {"node": 20e-6, "InfiniBand": 60e-6, "Ethernet": 150e-6}  # seconds of an all-reduce of a few kilobytes
GPUS = {"node": (1, 2, 4, NODE), "InfiniBand": (16, 32, 64), "Ethernet": (16, 32, 64)}
SHOWN = (("node", 2), ("node", NODE), ("InfiniBand", 16), ("InfiniBand", 64), ("Ethernet", 16), ("Ethernet", 64))
BF16 = 2  # bytes of a transmitted weight or gradient
STATE_BYTES = {0: (16, 0), 1: (6, 12), 2: (2, 16), 3: (0, 18)}  # a parameter: on every GPU, and shared out


@dataclass(frozen=True)
class Work:
    """Work of a training clip or micro-batch in a stage of the base recipe."""

    parameters: int
    large: float  # share of the parameters that ZeRO-3 gathers in every micro-batch
    flops: int  # useful ones of training on a clip, forward and backward
    reductions: int  # small all-reduces of a micro-batch: batch statistics


@dataclass(frozen=True)
class Row:
    """One predicted optimiser step. Seconds; efficiencies are shares of linear scaling."""

    scaling: Literal["strong", "weak"]
    network: str  # between nodes; "node" for one node
    stage: int
    zero: int
    gpus: int
    clips_per_gpu: float
    micro_batches: int
    gb_sent: float  # by a GPU: gradients and weights
    state_gb: float  # on a GPU: weights, gradients, optimiser
    compute_s: float
    transfer_s: float
    latency_s: float
    efficiency: float  # nothing overlapped
    efficiency_overlapped: float  # all transfers overlapped that can be
    clips_per_s: float  # nothing overlapped


@cache
def count_work(stage: int) -> Work:
    """Counted from the stage's model, built on the meta device."""
    settings = default_settings("base", "paper", stage)
    config = replace(BASE.model, rgb=settings.rgb)
    with torch.device("meta"):
        model = UniSign(config)
    crops = 2 * int(FRAMES * settings.data.p_samp)
    forward = forward_flops(config, [FRAMES], [PROMPT], [TOKENS], crops, settings.data.crop_size)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Work(parameters, large_share(model), TRAINING * sum(forward.values()), moment_reductions(model))


def predict(scaling: str, network: str, stage: int, zero: int, gpus: int, flops: float) -> Row | None:
    """One step of a stage at `flops` FLOP/s a GPU; None where there are more GPUs than clips."""
    train, work = BASE.stages[stage], count_work(stage)
    clips = train.clips_per_step / (gpus if scaling == "strong" else PUBLISHED_GPUS)
    if clips < 1:
        return None
    micro_batches = ceil(clips / PUBLISHED_CLIPS[stage])
    compute = clips * work.flops / flops
    sent = [BF16 * work.parameters * times for times in COLLECTIVES[zero].sent(gpus, micro_batches, work.large)]
    # Rings: the slowest link is one GPU's NVLink, or all that leaves a node, through which every ring passes once.
    speed = LINK_USE * min(NVLINK, NETWORKS.get(network, NVLINK))
    gradients, weights = (size / speed for size in sent)
    latency = LATENCY[network] * work.reductions * micro_batches if gpus > 1 else 0.0
    # Gradients overlap with the backward pass that computes them, ZeRO-3's weights with everything, other weights with
    # nothing.
    backward = 2 / 3 * compute / (1 if COLLECTIVES[zero].every_micro_batch else micro_batches)
    exposed = max(gradients - backward, 0) + (max(weights - compute, 0) if zero == 3 else weights)
    everywhere, shared = STATE_BYTES[zero]
    whole = compute + latency + gradients + weights
    return Row(
        scaling=scaling,
        network=network,
        stage=stage,
        zero=zero,
        gpus=gpus,
        clips_per_gpu=clips,
        micro_batches=micro_batches,
        gb_sent=sum(sent) / 1e9,
        state_gb=work.parameters * (everywhere + shared / gpus) / 1e9,
        compute_s=compute,
        transfer_s=gradients + weights,
        latency_s=latency,
        efficiency=compute / whole,
        efficiency_overlapped=compute / (compute + latency + exposed),
        clips_per_s=clips * gpus / whole,
    )


def predicted(flops: float) -> list[Row]:
    """Every combination that is possible."""
    places = [(network, gpus) for network, numbers in GPUS.items() for gpus in numbers]
    rows = [
        predict(scaling, network, stage, zero, gpus, flops)
        for scaling in ("strong", "weak")
        for stage in STAGES
        for zero in ZERO_STAGES
        for network, gpus in places
    ]
    return [row for row in rows if row is not None]


def assumptions(flops: float) -> Iterator[str]:
    """The assumptions behind the figures, one per line."""
    yield f"{flops / 1e12:.0f} TFLOP/s a GPU of useful work at any micro-batch; not measured"
    yield f"every clip {FRAMES} frames, {TOKENS} target and {PROMPT} prompt tokens; equal work for all ranks"
    for stage in STAGES:
        work, train = count_work(stage), BASE.stages[stage]
        counted = f"{work.parameters / 1e6:.1f} M parameters, {work.flops / 1e9:.0f} GFLOP a clip"
        yield f"stage {stage}: {counted}, {train.clips_per_step} clips a step"
        yield f"stage {stage}: {work.reductions} reductions of batch statistics a micro-batch"
    yield f"a GPU sends {NVLINK / 1e9:.0f} GB/s by NVLink, a node of {NODE} " + ", ".join(
        f"{speed / 1e9:g} GB/s by {name}" for name, speed in NETWORKS.items()
    )
    yield f"collectives are rings and reach {LINK_USE:.0%} of that; weights and gradients travel in bf16"
    yield "DeepSpeed 0.19 all-reduces gradients: once a step in ZeRO 0 and 1, in every micro-batch in ZeRO 2"
    yield "ZeRO 1 to 3 gather the weights once a step, ZeRO 3 the large ones in every micro-batch"
    small = ", ".join(f"{1e6 * seconds:.0f} us ({name})" for name, seconds in LATENCY.items())
    yield f"these reductions go over all ranks, small and each waited for: {small}"
    yield "efficiency: nothing overlapped, as the engine is set for ZeRO 0 to 2, to all transfers hidden that can be"
    yield "left out: the optimiser's own time, latency of large collectives, waiting for input or for the slowest rank"


def figures(title: str, *columns: str) -> Table:
    """An empty table."""
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, justify="right")
    return table


def report_predicted(flops: float) -> list[Row]:
    """Assumptions, what a GPU holds and sends, and the efficiencies."""
    rows, console = predicted(flops), Console()
    console.print("Assumptions", *assumptions(flops), sep="\n  ", highlight=False, soft_wrap=True)
    places = {(row.scaling, row.network, row.stage, row.zero, row.gpus): row for row in rows}
    title = f"A step on one GPU of {NODE}, strong scaling; GB held and sent, milliseconds"
    names = "clips", "batches", "held", "sent", "compute", "transfer", "latency", "clips/s"
    table = figures(title, "stage", "ZeRO", *names)
    for stage in STAGES:
        for zero in ZERO_STAGES:
            row = places["strong", "node", stage, zero, NODE]
            times = (f"{1e3 * seconds:.1f}" for seconds in (row.compute_s, row.transfer_s, row.latency_s))
            sizes = f"{row.clips_per_gpu:g}", str(row.micro_batches), f"{row.state_gb:.1f}", f"{row.gb_sent:.2f}"
            table.add_row(str(stage), str(zero), *sizes, *times, f"{row.clips_per_s:.0f}")
    console.print(table)
    for scaling in ("strong", "weak"):
        titles = (f"{gpus}" if network == "node" else f"{gpus}\n{network}" for network, gpus in SHOWN)
        table = figures(f"Efficiency, {scaling} scaling, percent, by number of GPUs", "stage", "ZeRO", *titles)
        for stage in STAGES:
            for zero in ZERO_STAGES:
                result = (places.get((scaling, network, stage, zero, gpus)) for network, gpus in SHOWN)
                cells = (f"{100 * r.efficiency:.0f}-{100 * r.efficiency_overlapped:.0f}" if r else "-" for r in result)
                table.add_row(str(stage), str(zero), *cells)
        console.print(table)
    return rows


def report_measured() -> list[dict]:
    """One rank against two; every step on CPU, and all ranks on this machine's cores."""
    table = figures(
        f"Demo model, {MICRO_BATCHES} micro-batches a step, CPU, gloo", "launcher", "way", "ranks", "scaling",
        "clips", "ms", "clips/s", "of one's",
    )  # fmt: skip
    rows, alone = [], {}
    for launcher, result in track(launched_rows(), "measuring", total=3, console=Console(stderr=True)):
        for row in result:
            ms, clips = median(row["ms"]), row["clips"] * row["ranks"]
            rate = 1e3 * clips / ms
            if row["ranks"] == 1:
                alone[row["way"]] = rate
            cells = str(row["ranks"]), row["scaling"], str(clips), f"{ms:.0f}", f"{rate:.1f}"
            table.add_row(launcher, row["way"], *cells, f"{rate / alone[row['way']]:.2f}")
            rows.append(row | {"launcher": launcher})
    Console().print(table)
    return rows


def report_overhead() -> list[dict]:
    """Ratios to the plain loop's step of the same round."""
    rows = measure(start_ranks(), rounds=15)
    plain = next(row["ms"] for row in rows if row["way"] == "plain")
    table = figures("An optimiser step of the demo model, one rank", "way", "ms", "to plain", "least", "most")
    for row in rows:
        ratios = [ms / base for ms, base in zip(row["ms"], plain)]
        cells = (f"{ratio:.2f}" for ratio in (median(ratios), min(ratios), max(ratios)))
        table.add_row(row["way"], f"{median(row['ms']):.0f}", *cells)
    Console().print(table)
    return rows


def scaling(
    measure: bool = False, overhead: bool = False, tflops: float = SUSTAINED / 1e12, json: Path | None = None
) -> None:
    """Predict strong and weak scaling of the base recipe to 64 GPUs, or measure on this machine.

    Args:
        measure: Time real steps with one and with two ranks instead, about three minutes.
        overhead: Time DeepSpeed's ZeRO stages against a plain loop instead.
        tflops: Useful TFLOP/s that a GPU sustains in training.
        json: File to write the rows to.
    """
    if measure and overhead:
        raise InputError("--overhead", "does not go with --measure", "give one of them")
    if tflops <= 0:
        raise InputError("--tflops", f"{tflops} is not valid", "give a number above 0")
    if measure:
        rows = report_measured()
    elif overhead:
        rows = report_overhead()
    else:
        rows = [asdict(row) for row in report_predicted(1e12 * tflops)]
    if json is not None:
        write_json(json, {"rows": rows})


if __name__ == "__main__":
    run_command(scaling)
