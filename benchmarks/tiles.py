"""The graph and temporal convolutions of all body parts by tiles and traffic, counted without a GPU.

    python benchmarks/tiles.py

The stack runs forward and backward on meta tensors on the paths that a GPU takes, its launches are recorded, and each
kernel is counted with the tiles that it is launched with: multiplications of whole tiles, rows of padding and the zeros
of the block-diagonal adjacency included; bytes of its tensors, each read or written once (what DRAM must move); bytes
that its programs load, re-reads included (what L1 and L2 must deliver). Predicted: the longer of DRAM's bytes and
multiplications at an H200's measured copy and bf16 product, multiplications stretched to whole waves of programs.
"""

import math
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # the project's root instead of this file's own folder

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.about import about
from benchmarks.kernel_subjects import FRAMES, GraphStack
from benchmarks.launches import CEILINGS
from benchmarks.step.launch_counter import LaunchCounter
from unisign_fast.evaluation.predictions import write_json
from unisign_fast.kernels.dispatch import as_device
from unisign_fast.kernels.launch import Launch, recording
from unisign_fast.pipelines.skeleton import PART_JOINTS, PARTS
from unisign_fast.utils.console import run_command

BYTES_A_SECOND, FLOPS_A_SECOND = CEILINGS["H200"]
PROCESSORS = 132
ITEMSIZE = 2  # bfloat16
LIBRARY = "products by cuBLAS, and small ATen operators"
Sizes = dict[str, int]  # constants, integers, and programs `P`, of a launch


@dataclass
class Row:
    """All launches of one kernel in a forward and backward pass."""

    kernel: str
    launches: int = 0
    gmac: float = 0.0  # of whole tiles
    dram_gb: float = 0.0
    loaded_gb: float = 0.0  # by all programs
    us_a_frame: float = 0.0  # predicted


def _graph_aggregate(s: Sizes) -> tuple[int, int]:
    loads = s["USED"] * (1 + (s["KIND"] > 1)) * s["COLUMNS"]
    return _with_adjacency(s, s["K"] * s["ROWS"] ** 2 * s["COLUMNS"], loads)


def _graph_backward(s: Sizes) -> tuple[int, int]:
    x = s["K"] + 1 + (2 + (s["KIND"] == 3) if s["KIND"] else 0) + s["SHORTCUT"] + s["KEPT"]
    return _with_adjacency(s, 2 * s["K"] * s["ROWS"] ** 2 * s["COLUMNS"], x * s["USED"] * s["COLUMNS"])


def _with_adjacency(s: Sizes, macs: int, loads: int) -> tuple[int, int]:
    """Of a program, from those of a tile: it loads the adjacency once."""
    return s["tiles_a_program"] * macs, s["tiles_a_program"] * loads + s["K"] * s["ROWS"] ** 2


def _temporal_forward(s: Sizes) -> tuple[int, int]:
    depth = s["KERNEL_SIZE"] * s["C"]
    return depth * s["ROWS"] * s["OUTPUTS"], depth * (s["ROWS"] + s["OUTPUTS"])


def _temporal_input_gradient(s: Sizes) -> tuple[int, int]:
    depth = s["KERNEL_SIZE"] * s["O"]
    own = (2 if s["KIND"] else 0) * s["ROWS"] * s["INPUTS"]
    return depth * s["ROWS"] * s["INPUTS"], depth * (s["ROWS"] + s["INPUTS"]) + own


def _temporal_weight_gradient(s: Sizes) -> tuple[int, int]:
    return s["rows_a_split"] * s["OUTPUTS"] * s["INPUTS"], s["rows_a_split"] * (s["OUTPUTS"] + s["INPUTS"])


# Of one program: multiplications, and elements loaded.
PROGRAM: dict[str, Callable[[Sizes], tuple[int, int]]] = {
    "graph_conv_aggregate": _graph_aggregate,
    "graph_conv_backward": _graph_backward,
    "temporal_conv_forward": _temporal_forward,
    "temporal_conv_input_gradient": _temporal_input_gradient,
    "temporal_conv_weight_gradient": _temporal_weight_gradient,
}


def add(row: Row, launch: Launch, frames: int) -> None:
    """Count one launch. A kernel without products loads what its tensors have."""
    programs, moved = math.prod(launch.grid), launch.bytes
    macs, loaded = 0, moved
    if launch.kernel.__name__ in PROGRAM:
        sizes = {**dict(launch.constants), **launch.integers}
        program_macs, elements = PROGRAM[launch.kernel.__name__](sizes)
        macs, loaded = programs * program_macs, programs * elements * ITEMSIZE
    row.launches += 1
    row.dram_gb += moved / 1e9
    row.gmac += macs / 1e9
    row.loaded_gb += loaded / 1e9
    stretch = math.ceil(programs / PROCESSORS) / (programs / PROCESSORS)
    seconds = max(moved / BYTES_A_SECOND, 2 * macs * stretch / FLOPS_A_SECOND)
    row.us_a_frame += 1e6 * seconds / frames


def count(clips: int) -> list[Row]:
    """The kernels of the stack over clips of 240 frames, and what libraries compute, by predicted time."""
    frames = clips * FRAMES
    with torch.device("meta"):
        module = GraphStack().to("meta", torch.bfloat16)
        poses = [torch.empty(frames, len(PART_JOINTS[part]), 3, dtype=torch.bfloat16) for part in PARTS]
        bounds = torch.empty(clips + 1, dtype=torch.int64)
    with as_device("cuda"), recording() as launches:
        with LaunchCounter(BYTES_A_SECOND, FLOPS_A_SECOND, lambda: len(launches)) as counter:
            counter.enter("pose encoder")
            module(poses, bounds).sum().backward()
    rows: dict[str, Row] = {}
    for launch in launches:
        name = launch.kernel.__name__
        add(rows.setdefault(name, Row(name)), launch, frames)
    library = Row(LIBRARY)
    for tally in counter.tallies.values():
        library.launches += tally.launches - tally.triton
        library.gmac += tally.flops / 2e9
        library.dram_gb += tally.bytes / 1e9
        library.us_a_frame += 1e6 * tally.seconds / frames
    library.loaded_gb = library.dram_gb
    return sorted([*rows.values(), library], key=lambda row: -row.us_a_frame)


def tiles(clips: int = 128, json: Path | None = None) -> None:
    """Count the graph stack by tiles and traffic.

    Args:
        clips: Clips of 240 frames.
        json: File for the rows.
    """
    rows = count(clips)
    total: dict[str, float] = defaultdict(float)
    table = Table(title=f"{clips * FRAMES:,} frames, forward and backward; predicted for one H200")
    for number, name in enumerate(("kernel", "launches", "GMAC", "DRAM GB", "loaded GB", "us a frame")):
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        for name, value in list(asdict(row).items())[1:]:
            total[name] += value
        numbers = f"{row.gmac:.0f}", f"{row.dram_gb:.2f}", f"{row.loaded_gb:.2f}", f"{row.us_a_frame:.3f}"
        table.add_row(row.kernel, str(row.launches), *numbers)
    names = "gmac", "dram_gb", "loaded_gb"
    sums = [f"{total[name]:.0f}" for name in names]
    table.add_row("all", f"{total['launches']:.0f}", *sums, f"{total['us_a_frame']:.3f}")
    Console().print(table)
    if json is not None:
        where = {"clips": clips} | about() | {"device": "predicted for one H200"}
        write_json(json, [asdict(row) | where for row in rows])


if __name__ == "__main__":
    run_command(tiles)
