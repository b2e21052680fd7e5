"""The kernels against the PyTorch reference, eager and compiled, forward and backward, at training sizes.

    python benchmarks/kernels.py                  times them on the GPU at hand
    python benchmarks/kernels.py --compile-only   registers, spills, shared memory on GPUs that need not be there
    python benchmarks/kernels.py --count          bytes, FLOPs and the shortest possible time of each operation

An operation whose numbers are wrong is not timed.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.pop(0)  # this file's own folder, in which `kernels` would be this very file

import torch
from rich.console import Console
from rich.table import Table

from kernels.aot import compile_all
from kernels.registry import Case, KernelSpec, kernels
from kernels.testing import check, leaves, make_inputs
from pipelines.errors import InputError
from unisign_fast.console import run_command
from unisign_fast.predictions import write_json

# One H200, measured: copying, and dense bfloat16 products.
BYTES_A_SECOND, FLOPS_A_SECOND = 4.3e12, 790e12
PASSES = ("forward", "backward")
DTYPE = torch.bfloat16
WARM_UP, REPEATS = 5, 30
CACHE_BYTES = 256 << 20  # written between repeats: more than any GPU's cache


@dataclass(frozen=True)
class Row:
    """One timing."""

    operation: str
    case: str
    provider: str  # eager, compiled or triton
    direction: str
    p20_ms: float
    p50_ms: float
    p80_ms: float
    peak_mib: float
    gb_per_s: float
    tflop_per_s: float
    of_roofline: float  # the shortest possible time over the median
    gpu: str
    torch: str
    triton: str
    commit: str


def work(spec: KernelSpec, case: Case, direction: str) -> tuple[int, int]:
    """Useful bytes and FLOPs of one pass in bfloat16."""
    if direction == "forward":
        return spec.bytes(case.shape, 2), spec.flops(case.shape)
    return spec.backward_bytes(case.shape, 2), spec.backward_flops(case.shape)


def roofline_seconds(moved: int, flops: int) -> float:
    """The shortest time on an H200: whichever of memory and tensor cores takes longer."""
    return max(moved / BYTES_A_SECOND, flops / FLOPS_A_SECOND)


def repeat_ms(function: Callable[[], object], device: str) -> list[float]:
    """Milliseconds of single calls, each with cold caches on a GPU."""
    flush = torch.empty(CACHE_BYTES if device == "cuda" else 1, dtype=torch.uint8, device=device)
    times = []
    for number in range(WARM_UP + REPEATS):
        flush.zero_()
        if device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            function()
            end.record()
            torch.cuda.synchronize()
            elapsed = start.elapsed_time(end)
        else:
            begin = time.perf_counter()
            function()
            elapsed = 1e3 * (time.perf_counter() - begin)
        if number >= WARM_UP:
            times.append(elapsed)
    return times


def measure(spec: KernelSpec, case: Case, device: str, providers: dict[str, Callable]) -> Iterator[Row]:
    """Rows of every provider and direction; the providers take the operation's arguments."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    versions = {"torch": torch.__version__, "triton": _triton_version(), "commit": commit}
    gpu = torch.cuda.get_device_name() if device == "cuda" else "none"
    for provider, operation in providers.items():
        inputs = make_inputs(spec, case.shape, DTYPE, device)
        out = operation(*inputs)
        upstream = torch.randn_like(out)
        calls = {
            "forward": lambda: operation(*inputs),
            "backward": lambda: torch.autograd.grad(out, leaves(inputs), upstream, retain_graph=True),
        }
        for direction in PASSES:
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            times = repeat_ms(calls[direction], device)
            p20, _, _, p80 = statistics.quantiles(times, n=5)
            p50 = statistics.median(times)
            moved, flops = work(spec, case, direction)
            peak = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 0.0
            rates = moved / p50 / 1e6, flops / p50 / 1e9, 1e3 * roofline_seconds(moved, flops) / p50
            yield Row(spec.name, case.reason, provider, direction, p20, p50, p80, peak, *rates, gpu=gpu, **versions)


def _triton_version() -> str:
    import triton

    return triton.__version__


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title)
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number < 3 else "right")
    return table


def _count() -> None:
    columns = ("operation", "sizes", "pass", "MB", "GFLOP", "FLOP a byte", "H200 roofline, us")
    table = _table("Useful work in bfloat16; 4.3 TB/s and 790 TFLOP/s", columns)
    for spec in kernels():
        for case in spec.training:
            for direction in PASSES:
                moved, flops = work(spec, case, direction)
                shortest = 1e6 * roofline_seconds(moved, flops)
                numbers = f"{moved / 1e6:.1f}", f"{flops / 1e9:.2f}", f"{flops / moved:.0f}", f"{shortest:.1f}"
                table.add_row(spec.name, case.reason, direction, *numbers)
    Console().print(table)


def _compile_only(json: Path | None) -> None:
    os.environ["TRITON_INTERPRET"] = "0"
    columns = ("kernel", "type", "tensor cores", "sm", "warps", "registers", "spilled bytes", "shared bytes", "fits")
    table, rows = _table("Compiled for GPUs, without one", columns), []
    for row in compile_all(kernels()):
        rows.append(asdict(row))
        numbers = (row.capability, row.warps, row.registers, row.spilled, row.shared, "yes" if row.fits else "NO")
        table.add_row(row.kernel, row.dtype, row.tensor_cores, *map(str, numbers))
    Console().print(table)
    if json is not None:
        write_json(json, rows)


def _profile(json: Path | None) -> None:
    if not torch.cuda.is_available():
        raise InputError("benchmarks/kernels.py", "there is no GPU to time on", "use --compile-only or --count")
    table, rows = _table("Kernels", ("operation", "sizes", "provider", "pass", "p50 ms", "of roofline", "speed-up")), []
    for spec in kernels():
        wrong = [
            case.reason for case in spec.training if not all(e <= a for e, a in check(spec, case.shape, DTYPE, "cuda"))
        ]
        if wrong:
            Console().print(f"{spec.name}: not timed, its numbers are wrong for {wrong[0]}")
            continue
        providers = {"eager": spec.reference, "compiled": torch.compile(spec.reference), "triton": spec.triton}
        for case in spec.training:
            found = list(measure(spec, case, "cuda", providers))
            eager = {row.direction: row.p50_ms for row in found if row.provider == "eager"}
            for row in found:
                numbers = f"{row.p50_ms:.4f}", f"{row.of_roofline:.0%}", f"{eager[row.direction] / row.p50_ms:.2f}"
                table.add_row(row.operation, row.case, row.provider, row.direction, *numbers)
            rows += map(asdict, found)
    Console().print(table)
    if json is not None:
        write_json(json, rows)


def benchmark(compile_only: bool = False, count: bool = False, json: Path | None = None) -> None:
    """Time the kernels on the GPU at hand.

    Args:
        compile_only: Compile for sm_80, sm_90 and sm_100 instead; no GPU is needed.
        count: Print the work of each operation instead; no GPU is needed.
        json: File to write the rows to.
    """
    if count:
        _count()
    elif compile_only:
        _compile_only(json)
    else:
        _profile(json)


if __name__ == "__main__":
    run_command(benchmark)
