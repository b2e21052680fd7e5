"""Sections of gpu_call.py on the kernels: against the reference, against their rooflines, and the graph stack."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.gpu.device import Rows, Sizes, replay_ms
from benchmarks.kernel_subjects import GraphStack, graph_stack, operation, work
from unisign_fast.kernels.dispatch import forcing, tensors
from unisign_fast.kernels.registry import SPECS
from unisign_fast.kernels.spec import Case, KernelSpec
from unisign_fast.kernels.testing import check, leaves, make_inputs
from unisign_fast.pipelines.skeleton import PART_JOINTS, PARTS

CEILING_BYTES, CEILING_FLOPS = 3.0e12, 790e12  # where the section of the ceilings gave none


def cases(spec: KernelSpec, sizes: Sizes) -> list[Case]:
    """Training sizes; in a dry run the first of the tests'."""
    return list(spec.cases[:1] if sizes.dry else spec.training)


def correctness(rows: Rows, sizes: Sizes) -> None:
    """Every operation at training size in bf16 against the reference in float64, a process each.

    A kernel that writes beyond its memory ends its own process only. A dry run has one process for all.
    """
    names = [spec.name for spec in SPECS]
    groups = [names] if sizes.dry else [[name] for name in names]
    command = [sys.executable, str(Path(__file__).parents[1] / "gpu_call.py"), *(["--dry-run"] if sizes.dry else [])]
    running = {
        ", ".join(group): subprocess.Popen(
            [*command, "--check", *group], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for group in groups
    }
    for name, process in running.items():
        with rows.guard(name):
            try:
                out, err = process.communicate(timeout=max(0.1, rows.seconds_left - 2))
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
                err += "\ntimed out"
            for line in out.splitlines():
                if line.startswith("{"):
                    values = json.loads(line)
                    rows.add(values.pop("what"), **values)
            if process.returncode:
                raise RuntimeError(f"ended with status {process.returncode}: {err.strip()[-400:]}")


def check_one(name: str, sizes: Sizes) -> None:
    """In a process started by `correctness`: print a row of JSON for each case of an operation."""
    (spec,) = (spec for spec in SPECS if spec.name == name)
    version = "reference" if sizes.dry else "gpu"
    for case in cases(spec, sizes):
        begin = time.perf_counter()
        try:
            errors = check(spec, version, case.shape, torch.bfloat16, sizes.device.type)
            correct = all(error <= allowed for error, allowed in errors)
            worst = max(error / max(allowed, 1e-30) for error, allowed in errors)
            values = {"correct": correct, "worst_of_allowed": worst}
        except Exception as error:
            values = {"correct": False, "error": f"{type(error).__name__}: {error}"[:600]}
        values |= {"what": f"{name}, {case.reason}", "seconds": time.perf_counter() - begin}
        print(json.dumps(values), flush=True)


def roofline(rows: Rows, sizes: Sizes) -> None:
    """The graph stack by graph replay, then every operation; the compiled versions last, since they take longest."""
    ceilings = measured_ceilings(rows.file.parent)
    few, *many = sizes.stack_frames
    for frames in sizes.stack_frames:
        _stack_rows(rows, sizes, ceilings, frames, "fast")
    _stack_rows(rows, sizes, ceilings, few, "eager")
    for provider, needs in (("fast", 0), ("eager", 0)):
        for spec in SPECS:
            for case in cases(spec, sizes):
                _operation_rows(rows, sizes, ceilings, spec, case, provider, needs)
    if not sizes.dry:
        _stack_rows(rows, sizes, ceilings, few, "compiled", needs=35)
        for spec in SPECS:
            for case in cases(spec, sizes):
                _operation_rows(rows, sizes, ceilings, spec, case, "compiled", needs=12)
    for frames in many:
        _stack_rows(rows, sizes, ceilings, frames, "eager", needs=8)


def measured_ceilings(folder: Path) -> tuple[float, float]:
    """Bytes and FLOPs a second as the first section measured them."""
    file = folder / "ceilings.json"
    rows = json.loads(file.read_text()) if file.exists() else []
    ceilings = {name: row[name] for row in rows for name in ("bytes_per_s", "flops_per_s") if name in row}
    return ceilings.get("bytes_per_s", CEILING_BYTES), ceilings.get("flops_per_s", CEILING_FLOPS)


def _roofline_ms(steps: list[tuple[int, int]], ceilings: tuple[float, float]) -> float:
    bytes_a_second, flops_a_second = ceilings
    return 1e3 * sum(max(moved / bytes_a_second, flops / flops_a_second) for moved, flops in steps)


def _passes(call: Callable, inputs: tuple) -> dict[str, Callable]:
    """Forward alone, and forward with backward: what a CUDA graph can capture as a whole."""
    wanted = leaves(inputs)

    def both() -> None:
        out = [y for y in tensors(call(*inputs)) if y.requires_grad]
        torch.autograd.grad(out, wanted, [torch.ones_like(y) for y in out], allow_unused=True)

    return {"forward": lambda: call(*inputs), "forward and backward": both}


def _rows_of(
    rows: Rows, sizes: Sizes, name: str, call: Callable, inputs: tuple, limits: dict[str, float], items: int
) -> None:
    limits = limits | {"forward and backward": limits["forward"] + limits["backward"]}
    for direction, function in _passes(call, inputs).items():
        ms = replay_ms(function, sizes.device, sizes.repeats)
        limit = limits[direction]
        rows.add(
            f"{name}, {direction}", ms=ms, us_an_item=1e3 * ms / items, roofline_ms=limit, roofline_fraction=limit / ms
        )


def _stack_call(provider: str, sizes: Sizes) -> tuple[Callable, list]:
    """The graph stack by a provider, a function of (keypoints of the parts, clip bounds, weights), and its weights."""
    torch.manual_seed(0)
    module = GraphStack().to(sizes.device, torch.bfloat16)
    target = torch.compile(module) if provider == "compiled" else module
    version = "gpu" if provider == "fast" and not sizes.dry else "reference"

    def call(poses: list, bounds: torch.Tensor, weights: list) -> torch.Tensor:
        with forcing(version):
            return target(poses, bounds)

    return call, list(module.parameters())


def _stack_rows(
    rows: Rows, sizes: Sizes, ceilings: tuple[float, float], frames: int, provider: str, needs: float = 0
) -> None:
    name = f"graph stack of {frames} frames, {provider}"
    with rows.guard(name):
        rows.require(needs)
        call, weights = _stack_call(provider, sizes)
        bounds = torch.arange(0, frames + 1, 4 if sizes.dry else 240, device=sizes.device)
        factory = {"device": sizes.device, "dtype": torch.bfloat16}
        poses = [torch.rand(frames, len(PART_JOINTS[part]), 3, **factory) for part in PARTS]
        whole = graph_stack("meta")
        limits = {d: _roofline_ms(steps, ceilings) * frames / whole.items for d, steps in whole.work.items()}
        _rows_of(rows, sizes, name, call, (poses, bounds, weights), limits, frames)


def _operation_rows(
    rows: Rows, sizes: Sizes, ceilings: tuple[float, float], spec: KernelSpec, case: Case, provider: str, needs: float
) -> None:
    name = f"{spec.name}, {case.reason}, {provider}"
    with rows.guard(name):
        rows.require(needs)
        subject = operation(spec, case, sizes.device.type)
        fast = spec.operation.reference if sizes.dry else spec.operation.gpu
        call = fast if provider == "fast" else subject.providers[provider]
        inputs = make_inputs(spec, case.shape, torch.bfloat16, sizes.device.type)
        limits = {direction: _roofline_ms(steps, ceilings) for direction, steps in work(spec, case).items()}
        _rows_of(rows, sizes, name, call, inputs, limits, subject.items)
