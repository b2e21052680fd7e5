"""What the sections of gpu_call.py share: the device and its sizes, timing, and rows that survive a crash."""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from unisign_fast.model.config import ModelConfig, MT5Shape

BROKEN = 75  # exit status of a section after an error from which CUDA does not recover within a process
FLUSHED_BYTES = 1 << 30  # the writing of which takes longer than the host needs to launch a graph
DATASHEET_TFLOPS = 989  # dense bfloat16 of an H100 or H200 (SXM)
DATASHEET_BYTES_A_SECOND = {"H100": 3.35e12, "H200": 4.8e12}
TOY_MT5 = MT5Shape(512, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_decoder_layers=2, num_heads=4)
TOY_MODEL = ModelConfig(TOY_MT5, pose_channels=(8, 8, 16, 16), backbone_width=0.25, backbone_depth=0.1)


@dataclass(frozen=True)
class Sizes:
    """How large everything is: the paper's geometry on a GPU, a toy in a dry run."""

    device: torch.device
    model: ModelConfig
    max_frames: int
    crop_size: int
    micro_batches: tuple[int, ...]  # clips of a Stage-1 micro-batch
    clips_per_step: int
    rgb_clips: int
    steps: int  # of the falling loss
    product: int  # side of the matrices of the ceiling
    copied_bytes: int
    stack_frames: tuple[int, ...]
    repeats: int

    @property
    def dry(self) -> bool:
        return self.device.type == "cpu"


def gpu_sizes() -> Sizes:
    """The paper's geometry on the current GPU."""
    return Sizes(
        torch.device("cuda"), ModelConfig(), 256, 112, (16, 64, 128), 512, 32, 150, 8192, 4 << 30, (3840, 30_000), 10
    )


def toy_sizes() -> Sizes:
    """Everything as on a GPU, at a size that two CPU cores take in seconds."""
    return Sizes(torch.device("cpu"), TOY_MODEL, 16, 32, (2, 4), 8, 4, 12, 256, 1 << 20, (8,), 1)


class Rows:
    """The rows of one section, in a file of their own that is complete after every row.

    They continue those that an earlier process of the section has left in the file.
    """

    def __init__(self, file: Path, section: str, seconds: float, dry: bool, **about: object):
        self.file, self.section = file, section
        self.rows = json.loads(file.read_text()) if file.exists() else []
        self._end = time.monotonic() + seconds
        self._about = {"section": section} | versions() | {"dry_run": dry} | about

    def add(self, what: str, **values: object) -> None:
        """Write a row: what was measured, its values, and the machine."""
        self.rows.append({"what": what} | {name: _json_value(value) for name, value in values.items()} | self._about)
        draft = self.file.with_suffix(".part")
        draft.write_text(json.dumps(self.rows, indent=1))
        draft.replace(self.file)
        print(f"{self.section}: {what} {shown(values)}", flush=True)

    def attempted(self, what: str) -> bool:
        """Whether there is a row of it, which may be an error."""
        return any(row["what"] == what or row["what"].startswith(what + ", ") for row in self.rows)

    @property
    def seconds_left(self) -> float:
        return self._end - time.monotonic()

    def require(self, seconds: float) -> None:
        """Raise TimeoutError unless this many seconds of the section are left."""
        if self.seconds_left < seconds:
            raise TimeoutError(f"not started: needs about {seconds:.0f} s, {self.seconds_left:.0f} s are left")

    @contextmanager
    def guard(self, what: str) -> Iterator[None]:
        """An error inside becomes a row. If CUDA does not recover from it, the process ends with status BROKEN."""
        try:
            yield
        except Exception as error:
            self.add(what, error=f"{type(error).__name__}: {error}"[:600])
            if not cuda_works():
                sys.stdout.flush()
                os._exit(BROKEN)


def cuda_works() -> bool:
    """Whether the GPU, if any, still works in this process: an illegal access breaks it for good, and a failed capture
    leaves torch's generator, allocator and current stream behind in a state of capture.
    """
    if not torch.cuda.is_available():
        return True
    try:
        torch.cuda.synchronize()
        torch.rand(1, device="cuda")
        torch.cuda.empty_cache()
        return torch.cuda.current_stream() == torch.cuda.default_stream()
    except RuntimeError:
        return False


def _json_value(value: object) -> object:
    """JSON has no NaN and no infinity: they become text."""
    if isinstance(value, list):
        return [_json_value(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def versions() -> dict[str, str]:
    """The card and the versions that every row names; the commit as `--commit` gave it."""
    import transformers
    import triton

    from benchmarks.about import about

    here = about()
    return here | {
        "commit": os.environ.get("GPU_CALL_COMMIT") or here["commit"] or "unknown",
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        "transformers": transformers.__version__,
    }


def shown(values: dict) -> str:
    """A row's values in one line; long ones are left to the file."""
    parts = []
    for name, value in values.items():
        if isinstance(value, float):
            value = f"{value:.4g}"
        if not isinstance(value, (list, dict)):
            parts.append(f"{name}={value}")
    return "  ".join(parts)


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def time_ms(function: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median milliseconds of a call that was warmed up before: device events, or the clock on a CPU."""
    times = []
    for _ in range(repeats):
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            function()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end))
        else:
            begin = time.perf_counter()
            function()
            times.append(1e3 * (time.perf_counter() - begin))
    return median(times)


def replay_ms(function: Callable[[], object], device: torch.device, repeats: int) -> tuple[float, bool]:
    """Median milliseconds of a call replayed from a CUDA graph, so that the host is not timed, and True.

    Of plain calls, and False, on a CPU, and where the call waits for the device, which no graph can capture.

    Before each replay a buffer larger than any cache is written.
    """
    function()
    if device.type == "cpu" or not _captured(function):
        return time_ms(function, device, repeats), False
    flush = torch.empty(FLUSHED_BYTES, dtype=torch.uint8, device=device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    times = []
    for _ in range(repeats + 2):
        flush.zero_()
        times.append(time_ms(graph.replay, device, 1))
    return median(times[2:]), True


def _captured(function: Callable[[], object]) -> bool:
    """Warm the call up on a stream of its own, as a capture requires; whether it can be captured. A capture that fails
    leaves torch in a state that later captures do not survive, hence the question beforehand.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.stream(stream):
            for _ in range(2):
                function()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return False
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.current_stream().wait_stream(stream)
    return True
