"""Launches, bytes and FLOPs of a micro-batch on a GPU, counted without one, and the times they predict.

    python benchmarks/launches.py                       micro-batches of stages 1, 2 and 3
    python benchmarks/launches.py --stages 1 --clips 16

The model runs forward and backward on meta tensors at mT5-Base's geometry, on the paths that a GPU takes; see
step/launch_counter.py. Times are predictions: on the GPU the longer of bytes and FLOPs of each operator at the card's
measured ceilings, on the host 6 microseconds a launch. Saved bytes are those that autograd keeps for the backward pass.
"""

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # the project's root instead of this file's own folder

import torch
from rich.console import Console
from rich.table import Table
from torch.autograd.graph import saved_tensors_hooks

from benchmarks.about import about
from benchmarks.step.job import PHASES
from benchmarks.step.launch_counter import ACCUMULATION, LaunchCounter
from benchmarks.step.phases import hooks
from benchmarks.step.synthetic import MAX_FRAMES, synthetic_step
from unisign_fast.evaluation.predictions import write_json
from unisign_fast.kernels.dispatch import as_device
from unisign_fast.kernels.launch import recording
from unisign_fast.kernels.meta import FusedAsOnCuda
from unisign_fast.model.config import ModelConfig
from unisign_fast.model.flops import forward_flops
from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.batches.packed_batch import PackedBatch
from unisign_fast.training.memory import SavedBytes
from unisign_fast.utils.console import run_command

CEILINGS = {"H100": (3.0e12, 798e12), "H200": (4.3e12, 790e12)}  # measured: bytes a second of a copy, bf16 FLOPs
HOST_SECONDS = 6e-6  # a launch
CLIPS_PER_STEP = {1: 512, 2: 128, 3: 32}  # the paper's Table 2
CLIPS_PER_MICRO_BATCH = {1: 128, 2: 64, 3: 32}  # what fits in 80 GB
P_SAMP = {1: 0.0, 2: 0.1, 3: 0.1}
CROP_SIZE = 112
WHOLE = "whole micro-batch"


@dataclass(frozen=True)
class Row:
    """One phase of a micro-batch, forward or backward, or all of it."""

    stage: int
    clips: int
    frames: int
    tokens: int
    crops: int
    phase: str
    direction: str
    launches: int
    triton: int  # of the launches
    gigabytes: float
    gflop: float
    gpu_ms: float  # predicted
    host_ms: float  # predicted
    saved_mib: float  # by autograd, of the forward pass


def count(stage: int, clips: int, config: ModelConfig, ceilings: tuple[float, float], max_frames: int) -> list[Row]:
    """Rows of the median micro-batch of a step of this stage, forward and backward, and one of all of it."""
    settings = {"vocabulary": config.mt5.vocab_size, "p_samp": P_SAMP[stage], "crop_size": CROP_SIZE}
    batches = synthetic_step(max(clips, CLIPS_PER_STEP[stage]), clips, max_frames, **settings)
    return count_batch(stage, batches[len(batches) // 2], replace(config, rgb=P_SAMP[stage] > 0), ceilings)


def count_batch(stage: int, batch: PackedBatch, config: ModelConfig, ceilings: tuple[float, float]) -> list[Row]:
    """Rows of a micro-batch, forward and backward, and one of all of it."""
    with torch.device("meta"):
        model = UniSign(config)
    model = model.to("meta", torch.bfloat16).train()
    with as_device("cuda"), recording() as recorded, FusedAsOnCuda():
        with LaunchCounter(*ceilings, lambda: len(recorded)) as counter:
            saved = SavedBytes(model, lambda: counter.phase)
            handles = hooks(model, counter.enter)
            counter.enter("pose encoder")
            with saved_tensors_hooks(saved.pack, lambda x: x):
                loss = model(batch.to("meta"))[0]
            loss.backward()
    for handle in handles:
        handle.remove()
    return _rows(stage, batch, config, counter, saved, ceilings)


def _rows(
    stage: int,
    batch: PackedBatch,
    config: ModelConfig,
    counter: LaunchCounter,
    saved: SavedBytes,
    ceilings: tuple[float, float],
) -> list[Row]:
    crops = sum(batch.crops_per_hand)
    lengths = batch.lengths, batch.prompt_lengths, batch.label_lengths
    useful = forward_flops(config, *lengths, crops, CROP_SIZE)
    useful["mT5 decoder"] += useful.pop("cross keys and values")
    sizes = stage, len(batch.lengths), sum(batch.lengths), sum(batch.label_lengths), crops
    rows = []
    order = {phase: number for number, phase in enumerate((*PHASES, ACCUMULATION))}
    for (phase, direction), tally in sorted(
        counter.tallies.items(), key=lambda one: (order[one[0][0]], one[0][1] == "backward")
    ):
        times = 1 if direction == "forward" else 2
        own_flops = max(0, times * useful.get(phase, 0) - tally.flops) if tally.custom_bytes else 0
        seconds = tally.seconds + max(tally.custom_bytes / ceilings[0], own_flops / ceilings[1])
        rows.append(
            Row(
                *sizes,
                phase,
                direction,
                tally.launches,
                tally.triton,
                (tally.bytes + tally.custom_bytes) / 1e9,
                (tally.flops + own_flops) / 1e9,
                1e3 * seconds,
                1e3 * HOST_SECONDS * tally.launches,
                saved.bytes[phase] / 2**20 if direction == "forward" else 0.0,
            )
        )
    names = "launches", "triton", "gigabytes", "gflop", "gpu_ms", "host_ms", "saved_mib"
    return [*rows, Row(*sizes, WHOLE, "both", *(sum(getattr(row, name) for row in rows) for name in names))]


def table(rows: list[Row], card: str) -> Table:
    """A line for each phase and direction."""
    first = rows[0]
    sizes = f"{first.clips} clips, {first.frames} frames, {first.tokens} tokens, {first.crops} crops"
    result = Table(title=f"Stage {first.stage}, micro-batch of {sizes}; times predicted for one {card}")
    columns = "phase", "pass", "launches", "Triton", "GB", "GFLOP", "GPU ms", "host ms", "saved MiB"
    for name in columns:
        result.add_column(name, justify="left" if name in ("phase", "pass") else "right")
    for row in rows:
        numbers = f"{row.gigabytes:.2f}", f"{row.gflop:.0f}", f"{row.gpu_ms:.2f}", f"{row.host_ms:.2f}"
        saved = f"{row.saved_mib:.0f}" if row.saved_mib else ""
        result.add_row(row.phase, row.direction, str(row.launches), str(row.triton), *numbers, saved)
    return result


def launches(
    stages: tuple[int, ...] = (1, 2, 3),
    clips: int | None = None,
    card: str = "H200",
    json: Path | None = None,
) -> None:
    """Count the launches of a micro-batch and predict its time.

    Args:
        stages: Training stages, by their sizes of a step and share of sampled frames.
        clips: Clips of a micro-batch; by default 128, 64 and 32.
        card: H100 or H200, whose measured ceilings are used.
        json: File for the rows.
    """
    rows = []
    for stage in stages:
        stage_rows = count(stage, clips or CLIPS_PER_MICRO_BATCH[stage], ModelConfig(), CEILINGS[card], MAX_FRAMES)
        Console().print(table(stage_rows, card))
        rows += stage_rows
    if json is not None:
        where = about() | {"device": f"predicted for one {card}"}
        write_json(json, [asdict(row) | where for row in rows])


if __name__ == "__main__":
    run_command(launches)
