"""Hostile and damaged inputs: every reader gives the value of the original, or one line that names the file.

A process with limited memory reads each input: a crash, too much memory or too much time is one row of the table.
Three outcomes are correct: the same value, a refusal (one InputError that names the file), and, where the format has
no checksum, another value that is possible. Any other exception is wrong, and so are a file written outside and, where
the format has a checksum, another value.
"""

import hashlib
import multiprocessing
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # the project's root instead of this file's own folder

import numpy as np
import torch

from benchmarks.faults_inputs_mutations import damage
from benchmarks.faults_inputs_subjects import SUBJECTS, read
from benchmarks.faults_stores import FaultRow
from unisign_fast.pipelines.errors import InputError

SAME, REFUSED, ANOTHER = "same value", "refused in one line", "another value"
RIGHT = (SAME, REFUSED, ANOTHER)
MEMORY = 512 * 2**20  # limit in bytes for reading one input
SECONDS = 30.0  # limit for reading one input
START_SECONDS = 120.0  # limit for starting a process, with imports
NO_MEMORY = ("MemoryError", "allocate memory", "bad_alloc")

_context = multiprocessing.get_context("forkserver")


def digest(value: object) -> str:
    """A checksum of nested lists, dicts, arrays, tensors and plain values, with their types."""
    checksum = hashlib.sha256()
    for part in _parts(value):
        checksum.update(part)
    return checksum.hexdigest()


def _parts(value: object) -> Iterator[bytes]:
    yield type(value).__name__.encode()
    if isinstance(value, dict):
        for name, item in sorted(value.items(), key=lambda pair: repr(pair[0])):  # the order in a file means nothing
            yield from _parts(name)
            yield from _parts(item)
    elif isinstance(value, (list, tuple)):
        yield str(len(value)).encode()
        for item in value:
            yield from _parts(item)
    elif isinstance(value, (np.ndarray, torch.Tensor)):
        array = np.asarray(value)
        yield f"{array.dtype} {array.shape}".encode()
        yield array.tobytes()
    else:
        yield repr(value).encode("utf-8", "backslashreplace")


def outcome(name: str, folder: Path, original: str | None) -> str:
    """The outcome of reading the input: one of RIGHT, or a description of the error.

    `original`: the digest of the undamaged input. None: the input is undamaged, and its digest is returned.
    """
    files = set(folder.rglob("*"))
    try:
        result = digest(read(name, folder))
    except InputError as error:
        line = str(error)
        if not line.isprintable() or len(line) > 5000:
            return "refused, not in one line"
        if any(sign in line for sign in NO_MEMORY):
            return f"too much memory: {line[:200]}"
        if str(folder) not in line:
            return f"refused without the file's name: {line[:200]}"
        result = REFUSED
    except AssertionError as error:
        return f"impossible value: {str(error)[:200]}"
    except BaseException as error:
        return f"traceback: {type(error).__name__}: {str(error)[:200]}"
    if (folder / "attacked").exists():
        return "code was executed"
    cache = folder / "store" / "targets"  # written again where it is missing
    if new := {path for path in folder.rglob("*") if not path.is_relative_to(cache)} - files:
        return f"written: {sorted(new)[0].relative_to(folder)}"
    if result == REFUSED or original is None:
        return result
    if result == original:
        return SAME
    return "changed in silence" if SUBJECTS[name].checked else ANOTHER


def _work(connection: Connection) -> None:
    """Reads one input after another until the connection is closed."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection.send("ready")
    limited = False
    while True:
        try:
            name, folder, original = connection.recv()
        except EOFError:
            return
        if original is not None and not limited:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
            limited = True
        connection.send(outcome(name, folder, original))


class Reader:
    """A process that reads inputs; it is restarted if one kills it."""

    def __init__(self, originals: Path):
        self._originals = originals
        self._process: multiprocessing.process.BaseProcess | None = None
        self.digests: dict[str, str] = {}

    def read(self, name: str, folder: Path) -> str:
        """The outcome of one input."""
        if self._process is None:
            self._start()
        return self._ask(name, folder, self.digests[name], SECONDS)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None

    def _start(self) -> None:
        """Start a process that first reads every original, so that late imports do not count as an input's memory."""
        self._connection, theirs = _context.Pipe()
        self._process = _context.Process(target=_work, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        assert self._connection.poll(START_SECONDS) and self._connection.recv() == "ready"
        for name in SUBJECTS:
            if (self._originals / name).is_dir():
                self.digests[name] = self._ask(name, self._originals / name, None, START_SECONDS)
                assert len(self.digests[name]) == 64, f"{name}: {self.digests[name]}"

    def _ask(self, name: str, folder: Path, original: str | None, seconds: float) -> str:
        assert self._process is not None
        self._connection.send((name, folder, original))
        try:
            if self._connection.poll(seconds):
                return self._connection.recv()
            result = "no end"
        except (EOFError, ConnectionResetError):
            self._process.join()
            status = self._process.exitcode or 0
            result = f"crash: {signal.Signals(-status).name if status < 0 else f'status {status}'}"
        self.close()
        return result


def inputs(count: int, seed: int, names: Iterable[str] = SUBJECTS) -> Iterator[tuple[str, str, str, float]]:
    """(reader, damage, outcome, seconds) of `count` damaged inputs, cycling through the readers."""
    _context.set_forkserver_preload(["benchmarks.faults_inputs"])
    names = list(names)
    with tempfile.TemporaryDirectory() as work:
        originals, folder = Path(work) / "originals", Path(work) / "input"
        for name in names:
            (originals / name).mkdir(parents=True)
            SUBJECTS[name].write(originals / name)
        reader = Reader(originals)
        try:
            for number in range(count):
                rng, name = random.Random(f"{seed} {number}"), names[number % len(names)]
                shutil.rmtree(folder, ignore_errors=True)
                shutil.copytree(originals / name, folder)
                files = sorted(path for path in folder.rglob(SUBJECTS[name].damaged) if path.is_file())
                kind = damage(rng.choice(files), rng)
                start = time.perf_counter()
                result = reader.read(name, folder)
                yield name, kind, result, time.perf_counter() - start
        finally:
            reader.close()


def run(count: int, seed: int = 0, names: Iterable[str] = SUBJECTS) -> list[FaultRow]:
    """One row per reader. Wrong outcomes are printed with the input's number."""
    rows: dict[str, FaultRow] = {}
    for number, (name, kind, result, seconds) in enumerate(inputs(count, seed, names)):
        row = rows.setdefault(name, FaultRow(name, right=RIGHT))
        row.outcomes[result if result in RIGHT else result.partition(":")[0]] += 1
        row.worst_seconds = max(row.worst_seconds, seconds)
        if result not in RIGHT:
            print(f"input {number}, seed {seed}, {name}, {kind}: {result}", file=sys.stderr, flush=True)
    return list(rows.values())
