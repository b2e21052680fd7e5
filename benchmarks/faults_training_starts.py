"""Starts the training command for fault injection: real processes, cheap because modules are imported once.

A server process imports torch, deepspeed and the rest, but computes nothing and starts no thread. Every rank is forked
from it, with its own session, standard output and signal handlers, and runs the command as a shell would.
"""

import faulthandler
import multiprocessing
import multiprocessing.forkserver
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

LIMIT = 300  # seconds of a start
POLL = 0.005  # seconds
FINISHED, STOPPED_BY_INPUT = 0, 2  # exit statuses
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
IMPORTED = [  # what a training process imports, some of it late
    "deepspeed",
    "transformers",
    "sacrebleu",
    "numba",
    "zarr",
    "unisign_fast.training.cli",
    "unisign_fast.training.run",
]
Prepare = Callable[[int], None]  # called with the rank, in its process, before the command; must be picklable

_context = multiprocessing.get_context("forkserver")


def serve() -> None:
    """Start the server unless it is running."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    _context.set_forkserver_preload(IMPORTED)
    multiprocessing.forkserver.ensure_running()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


class Start:
    """One start of the training command, with a process for each rank, each in its own session.

    `wait` acts like torchrun: if a rank fails, it ends the others. Of `ranks`, `present` are started.
    """

    def __init__(
        self,
        arguments: list[str],
        output: Path,
        ranks: int = 1,
        prepare: Prepare | None = None,
        present: int | None = None,
    ):
        serve()
        self.output = output
        output.unlink(missing_ok=True)
        port = str(_free_port())
        self.processes = []
        for rank in range(ranks if present is None else present):
            environment = ENVIRONMENT | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            values = arguments, output, environment if ranks > 1 else ENVIRONMENT, prepare, rank
            process = _context.Process(target=_run, args=values)
            process.start()
            self.processes.append(process)

    @property
    def is_running(self) -> bool:
        """Whether a rank is alive."""
        return any(process.exitcode is None for process in self.processes)

    def wait(self, seconds: float = LIMIT) -> int | None:
        """The exit status, of several ranks the first that is not 0; None after `seconds`. All ranks are gone then."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            statuses = [process.exitcode for process in self.processes]
            failed = [status for status in statuses if status]
            if failed or None not in statuses:
                if failed and None in statuses:
                    time.sleep(0.5)  # ranks that end with the same line
                self._end()
                return failed[0] if failed else 0
            time.sleep(POLL)
        self.send(signal.SIGUSR1)  # where each thread stands, into the output
        time.sleep(1)
        self._end()
        return None

    def send(self, number: int, rank: int | None = None) -> None:
        """A signal to the process group of a rank, or of all."""
        for process in self.processes if rank is None else self.processes[rank : rank + 1]:
            if process.exitcode is None and process.pid is not None:
                try:
                    os.killpg(process.pid, number)
                except ProcessLookupError:  # it has no session yet, or is gone
                    with suppress(ProcessLookupError):
                        os.kill(process.pid, number)

    @property
    def said(self) -> str:
        """All output so far."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def _end(self) -> None:
        self.send(signal.SIGKILL)
        for process in self.processes:
            process.join()
            process.close()
        self.processes = []


@dataclass
class Trial:
    """A run folder, its store, and the command that resumes it."""

    folder: Path
    options: list[str]  # besides stores and out
    rng: random.Random
    ranks: int = 1
    run: Path = field(init=False)
    store: Path = field(init=False)
    starts: int = 0

    def __post_init__(self):
        self.run, self.store = self.folder / "run", self.folder / "store"

    def start(self, prepare: Prepare | None = None, present: int | None = None, more: tuple[str, ...] = ()) -> Start:
        """One start of the command."""
        self.starts += 1
        arguments = ["--stores", str(self.store), "--out", str(self.run), *self.options, *more]
        return Start(arguments, self.folder / f"start{self.starts}.log", self.ranks, prepare, present)

    def expect(self, start: Start, *allowed: int) -> int:
        """The start's exit status. Raises AssertionError unless it is `allowed`, and a refusal is one line."""
        status, said = start.wait(), start.said
        assert status in allowed and "Traceback" not in said, f"status {status}, not {allowed}: {said[-600:]}"
        if status == STOPPED_BY_INPUT:
            assert is_refusal(said), said[-600:]
        return status

    def sometimes_from_the_start(self) -> None:
        """Before some faults, removes the run, so that it starts from scratch."""
        if self.rng.random() < 0.3:
            shutil.rmtree(self.run)

    def files(self, *patterns: str) -> list[Path]:
        """The run's files."""
        return sorted(path for pattern in patterns for path in self.run.glob(pattern) if path.is_file())


Fault = Callable[[Trial], None]


def is_refusal(said: str) -> bool:
    """Whether the output ends with one line that names the mistake."""
    return said.rstrip().rpartition("\n")[2].startswith("error: ")


def _run(arguments: list[str], output: Path, environment: dict[str, str], prepare: Prepare | None, rank: int) -> None:
    """The command, in a process forked from the server."""
    os.setsid()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    os.environ.update(environment)
    sys.argv = ["launch/pretrain.py", *arguments]
    from unisign_fast.training.cli import training_command  # imported by the server

    if prepare is not None:
        prepare(rank)
    training_command("Fault injection.", stages=(1,))


def _free_port() -> int:
    from unisign_fast.utils.distributed import free_port  # imports torch

    return free_port()
