"""Training faults: a killed, stopped or damaged run resumes to the same weights, or one line says why it cannot.

Each trial copies a run that has its first checkpoints, injects a fault, and repeats the command until it ends. Two
outcomes are correct: the final weights are bitwise equal to those of an undisturbed run, or the command is refused with
one line. A traceback, other weights, and a start that never ends are wrong.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # the project's root instead of this file's own folder

import numpy as np

from benchmarks.faults_stores import FaultRow
from unisign_fast.pipelines.store.keypoint_store import KeypointStoreWriter

RIGHT = ("identical", "refused in one line")
CLIPS, FRAMES, EPOCHS = 16, 12, 4
STARTS = 4  # of a trial at most
LIMIT = 300  # seconds of a start
TEXTS = ("good morning", "good evening", "how are you", "thank you very much")
ROOT = Path(__file__).parents[1]


def write_corpus(path: Path) -> None:
    """A store of a few short clips."""
    rng = np.random.default_rng(0)
    with KeypointStoreWriter(path, {"estimator": "none", "version": "1", "coordinates": "fractions"}) as writer:
        for i in range(CLIPS):
            fields = {
                "split": "train",
                "language": "en",
                "text": TEXTS[i % len(TEXTS)],
                "fps": 25,
                "width": 64,
                "height": 48,
            }
            writer.add(rng.uniform(0.2, 0.8, (FRAMES, 133, 3)), id=f"clip{i}", **fields)


def command(store: Path, run: Path) -> list[str]:
    """The training whose faults are tried: eight steps, a checkpoint after every second."""
    sizes = ["--d-model", "32", "--d-kv", "8", "--d-ff", "64", "--num-layers", "1", "--num-decoder-layers", "1"]
    length = ["--epochs", str(EPOCHS), "--clips-per-step", "8", "--checkpoint-every-steps", "2"]
    script = [sys.executable, str(ROOT / "launch" / "pretrain.py"), "--stores", str(store), "--out", str(run)]
    return [*script, *length, *sizes, "--log-every-steps", "1"]


class Start:
    """One start of the command in a process group of its own, its output in a file."""

    def __init__(self, arguments: list[str], output: Path):
        self.output = output
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
        with output.open("w") as file:
            self.process = subprocess.Popen(
                arguments, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, env=environment
            )

    def wait(self, seconds: float = LIMIT) -> int | None:
        """The exit status; None, and the processes are gone, where it takes longer."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            self.process.wait()
            return None

    def send(self, number: int) -> None:
        """A signal to the whole group."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    @property
    def said(self) -> str:
        return self.output.read_text(errors="replace")


Fault = Callable[[Path, list[str], random.Random], None]  # of a run folder and the command that goes on with it


def _signalled(number: int) -> Fault:
    """A signal at some moment of a start, from the first import to the last checkpoint."""

    def act(run: Path, arguments: list[str], rng: random.Random) -> None:
        start = Start(arguments, run.with_name("fault.log"))
        log = run / "log.jsonl"
        size, wanted = log.stat().st_size, rng.randrange(1, 1200)
        delay = rng.choice([0.0, 0.0, rng.uniform(0, 3)])
        while start.process.poll() is None and log.stat().st_size - size < wanted:
            time.sleep(0.002)
        time.sleep(delay)
        start.send(number)
        status = start.wait()
        allowed = (0, -number, 128 + number)
        assert status in allowed and "Traceback" not in start.said, f"status {status}: {start.said[-500:]}"

    return act


def _file_of(run: Path, rng: random.Random, *patterns: str) -> Path:
    files = sorted(path for pattern in patterns for path in run.glob(pattern) if path.is_file())
    return rng.choice(files)


def _cut(run: Path, _arguments: list[str], rng: random.Random) -> None:
    path = _file_of(run, rng, "checkpoints/*/*", "tokenizer/*", "log.jsonl", "settings.json")
    os.truncate(path, rng.randrange(path.stat().st_size))


def _flipped(run: Path, _arguments: list[str], rng: random.Random) -> None:
    path = _file_of(run, rng, "checkpoints/*/*", "tokenizer/*", "settings.json")
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def _deleted(run: Path, _arguments: list[str], rng: random.Random) -> None:
    _file_of(run, rng, "checkpoints/*/*", "checkpoints/latest", "tokenizer/*", "settings.json").unlink()


def _strange(run: Path, _arguments: list[str], rng: random.Random) -> None:
    """Things called like a checkpoint, and manifests of wrong types."""
    folder = run / "checkpoints"
    match rng.randrange(5):
        case 0:
            (folder / "step_00000099").write_text("no folder")
        case 1:
            (folder / "step_00000098").symlink_to("nowhere")
        case 2:
            (folder / "step_00000097").mkdir()
            (folder / "step_00000097" / "manifest.json").write_text("[" * 100_000)
        case 3:
            (folder / "step_00000096").mkdir()
            values = rng.choice(['{"state": null, "files": {}}', '{"state": {}, "files": {"a": 7}}', "7", '"x"'])
            (folder / "step_00000096" / "manifest.json").write_text(values)
        case 4:
            (run / "lock").write_bytes(rng.randbytes(40))


def _second_start(run: Path, arguments: list[str], _rng: random.Random) -> None:
    """Two starts at once: one of them trains."""
    starts = [Start(arguments, run.with_name(f"start{number}.log")) for number in (1, 2)]
    statuses = [start.wait() for start in starts]
    said = "".join(start.said for start in starts)
    assert 0 in statuses and set(statuses) <= {0, 2} and "Traceback" not in said, f"{statuses} {said[-500:]}"


FAULTS: dict[str, Fault] = {
    "SIGKILL": _signalled(signal.SIGKILL),
    "SIGTERM": _signalled(signal.SIGTERM),
    "Ctrl-C": _signalled(signal.SIGINT),
    "a file cut short": _cut,
    "a flipped bit": _flipped,
    "a file deleted": _deleted,
    "strange checkpoints": _strange,
    "two starts at once": _second_start,
}


def outcome(run: Path, arguments: list[str], expected: bytes) -> str:
    """What repeating the command comes to: one of RIGHT, or what is wrong."""
    for number in range(STARTS):
        start = Start(arguments, run.with_name(f"again{number}.log"))
        status = start.wait()
        if status is None:
            return "no end"
        if "Traceback" in start.said:
            return "traceback"
        if status == 0:
            same = (run / "last" / "model.safetensors").read_bytes() == expected
            return "identical" if same else "other weights"
        if status == 2 and start.said.rstrip().splitlines()[-1].startswith("error: "):
            return "refused in one line"
    return f"status {status}"


def trials(minutes: float, seed: int, kinds: tuple[str, ...] = tuple(FAULTS)) -> Iterator[tuple[str, str, float]]:
    """(kind, outcome, seconds until the run was through) of one fault after the other, for so long."""
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_corpus(work / "store")
        whole, begun = work / "whole", work / "begun"
        assert Start(command(work / "store", whole), work / "whole.log").wait() == 0, (work / "whole.log").read_text()
        expected = (whole / "last" / "model.safetensors").read_bytes()
        shutil.copytree(whole, begun)  # a run that stands after step 6: its last checkpoint is taken away
        shutil.rmtree(max((begun / "checkpoints").glob("step_*")))
        shutil.rmtree(begun / "last")
        number = 0
        while number < len(kinds) or time.monotonic() < end:
            rng, kind = random.Random(f"{seed} {number}"), kinds[number % len(kinds)]
            run = work / "trial" / "run"
            shutil.rmtree(run.parent, ignore_errors=True)
            shutil.copytree(begun, run)
            arguments, start = command(work / "store", run), time.monotonic()
            try:
                FAULTS[kind](run, arguments, rng)
                result = outcome(run, arguments, expected)
            except AssertionError as error:
                result = f"wrong: {' '.join(str(error).split())[:160]}"
            yield kind, result, time.monotonic() - start
            number += 1


def run(minutes: float, seed: int, kinds: tuple[str, ...] = tuple(FAULTS)) -> list[FaultRow]:
    """A row a kind of fault; every kind is tried once at least."""
    rows = {kind: FaultRow(kind, right=RIGHT) for kind in kinds}
    for kind, result, seconds in trials(minutes, seed, kinds):
        rows[kind].outcomes[result] += 1
        rows[kind].worst_seconds = max(rows[kind].worst_seconds, seconds)
    return list(rows.values())
