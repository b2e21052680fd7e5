"""The kernels against the PyTorch reference, eager and compiled, forward and backward, at training sizes.

    python benchmarks/kernels.py                  times them on the current GPU
    python benchmarks/kernels.py --draw-rows ROWS a picture of rows that were written by --json
    python benchmarks/kernels.py --compile-only   registers, spills, shared memory on GPUs that need not be present
    python benchmarks/kernels.py --count          bytes, FLOPs and the shortest possible time of each operation

After the single operations come the two parts of the model that consist of them: the stack of graph and temporal
convolutions of all four body parts, and prior-guided fusion. A version whose numbers are wrong is not timed.
"""

import json as json_format
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # this file's own folder has a `kernels` too: this very file

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.about import about
from benchmarks.kernel_subjects import DTYPE, PASSES, Subject, Work, fusion, graph_stack, operation, work
from unisign_fast.evaluation.predictions import write_json
from unisign_fast.kernels.aot import compile_all
from unisign_fast.kernels.dispatch import tensors
from unisign_fast.kernels.registry import SPECS
from unisign_fast.kernels.spec import Case, KernelSpec
from unisign_fast.kernels.testing import check, leaves
from unisign_fast.pipelines.errors import InputError
from unisign_fast.utils.console import run_command

# One H200, measured: copying, and dense bfloat16 products.
BYTES_A_SECOND, FLOPS_A_SECOND = 4.3e12, 790e12
WARM_UP, REPEATS = 5, 30
CACHE_BYTES = 256 << 20  # written between repeats: more than any GPU's cache


@dataclass(frozen=True)
class Row:
    """One timing."""

    operation: str
    case: str
    provider: str  # eager, compiled, gpu, library, or one crop after the other
    direction: str
    p20_ms: float
    p50_ms: float
    p80_ms: float
    us_an_item: float  # a packed frame or a hand crop
    peak_mib: float
    gb_per_s: float
    tflop_per_s: float
    roofline_fraction: float  # the shortest possible time over the median
    gpu: str
    torch: str
    triton: str
    commit: str


def limits(steps: Work) -> tuple[int, int, float]:
    """Bytes and FLOPs of all steps, and the shortest seconds on an H200: for each step, the longer of the two."""
    shortest = sum(max(moved / BYTES_A_SECOND, flops / FLOPS_A_SECOND) for moved, flops in steps)
    return sum(moved for moved, _ in steps), sum(flops for _, flops in steps), shortest


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


def measure(subject: Subject, device: str) -> Iterator[Row]:
    """Rows of every provider and direction."""
    versions = {"torch": torch.__version__, "triton": _triton_version(), "commit": about()["commit"]}
    gpu = torch.cuda.get_device_name() if device == "cuda" else "none"
    for provider, call in subject.providers.items():
        inputs = subject.make_inputs()
        out = tensors(call(*inputs))
        upstream, wanted = [torch.randn_like(y) for y in out], leaves(inputs)
        calls = {
            "forward": lambda: call(*inputs),
            "backward": lambda: torch.autograd.grad(out, wanted, upstream, retain_graph=True, allow_unused=True),
        }
        for direction in PASSES:
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            times = repeat_ms(calls[direction], device)
            p20, _, _, p80 = statistics.quantiles(times, n=5)
            p50 = statistics.median(times)
            moved, flops, shortest = limits(subject.work[direction])
            peak = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 0.0
            rates = moved / p50 / 1e6, flops / p50 / 1e9, 1e3 * shortest / p50
            name = subject.name, subject.sizes, provider, direction
            yield Row(*name, p20, p50, p80, 1e3 * p50 / subject.items, peak, *rates, gpu=gpu, **versions)


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
    counted = [(spec.name, case.reason, work(spec, case)) for spec in SPECS for case in spec.training]
    counted += [(part.name, part.sizes, part.work) for part in (graph_stack("meta"), fusion("meta"))]
    for name, sizes, directions in counted:
        for direction, steps in directions.items():
            moved, flops, shortest = limits(steps)
            numbers = f"{moved / 1e6:.1f}", f"{flops / 1e9:.2f}", f"{flops / moved:.0f}", f"{1e6 * shortest:.1f}"
            table.add_row(name, sizes, direction, *numbers)
    Console().print(table)


def _compile_only(json: Path | None) -> None:
    os.environ["TRITON_INTERPRET"] = "0"
    columns = ("kernel", "type", "tensor cores", "sm", "warps", "registers", "spilled bytes", "shared bytes", "fits")
    table, rows = _table("Compiled for GPUs, without one", columns), []
    for row in compile_all(SPECS):
        rows.append(asdict(row) | {"fits": row.fits})
        numbers = (row.capability, row.warps, row.registers, row.spilled, row.shared, "yes" if row.fits else "NO")
        table.add_row(row.kernel, row.dtype, row.tensor_cores, *map(str, numbers))
    Console().print(table)
    if json is not None:
        write_json(json, rows)
    if wrong := [row for row in rows if not row["fits"]]:
        raise SystemExit(f"{len(wrong)} of {len(rows)} launches spill or need more shared memory than there is")


