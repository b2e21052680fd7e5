"""Compiles recorded launches: ahead of a step, for the GPU at hand, or for GPUs that need not be present, to report
registers, spills, shared memory and tensor cores.

    python -m unisign_fast.kernels.aot --json FILE
    python -m unisign_fast.kernels.aot --each-kernel-once --json FILE

The report runs in a process of its own, which launches nothing, without TRITON_INTERPRET.
"""

import argparse
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .launch import TYPES, Launch, compiling_for, recording
from .registry import SPECS
from .spec import KernelSpec
from .testing import make_inputs, results_and_gradients

if TYPE_CHECKING:
    from triton.backends.compiler import GPUTarget

SHARED_LIMIT = {80: 166_912, 90: 232_448, 100: 232_448}  # bytes a block may have, by compute capability times ten
DTYPES = (torch.bfloat16, torch.float32)
LOOP = re.compile(r"(scf\.for [^\n]*\n)(.*?\n)([^\n]*scf\.yield)", re.DOTALL)
TENSOR_CORES = re.compile(r"\b(wgmma|tcgen05\.mma|mma\.sync)")


@dataclass(frozen=True)
class Row:
    """Resources that one kernel uses on one GPU."""

    operation: str
    kernel: str
    dtype: str
    capability: int
    warps: int
    registers: int  # of a thread, at most 255
    spilled: int  # bytes of stack and local memory a thread
    shared: int  # bytes a block
    multiplies: bool  # whether it has matrix products
    tensor_cores: str  # the instruction; empty where there is none
    hazard: bool  # see `_overwrites_operands`

    @property
    def fits(self) -> bool:
        """No spills, no hazard, and within the GPU's shared memory."""
        return self.spilled == 0 and not self.hazard and self.shared <= SHARED_LIMIT[self.capability]


def launches(spec: KernelSpec, dtype: torch.dtype, capability: int) -> list[Launch]:
    """The distinct launches of the operation's training sizes on a GPU, with dropout too, forward and backward."""
    with compiling_for(capability), recording() as result:
        for case in (*spec.training, *spec.random):
            results_and_gradients(spec.operation.gpu, make_inputs(spec, case.shape, dtype, "meta"))
    return list(dict.fromkeys(result))


def compile_ahead(launches: Iterable[Launch]) -> int:
    """Compile and load the kernels of these launches on all cores, where the launches themselves would compile one
    after the other; the number of kernels. Later launches, and other processes, find them in Triton's cache.

    Threads are enough: Triton holds the interpreter's lock for about an eighth of the time, and ptxas and the C
    compiler are processes. Raises the first error once all others are compiled.
    """
    from triton.runtime import driver

    driver.active.get_current_device()  # the first use builds Triton's driver; threads would each build one
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    try:
        kernels = [pool.submit(lambda launch: compile_kernel(launch).run, launch) for launch in dict.fromkeys(launches)]
        wait(kernels)
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C only what is being compiled is waited for
    for kernel in kernels:
        kernel.result()
    return len(kernels)


def compile_kernel(launch: Launch) -> Any:
    """Triton's CompiledKernel of a launch, from its cache if it is there. Nothing is launched or loaded; `.run` builds
    the launcher and loads the code.

    Triton's own launch compiles, so that its key in the cache is that of a real launch by construction.
    """
    dtypes = {name: dtype for dtype, name in TYPES.items()}
    arguments: list[Any] = []
    for name, kind in launch.signature:
        if kind in dtypes:
            arguments.append(torch.empty(2, dtype=dtypes[kind])[int(name not in launch.aligned) :])
        elif kind != "constexpr":
            arguments.append(launch.integers.get(name, 0.0))
    options = {"num_warps": launch.warps, "num_stages": launch.stages}
    return launch.kernel.warmup(*arguments, grid=launch.grid, **dict(launch.constants), **options)


class AbsentGPU:
    """What Triton asks of its driver in order to compile for a GPU that need not be present."""

    def __init__(self, capability: int):
        self.capability = capability

    def get_current_device(self) -> int:
        """A number for each kind of GPU, since Triton keeps compiled kernels by device."""
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> "GPUTarget":
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)


