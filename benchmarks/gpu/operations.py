"""Sections of gpu_call.py on the kernels: against the reference, against their rooflines, and the graph stack."""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch._inductor import config as inductor

from benchmarks.gpu.device import Rows, Sizes, replay_ms
from benchmarks.kernel_subjects import LIBRARIES, GraphStack, compile_static, graph_stack, operation, work
from unisign_fast.kernels.cross_entropy import op as vocabulary_loss
from unisign_fast.kernels.dispatch import forcing, tensors
from unisign_fast.kernels.registry import LIBRARY_SPECS, SPECS
from unisign_fast.kernels.spec import Case, KernelSpec
from unisign_fast.kernels.testing import check, leaves, make_inputs, results_and_gradients
from unisign_fast.pipelines.skeleton import PART_JOINTS, PARTS

CEILING_BYTES, CEILING_FLOPS = 3.0e12, 790e12  # where the section of the ceilings gave none
ALL = {spec.name: spec for spec in (*SPECS, *LIBRARY_SPECS)}
STACK = "graph stack"
PROCESSES = 16  # at once; each has a context on the GPU and 2 GB of the host's memory
LARGE = "graph_conv", "mbconv"  # most of what is compiled
STEPS = 0.0, 0.1  # shares of sampled frames; all above 0 have the same kernels
TOLERABLE = 10.0  # times the allowed error; with a larger one a kernel computes something else
HANDS = 21  # joints
SMALL_CHUNK_BYTES = 8 << 20  # a quarter of the vocabulary loss's logits in its case


def cases(spec: KernelSpec, sizes: Sizes) -> list[Case]:
    """Training sizes; in a dry run the first of the tests'."""
    return list(spec.cases[:1] if sizes.dry else spec.training)


def baseline_cases(spec: KernelSpec, sizes: Sizes) -> list[Case]:
    """Those whose baselines are timed too: with joints, the hands' alone."""
    return [case for case in cases(spec, sizes) if case.shape.get("V", HANDS) == HANDS or sizes.dry]


def correctness(rows: Rows, sizes: Sizes) -> None:
    """Every operation at training size in bf16 against the reference in float64, a process each.

    A kernel that writes beyond its memory ends its own process only. As nothing is timed meanwhile, further processes
    compile the kernels of a step of Stage 1 and of RGB, and run the compiled baselines once; the later sections then
    find all of it in Triton's and torch's caches. A dry run has one process for all, and compiles nothing.
    """
    if sizes.dry:
        return _run_all(rows, {", ".join(ALL): ["--dry-run", "--check", *ALL]})
    jobs = {f"kernels of a step at p_samp {share:g}": ["--compile-step", str(share)] for share in STEPS}
    jobs |= {name: ["--check", name] for name in checks(sizes)}
    _run_all(rows, jobs | {f"torch.compile ahead, {job}": ["--compile", job] for job in compiled_ahead(sizes)})


def checks(sizes: Sizes) -> list[str]:
    """What `check_one` takes: the cases of the large operations as NAME:NUMBER, and the names of the others."""
    large = [f"{name}:{number}" for name in LARGE for number in range(len(cases(ALL[name], sizes)))]
    return [*large, *(name for name in ALL if name not in LARGE)]


def compiled_ahead(sizes: Sizes) -> list[str]:
    """What `compile_one` takes: the stack, and the cases of every operation as NAME:NUMBER, the largest first."""
    names = sorted(ALL, key=lambda name: name not in LARGE)
    return [STACK, *(f"{name}:{number}" for name in names for number in range(len(baseline_cases(ALL[name], sizes))))]


def _run_all(rows: Rows, jobs: dict[str, list[str]]) -> None:
    """Run gpu_call.py with these arguments in processes; the rows that each prints, as soon as it ends."""
    script, waiting, running = str(Path(__file__).parents[1] / "gpu_call.py"), list(jobs), {}
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            while waiting and len(running) < PROCESSES and rows.seconds_left > 0:
                name = waiting.pop(0)
                output = open(Path(folder) / str(len(waiting)), "w+")
                command = [sys.executable, script, *jobs[name]]
                environment = os.environ | {"OMP_NUM_THREADS": "1"}
                running[name] = subprocess.Popen(command, stdout=output, stderr=output, env=environment), output
            for name, (process, output) in list(running.items()):
                if late := process.poll() is None and rows.seconds_left < 0:
                    process.kill()
                    process.wait()
                if process.poll() is not None:
                    del running[name]
                    with rows.guard(name), output:
                        _add_printed(rows, output, "timed out" if late else process.returncode)
            if rows.seconds_left < 0:
                waiting.clear()
            time.sleep(0.1)


def _add_printed(rows: Rows, output, status: int | str) -> None:
    """Add the rows that a process printed. Raises RuntimeError if it ended badly."""
    output.seek(0)
    text = output.read()
    for line in text.splitlines():
        if line.startswith('{"what"'):
            values = json.loads(line)
            rows.add(values.pop("what"), **values)
    if status:
        raise RuntimeError(f"ended with status {status}: {text.strip()[-400:]}")