def _wrong(spec: KernelSpec, case: Case, provider: Callable, device: str) -> bool:
    """Whether a version fails the test that the kernels pass."""
    candidate = replace(spec, operation=replace(spec.operation, gpu=provider))
    return not all(error <= allowed for error, allowed in check(candidate, "gpu", case.shape, DTYPE, device))


def subjects(device: str) -> Iterator[Subject]:
    """Every operation at its training sizes for hands, and the model's parts. Versions that fail their test, baselines
    too, are left out.
    """
    sound = True
    for spec in SPECS:
        for case in (case for case in spec.training if case.shape.get("V", 21) == 21):
            subject = operation(spec, case, device)
            wrong = [name for name, call in subject.providers.items() if _wrong(spec, case, call, device)]
            for name in wrong:
                Console().print(f"{spec.name}, {case.reason}: {name} is not timed, its numbers are wrong")
            sound = sound and "gpu" not in wrong
            right = {name: call for name, call in subject.providers.items() if name not in wrong}
            yield replace(subject, providers=right)
    if sound:
        yield graph_stack(device)
        yield fusion(device)
    else:
        Console().print("graph stack and fusion: not timed, since they use an operation that is wrong")


def report(result: Iterable[Row]) -> Table:
    """One line a row; speed-ups are over eager."""
    columns = ("operation", "sizes", "provider", "pass", "p50 ms", "us an item", "of roofline", "speed-up")
    table, eager = _table("Kernels", columns), {}
    for row in result:
        if row.provider == "eager":
            eager[row.operation, row.case, row.direction] = row.p50_ms
        speed_up = eager[row.operation, row.case, row.direction] / row.p50_ms
        numbers = f"{row.p50_ms:.4f}", f"{row.us_an_item:.3f}", f"{row.roofline_fraction:.0%}", f"{speed_up:.2f}"
        table.add_row(row.operation, row.case, row.provider, row.direction, *numbers)
    return table


def _profile(json: Path | None) -> None:
    if not torch.cuda.is_available():
        raise InputError("benchmarks/kernels.py", "there is no GPU to time on", "use --compile-only or --count")
    rows = []
    for subject in subjects("cuda"):
        rows += measure(subject, "cuda")
        if json is not None:  # after each, so that a run cut short keeps what it has
            write_json(json, [asdict(row) for row in rows])
    Console().print(report(rows))


def draw(rows: Path) -> Path:
    """Time of every provider and fraction of the roofline, an operation a line: a PNG beside the rows."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    result = [Row(**row) for row in json_format.loads(rows.read_text())]
    names = list(dict.fromkeys((row.operation, row.case, row.direction) for row in result))
    providers = list(dict.fromkeys(row.provider for row in result))
    figure, (times, fractions) = pyplot.subplots(1, 2, figsize=(14, 1 + 0.5 * len(names)), sharey=True)
    height = 0.8 / len(providers)
    for number, provider in enumerate(providers):
        chosen = {(row.operation, row.case, row.direction): row for row in result if row.provider == provider}
        places = [names.index(name) + (number - (len(providers) - 1) / 2) * height for name in chosen]
        times.barh(places, [row.p50_ms for row in chosen.values()], height, label=provider)
        fractions.barh(places, [100 * row.roofline_fraction for row in chosen.values()], height)
    times.set_yticks(
        range(len(names)), [f"{operation}, {direction}\n{case}" for operation, case, direction in names], fontsize=7
    )
    times.invert_yaxis()
    times.set(xscale="log", xlabel="median, ms")
    times.legend()
    fractions.set(xlabel="% of the H200 roofline", xlim=(0, 100))
    figure.suptitle(f"{result[0].gpu}, torch {result[0].torch}, triton {result[0].triton}, commit {result[0].commit}")
    figure.tight_layout()
    figure.savefig(rows.with_suffix(".png"), dpi=120)
    return rows.with_suffix(".png")


def benchmark(
    compile_only: bool = False, count: bool = False, draw_rows: Path | None = None, json: Path | None = None
) -> None:
    """Time the kernels on the current GPU.

    Args:
        compile_only: Compile for sm_80, sm_90 and sm_100 instead; no GPU is needed.
        count: Print the work of each operation instead; no GPU is needed.
        draw_rows: Draw the picture of a file that --json wrote instead.
        json: File to write the rows to.
    """
    if count:
        _count()
    elif draw_rows is not None:
        Console().print(f"drawn: {draw(draw_rows)}")
    elif compile_only:
        _compile_only(json)
    else:
        _profile(json)


if __name__ == "__main__":
    run_command(benchmark)