def compile_launch(operation: str, dtype: torch.dtype, launch: Launch, capability: int) -> Row:
    """Compile for a GPU and read resource usage from the machine code."""
    from triton.runtime import driver

    driver.set_active(AbsentGPU(capability))
    compiled = compile_kernel(launch)
    registers, spilled = _resources(compiled.asm["cubin"])
    result = TENSOR_CORES.search(compiled.asm["ptx"])
    name = str(dtype).removeprefix("torch.")
    shared = compiled.metadata.shared
    instruction = result[1] if result else ""
    multiplies = "tt.dot" in compiled.asm["ttir"]
    work = operation, launch.kernel.__name__, name, capability, launch.warps
    hazard = _overwrites_operands(compiled.asm["ttgir"])
    return Row(*work, registers, spilled, shared, multiplies, instruction, hazard)


def _overwrites_operands(ttgir: str) -> bool:
    """Whether registers or shared memory may be written while an asynchronous product of sm_90 still reads them."""
    return _overwrites_registers(ttgir) or _overwrites_tiles(ttgir)


def _overwrites_registers(ttgir: str) -> bool:
    """Whether a loop ends before its last product has read its left factor from registers.

    Triton (3.6.0 and 3.7.1) splits such a product into steps of 16 inputs, and leaves the last one running:
    https://github.com/triton-lang/triton/issues/9433.
    """
    in_registers = re.search(r"ttng\.warp_group_dot [^\n]*\} : tensor<", ttgir)
    return bool(in_registers and re.search(r"ttng\.warp_group_dot_wait [^\n]*pendings = [1-9]", ttgir))


def _overwrites_tiles(ttgir: str) -> bool:
    """Whether a loop copies the next tile into the only buffer of an operand before it waits for a product that reads
    it. Triton (3.7.1) assumes a second buffer, but allocates it only for tiles that nothing but products reads.
    """
    buffers: dict[str, str] = {}  # of values in a buffer without a second one
    read: set[str] = set()  # by products in flight
    # Each loop twice, because a product may be in flight from one iteration to the next.
    for line in LOOP.sub(r"\1\2\2\3", ttgir).splitlines():
        if match := re.search(r"(%\w+) = ttg\.local_alloc : \(\) -> !ttg\.memdesc<1x\d", line):
            buffers[match[1]] = match[1]
        elif (match := re.search(r"(%\w+) = ttg\.memdesc_\w+ (%\w+)", line)) and match[2] in buffers:
            buffers[match[1]] = buffers[match[2]]
        elif match := re.search(r"ttng\.warp_group_dot (%\w+), (%\w+)", line):
            read |= {buffers[operand] for operand in match.groups() if operand in buffers}
        elif re.search(r"ttng\.warp_group_dot_wait .*pendings = 0", line):
            read.clear()
        elif match := re.search(r"ttg\.async_copy_global_to_local %\w+, (%\w+)", line):
            if buffers.get(match[1]) in read:
                return True
    return False


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers and spilled bytes of a thread."""
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", path]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    use = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", said)}
    return use["REG"], use["STACK"] + use["LOCAL"]


def compile_all(specs: Sequence[KernelSpec], each_kernel_once: bool = False) -> Iterator[Row]:
    """One row per operation, dtype, launch and GPU; or only the last bfloat16 launch of each kernel, for the three
    GPUs in turn.
    """
    assert os.environ.get("TRITON_INTERPRET", "0") == "0", "the interpreter hides the compiler"
    jobs = [
        (spec.name, dtype, launch, capability)
        for spec in specs
        for dtype in DTYPES
        for capability in SHARED_LIMIT
        for launch in launches(spec, dtype, capability)
    ]
    if each_kernel_once:
        last = {(job[0], job[2].kernel, job[3]): job for job in jobs if job[1] == torch.bfloat16}
        kernels = dict.fromkeys(key[:2] for key in last)
        jobs = [last[(*kernel, capability)] for kernel, capability in zip(kernels, cycle(SHARED_LIMIT))]
    for each in SHARED_LIMIT:  # one after the other: Triton has one driver for all threads
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            yield from pool.map(lambda job: compile_launch(*job), [job for job in jobs if job[3] == each])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--each-kernel-once", action="store_true")
    options = parser.parse_args()
    path, rows = options.json, []
    for row in compile_all(SPECS, options.each_kernel_once):
        rows.append(row)
        print(row, flush=True)
    if path:
        path.write_text(json.dumps([asdict(row) | {"fits": row.fits} for row in rows], indent=1) + "\n")