def check_one(job: str, sizes: Sizes) -> None:
    """In a process started by `correctness`: print a row of JSON for each case of an operation, or for one of them.

    job: one of `checks`.
    """
    name, _, number = job.partition(":")
    spec, chosen = ALL[name], cases(ALL[name], sizes)
    if number:
        chosen = [chosen[int(number)]]
    for case in chosen:
        _check(spec, case, sizes)
    if name == "cross_entropy":  # the model's targets take several chunks, the weight's gradient is then a sum
        vocabulary_loss.GPU_CHUNK_BYTES = SMALL_CHUNK_BYTES
        _check(spec, replace(chosen[0], reason=f"{chosen[0].reason}, in chunks"), sizes)


def _check(spec: KernelSpec, case: Case, sizes: Sizes) -> None:
    begin, version = time.perf_counter(), "reference" if sizes.dry else "gpu"
    try:
        errors = check(spec, version, case.shape, torch.bfloat16, sizes.device.type)
        correct = all(error <= allowed for error, allowed in errors)
        worst = max(error / max(allowed, 1e-30) for error, allowed in errors)
        values = {"correct": correct, "worst_of_allowed": worst}
    except Exception as error:
        values = {"correct": False, "error": f"{type(error).__name__}: {error}"[:600], "runs": _runs(spec, case)}
    seconds = time.perf_counter() - begin
    print(json.dumps({"what": f"{spec.name}, {case.reason}"} | values | {"seconds": seconds}), flush=True)


def _runs(spec: KernelSpec, case: Case) -> bool:
    """Whether the GPU version itself runs, where the comparison with the reference has failed."""
    try:
        results_and_gradients(spec.operation.gpu, make_inputs(spec, case.shape, torch.bfloat16, "cuda"))
        torch.cuda.synchronize()
    except Exception:
        return False
    return True


def compile_one(job: str, sizes: Sizes) -> None:
    """In a process started by `correctness`: run a compiled baseline forward and backward, which fills torch's caches.

    job: one of `compiled_ahead`.
    """
    begin, (name, _, number) = time.perf_counter(), job.partition(":")
    inductor.compile_threads = 4 if name == STACK else 1
    inductor.autotune_local_cache = False  # the tiles are chosen again where nothing else runs
    if name == STACK:
        call, inputs = _stack_subject("compiled", sizes, sizes.stack_frames[0])
    else:
        spec, case = ALL[name], baseline_cases(ALL[name], sizes)[int(number)]
        call, inputs = operation(spec, case, sizes.device.type).providers["compiled"], random_inputs(spec, case, sizes)
    _passes(call, inputs)["forward and backward"]()
    print(json.dumps({"what": f"torch.compile ahead, {job}", "seconds": time.perf_counter() - begin}), flush=True)


def unusable(rows: list[dict]) -> list[str]:
    """The operations that the section of correctness found to crash, or to compute something else. In the sections on
    the whole step and on the stack the reference takes their place.
    """
    result = set()
    for row in (row for row in rows if row["section"] == "correctness"):
        name, worst = row["what"].partition(",")[0].partition(":")[0], float(row.get("worst_of_allowed", 0))
        failed = "error" in row and "timed out" not in row["error"] and not row.get("runs")
        if name in ALL and (failed or not math.isfinite(worst) or worst > TOLERABLE):
            result.add(name)
    return sorted(result)


def use_reference(names: list[str]) -> None:
    """Run the reference in place of these operations' GPU versions, in this process."""
    for name in names:
        object.__setattr__(ALL[name].operation, "gpu", ALL[name].operation.reference)


def roofline(rows: Rows, sizes: Sizes) -> None:
    """The graph stack by graph replay, then every operation; the compiled versions last, since they take longest."""
    earlier, (few, *many) = earlier_rows(rows.file.parent), sizes.stack_frames
    ceilings, wrong = measured_ceilings(earlier), unusable(earlier)
    for frames in sizes.stack_frames:
        _stack_rows(rows, sizes, ceilings, frames, "fast")
    for spec in (spec for spec in ALL.values() if spec.name not in wrong):
        for case in cases(spec, sizes):
            _operation_rows(rows, sizes, ceilings, spec, case, "fast")
    _stack_rows(rows, sizes, ceilings, few, "eager")
    baselines = [(spec, case) for spec in ALL.values() for case in baseline_cases(spec, sizes)]
    for spec, case in baselines:
        _operation_rows(rows, sizes, ceilings, spec, case, "eager")
        if spec.name in LIBRARIES and len(set(case.shape.get("T", [0]))) == 1:  # cuDNN takes clips of one length
            _operation_rows(rows, sizes, ceilings, spec, case, "library")
    if not sizes.dry:
        if any(row["what"] == f"torch.compile ahead, {STACK}" and "error" not in row for row in earlier):
            _stack_rows(rows, sizes, ceilings, few, "compiled", needs=25)
        for spec, case in baselines:
            _operation_rows(rows, sizes, ceilings, spec, case, "compiled", needs=5)
        _stack_rows(rows, sizes, ceilings, few, "compiled", needs=25)  # unless it is there already
    for frames in many:
        _stack_rows(rows, sizes, ceilings, frames, "eager", needs=8)


