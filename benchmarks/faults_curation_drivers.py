"""Drivers and workers of corpus making under fault injection: processes that can be killed, and a Ray cluster.

Drivers are forked from a process that has imported everything; workers are real ones of Ray.
"""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from launch.curate import run as run_curate
from unisign_fast.pipelines.curation import run as driver
from unisign_fast.pipelines.curation.parts import PartMaker
from unisign_fast.pipelines.curation.plans import PlanMaker
from unisign_fast.utils.console import clean_exit

PART_SECONDS = 1
LIMIT = 400  # seconds of a start
SMALL_FILES = 4_000  # bytes, the largest file when the disk is full


class FaultyPlanMaker(PlanMaker):
    """A PlanMaker whose worker dies of some programmes."""

    def make(self, item):
        if "kills" in Path(item["video"]).name:
            signal.raise_signal(signal.SIGSEGV)  # in this thread; os.kill may choose another while this one continues
        return super().make(item)


class FaultyPartMaker(PartMaker):
    """A PartMaker whose disk may be full."""

    def write(self, key, content, seconds):
        full = (self.folder.root / "full").exists()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_FILES if full else limits[0], limits[1]))
        try:
            super().write(key, content, seconds)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class Start:
    """A driver in its own process, forked from this one."""

    def __init__(self, out: Path, material: Path, sources: Path, **options):
        self.output = out.with_name(f"start-{time.monotonic_ns()}.log")
        self.out = out
        self.pid = os.fork()
        if self.pid == 0:
            self._be_driver(out, material, sources, options)
        self.status: int | None = None

    def _be_driver(self, out: Path, material: Path, sources: Path, options: dict) -> None:
        status = 70
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the campaign's
            os.setsid()
            file = os.open(self.output, os.O_WRONLY | os.O_CREAT)
            for stream in (1, 2):
                os.dup2(file, stream)
            driver.MAKERS.update(plan=FaultyPlanMaker, part=FaultyPartMaker)
            thresholds = material / "thresholds.json"
            networks = {"detector": material / "detector.onnx", "pose_model": material / "pose.onnx"}
            fixed = {"part_seconds": PART_SECONDS, "target_seconds": 0, "workers": 2, "thresholds": thresholds}
            with clean_exit():
                run_curate(sources, out, **networks | fixed | options)
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            with suppress(Exception):
                sys.stdout.flush()
            os._exit(status)

    def is_running(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is None

    def wait(self) -> int:
        """The exit status. Raises AssertionError if it takes longer than LIMIT."""
        end = time.monotonic() + LIMIT
        while self.is_running():
            if time.monotonic() > end:
                self.send(signal.SIGKILL)
                raise AssertionError(f"still running after {LIMIT} s")
            time.sleep(0.02)
        assert self.status is not None
        return self.status

    def send(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    @property
    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def made(self) -> str:
        """Its line about what it made. Raises AssertionError if it failed."""
        status = self.wait()
        assert status == 0, f"status {status}: {self.said[-600:]}"
        return next(line for line in self.said.splitlines() if " parts made" in line).partition(": ")[2]


@dataclass
class Trial:
    """One corpus. `faults` are (kind, outcome if the corpus ends up right)."""

    material: Path
    out: Path
    sources: Path
    mark: str  # identifies this campaign's workers by their environment
    rng: random.Random
    faults: list[tuple[str, str]] = field(default_factory=list)

    def start(self, **options) -> Start:
        return Start(self.out, self.material, self.sources, **options)

    def finished(self) -> int:
        """The number of finished plans and parts."""
        return sum(1 for name in ("plans", "parts") for _ in (self.out / name).glob("[0-9a-f]*"))

    def until(self, start: Start, reached: Callable[[], bool]) -> bool:
        """Waits until `reached()`; False if the driver ended before."""
        end = time.monotonic() + LIMIT
        while start.is_running() and time.monotonic() < end:
            if reached():
                return True
            time.sleep(0.01)
        return False


def workers_of(mark: str) -> list[int]:
    """The process ids of Ray workers that make plans or parts for this campaign."""
    processes = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            title = (entry / "cmdline").read_bytes()
            if b"ray::" in title and b"Faulty" in title and mark.encode() in (entry / "environ").read_bytes():
                processes.append(int(entry.name))
    return processes


@contextmanager
def ray_cluster(mark: str, folder: Path) -> Iterator[str]:
    """The address of a one-node Ray cluster, which ends with the block, also on SIGTERM."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    port = 20_000 + os.getpid() % 10_000
    options = ["--num-cpus=4", "--include-dashboard=false", "--disable-usage-stats", "--object-store-memory=100000000"]
    line = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}", *options]
    environment = os.environ | {"FAULTS_MARK": mark, "RAY_BACKEND_LOG_LEVEL": "fatal"}
    with (folder / "ray.log").open("w") as log:
        process = subprocess.Popen(line, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        while "Ray runtime started" not in (folder / "ray.log").read_text():
            assert process.poll() is None, (folder / "ray.log").read_text()
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
        signal.signal(signal.SIGTERM, before)