def earlier_rows(folder: Path) -> list[dict]:
    """The rows of the sections before this one."""
    file = folder / "rows.json"
    return json.loads(file.read_text()) if file.exists() else []


def measured_ceilings(rows: list[dict]) -> tuple[float, float]:
    """Bytes and FLOPs a second as the first section measured them."""
    ceilings = {name: row[name] for row in rows for name in ("bytes_per_s", "flops_per_s") if name in row}
    return ceilings.get("bytes_per_s", CEILING_BYTES), ceilings.get("flops_per_s", CEILING_FLOPS)


def random_inputs(spec: KernelSpec, case: Case, sizes: Sizes) -> tuple:
    """The operation's arguments like kernels/testing.py's, but drawn on the device."""
    torch.manual_seed(0)

    def random(*size: int, scale: float = 1.0, exact: bool = False) -> torch.Tensor:
        values = (torch.randn(size, device=sizes.device) * scale).bfloat16()
        return (values.float() if exact else values).requires_grad_()

    return spec.inputs(case.shape, random)


def _roofline_ms(steps: list[tuple[int, int]], ceilings: tuple[float, float]) -> float:
    bytes_a_second, flops_a_second = ceilings
    return 1e3 * sum(max(moved / bytes_a_second, flops / flops_a_second) for moved, flops in steps)


def _passes(call: Callable, inputs: tuple) -> dict[str, Callable]:
    """Forward alone, and forward with backward from random gradients: what a CUDA graph can capture as a whole."""
    wanted = leaves(inputs)
    upstream = [torch.randn_like(y) for y in tensors(call(*inputs)) if y.requires_grad]

    def both() -> None:
        out = [y for y in tensors(call(*inputs)) if y.requires_grad]
        torch.autograd.grad(out, wanted, upstream, allow_unused=True)

    return {"forward": lambda: call(*inputs), "forward and backward": both}


def _rows_of(
    rows: Rows, sizes: Sizes, name: str, call: Callable, inputs: tuple, limits: dict[str, float], items: int
) -> None:
    limits = limits | {"forward and backward": limits["forward"] + limits["backward"]}
    for direction, function in _passes(call, inputs).items():
        ms, replayed = replay_ms(function, sizes.device, sizes.repeats)
        values = {"us_an_item": 1e3 * ms / items, "roofline_ms": limits[direction], "replayed": replayed}
        rows.add(f"{name}, {direction}", ms=ms, roofline_fraction=limits[direction] / ms, **values)


def _stack_subject(provider: str, sizes: Sizes, frames: int) -> tuple[Callable, tuple]:
    """The graph stack by a provider, and its arguments: keypoints of the parts, clip bounds, weights."""
    torch.manual_seed(0)
    module = GraphStack().to(sizes.device, torch.bfloat16)
    target = compile_static(module) if provider == "compiled" else module
    version = "gpu" if provider == "fast" and not sizes.dry else "reference"

    def call(poses: list, bounds: torch.Tensor, weights: list) -> torch.Tensor:
        with forcing(version):
            return target(poses, bounds)

    bounds = torch.arange(0, frames + 1, 4 if sizes.dry else 240, device=sizes.device)
    factory = {"device": sizes.device, "dtype": torch.bfloat16}
    poses = [torch.rand(frames, len(PART_JOINTS[part]), 3, **factory) for part in PARTS]
    return call, (poses, bounds, list(module.parameters()))


def _stack_rows(
    rows: Rows, sizes: Sizes, ceilings: tuple[float, float], frames: int, provider: str, needs: float = 0
) -> None:
    name = f"{STACK} of {frames} frames, {provider}"
    if rows.attempted(name):
        return
    with rows.guard(name):
        rows.require(needs)
        whole = graph_stack("meta")
        limits = {d: _roofline_ms(steps, ceilings) * frames / whole.items for d, steps in whole.work.items()}
        _rows_of(rows, sizes, name, *_stack_subject(provider, sizes, frames), limits, frames)


def _operation_rows(
    rows: Rows,
    sizes: Sizes,
    ceilings: tuple[float, float],
    spec: KernelSpec,
    case: Case,
    provider: str,
    needs: float = 0,
) -> None:
    name = f"{spec.name}, {case.reason}, {provider}"
    if rows.attempted(name):
        return
    with rows.guard(name):
        rows.require(needs)
        subject = operation(spec, case, sizes.device.type)
        fast = spec.operation.reference if sizes.dry else spec.operation.gpu
        call = fast if provider == "fast" else subject.providers[provider]
        limits = {direction: _roofline_ms(steps, ceilings) for direction, steps in work(spec, case).items()}
        _rows_of(rows, sizes, name, call, random_inputs(spec, case, sizes), limits, subject.items)
