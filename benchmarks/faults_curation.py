"""Faults of corpus making: killed drivers and workers, bad files, a full disk, changed settings.

A trial makes the corpus of a few small programmes in several starts, each disturbed by a fault, and one last start that
is not. Right is that the release's store equals the undisturbed one in every byte, that every part is there once, that
nothing unfinished is left, and that the dead letters are the bad files, each with its reason; and for a changed setting
that exactly what depends on it is made again. Drivers are forked from a process that has imported everything; workers
are real ones of Ray, on a cluster of the campaign's own or, in every fourth trial, on one that each driver starts.
"""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:1] = [str(ROOT), str(ROOT / "tests" / "helpers")]

from pose_networks import write_detector, write_pose_network
from programmes import write_programme, write_sources

from benchmarks.faults_stores import FaultRow
from launch.curate import run as run_curate
from unisign_fast.pipelines.curation import run as driver
from unisign_fast.pipelines.curation.parts import PartMaker
from unisign_fast.pipelines.curation.plans import PlanMaker
from unisign_fast.utils.console import clean_exit

PROGRAMMES, SECONDS, PART_SECONDS = 5, 2, 1
PARTS = PROGRAMMES * SECONDS // PART_SECONDS
LIMIT = 400  # seconds of a start
SAME, NAMED, REFUSED, REPEATED = (
    "identical",
    "dead letter, the rest identical",
    "refused in one line",
    "only what depends",
)
RIGHT = (SAME, NAMED, REFUSED, REPEATED)
KILLED_WORKERS = 2  # of a trial: three of them over one item would make it a dead letter
SMALL_FILES = 4_000  # bytes, the largest file where the disk is full


CHANGES = ("lag", "target_seconds", "most_copies", "touched", "network")


class FaultyPlanMaker(PlanMaker):
    """Some programmes kill their worker."""

    def make(self, item):
        if "kills" in Path(item["video"]).name:
            signal.raise_signal(signal.SIGSEGV)  # in this thread; os.kill may choose another while this one goes on
        return super().make(item)


class FaultyPartMaker(PartMaker):
    """The disk may be full."""

    def write(self, key, content, seconds):
        full = (self.folder.root / "full").exists()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_FILES if full else limits[0], limits[1]))
        try:
            super().write(key, content, seconds)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class Start:
    """A driver in a process of its own, forked from this one."""

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
        """The exit status. AssertionError where it takes too long."""
        end = time.monotonic() + LIMIT
        while self.is_running():
            if time.monotonic() > end:
                self.send(signal.SIGKILL)
                raise AssertionError(f"no end within {LIMIT} s")
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
        """Its line on what it made. AssertionError if it did not end well."""
        status = self.wait()
        assert status == 0, f"status {status}: {self.said[-600:]}"
        return next(line for line in self.said.splitlines() if " parts made" in line).partition(": ")[2]


@dataclass
class Trial:
    """One corpus. `faults` are (kind, outcome if all is right in the end)."""

    material: Path
    out: Path
    sources: Path
    mark: str  # in the environment of all workers
    rng: random.Random
    faults: list[tuple[str, str]] = field(default_factory=list)

    def start(self, **options) -> Start:
        return Start(self.out, self.material, self.sources, **options)

    def finished(self) -> int:
        """Plans and parts that are there."""
        return sum(1 for name in ("plans", "parts") for _ in (self.out / name).glob("[0-9a-f]*"))

    def until(self, start: Start, reached: Callable[[], bool]) -> bool:
        """Waits for a state; False if the driver ended before."""
        end = time.monotonic() + LIMIT
        while start.is_running() and time.monotonic() < end:
            if reached():
                return True
            time.sleep(0.01)
        return False


def kill_driver(trial: Trial) -> None:
    """SIGKILL or SIGTERM of the driver at some moment."""
    number = trial.rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
    wanted = trial.finished() + trial.rng.randrange(0, 5)
    start = trial.start()
    if trial.until(start, lambda: trial.finished() >= wanted):
        time.sleep(trial.rng.choice([0.0, 0.02, trial.rng.uniform(0, 3)]))
        if start.is_running():
            trial.faults.append((f"driver killed ({number.name})", SAME))
        start.send(number)
    start.wait()


def kill_workers(trial: Trial) -> None:
    """SIGKILL of workers while they work, and a second driver at the same time, which is refused."""
    start, killed = trial.start(), set()
    for _ in range(KILLED_WORKERS):
        new: list[int] = []

        def found() -> bool:
            new[:] = [pid for pid in _workers(trial.mark) if pid not in killed]
            return bool(new)

        if trial.until(start, found):
            time.sleep(trial.rng.uniform(0, 1.5))
            pid = trial.rng.choice(new)
            if start.is_running():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    trial.faults.append(("worker killed", SAME))
            killed.add(pid)
    if start.is_running():
        second = trial.start()
        if second.wait() == 2 and "is in use" in second.said and "Traceback" not in second.said:
            trial.faults.append(("two drivers at once", REFUSED))
        else:
            assert not start.is_running(), second.said[-400:]
    start.made()


def fill_disk(trial: Trial) -> None:
    """No file of more than a few kilobytes can be written."""
    (trial.out / "full").parent.mkdir(parents=True, exist_ok=True)
    (trial.out / "full").touch()
    start = trial.start()
    status = start.wait()
    (trial.out / "full").unlink()
    if "parts made" not in start.said:
        one_line = start.said.strip().splitlines()[-1]
        assert status == 2 and one_line.startswith("error: ") and "cannot be written" in one_line, start.said[-600:]
        trial.faults.append(("disk full", SAME))


def plant_leftovers(trial: Trial) -> None:
    """What a dead writer leaves: a half-written part."""
    folder = trial.out / "unfinished" / f"{'0' * 16}-{'1' * 16}.dead"
    (folder / "keypoints.zarr").mkdir(parents=True)
    (folder / "manifest.jsonl").write_bytes(trial.rng.randbytes(1000))
    trial.faults.append(("a dead writer's leftovers", SAME))


def change_setting(trial: Trial, kind: str) -> None:
    """Another lag, cut or cap makes nothing, a touched file nothing, another network all parts; and back nothing."""
    values = {"lag": 0.2, "target_seconds": 9.5, "most_copies": 1}
    options: dict = {kind: values[kind]} if kind in values else {}
    parts = 0
    if kind == "network":
        options, parts = {"pose_model": trial.material / "other.onnx"}, PARTS
    if kind == "touched":
        for video in (trial.material / "news").glob("*.mp4"):
            os.utime(video)
    said = trial.start(**options).made()
    assert said.startswith(f"0 plans and {parts} parts made, 0 dead"), said
    said = trial.start().made()
    assert said.startswith("0 plans and 0 parts made, 0 dead"), said
    name = {"touched": "files touched", "network": "another network"}.get(kind, "another setting")
    trial.faults.append((name, REPEATED))


def _workers(mark: str) -> list[int]:
    """Workers of Ray that make plans or parts for this campaign."""
    processes = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            title = (entry / "cmdline").read_bytes()
            if b"ray::" in title and b"Faulty" in title and mark.encode() in (entry / "environ").read_bytes():
                processes.append(int(entry.name))
    return processes


def _content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def _check(trial: Trial, expected: dict[str, bytes], bad: list[Path]) -> None:
    """AssertionError if a trial did not end as the undisturbed corpus."""
    store = (trial.out / "current" / "store").resolve()
    assert _content(store) == expected, "another release"
    parts = [path for path in (trial.out / "parts").iterdir() if not path.name.startswith(".")]
    assert len(parts) >= PARTS and all((part / "part.json").exists() for part in parts), "parts"
    assert not list((trial.out / "unfinished").glob("*")), "unfinished work is left"
    letters = [json.loads(path.read_text()) for path in (trial.out / "dead").glob("*.json")]
    assert len(letters) == len(bad), letters
    assert all("times" in one["reason"] or "decode" in one["reason"] or "open" in one["reason"] for one in letters), (
        letters
    )
    left = {path.name for path in (trial.out / "attempts").glob("*")}
    assert left <= {path.stem for path in (trial.out / "dead").glob("*.json")}, left


def _write_material(root: Path) -> None:
    for number in range(PROGRAMMES):
        write_programme(root / "news" / f"news-2026-05-{number + 1:02d}.mp4", number, SECONDS)
    write_detector(root / "detector.onnx")
    write_pose_network(root / "pose.onnx")
    write_pose_network(root / "other.onnx", batch=1)
    (root / "thresholds.json").write_text('{"min_hands_share": 0, "min_hand_speed": 0, "min_single_share": 0}')
    write_sources(root / "sources.toml")


def _write_bad(trial: Trial, trial_folder: Path) -> list[Path]:
    """Programmes that kill their worker or are cut short, of a second series."""
    good = sorted((trial.material / "news").glob("*.mp4"))
    bad = []
    for number in range(trial.rng.randrange(2, 6)):
        kills = trial.rng.random() < 0.5
        path = trial_folder / "bad" / f"{'kills' if kills else 'cut'}-{number}.mp4"
        path.parent.mkdir(exist_ok=True)
        content = trial.rng.choice(good).read_bytes()
        cut = trial.rng.randrange(100, len(content) - 1000)
        path.write_bytes(content + trial.rng.randbytes(8) if kills else content[:cut])
        path.with_suffix(".vtt").write_text("WEBVTT\n\n00:00:00.000 --> 00:00:01.000\nNever seen.\n")
        trial.faults.append(("a file that kills its worker" if kills else "a file cut short", NAMED))
        bad.append(path)
    second = trial.sources.read_text().replace('"news"', '"bad"').replace('"news/*.mp4"', f'"{trial_folder}/bad/*.mp4"')
    first = trial.sources.read_text().replace('"news/*.mp4"', f'"{trial.material}/news/*.mp4"')
    trial.sources = trial_folder / "sources.toml"
    trial.sources.write_text(first + second)
    return bad


@contextmanager
def _cluster(mark: str, folder: Path) -> Iterator[str]:
    """A Ray cluster of one node until the block ends, also on SIGTERM; its address."""
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


def trials(minutes: float, seed: int) -> Iterator[tuple[str, str, float]]:
    """(kind, outcome, seconds of its trial) of one fault after the other, for so long."""
    end = time.monotonic() + 60 * minutes
    mark = f"faults-{os.getpid()}"
    os.environ |= {"FAULTS_MARK": mark, "PYTHONPATH": os.pathsep.join(sys.path[:2]), "RAY_BACKEND_LOG_LEVEL": "fatal"}
    os.environ["RAY_AUTH_MODE"] = "token"  # of the cluster and its drivers
    import ray.data  # noqa: F401  # before the drivers are forked

    with tempfile.TemporaryDirectory(prefix="faults-") as folder, _cluster(mark, Path(folder)) as address:
        material = Path(folder) / "material"
        _write_material(material)
        os.environ["RAY_ADDRESS"] = address
        undisturbed = Path(folder) / "undisturbed" / "out"
        undisturbed.parent.mkdir()
        said = Start(undisturbed, material, material / "sources.toml").made()
        assert said.startswith(f"{PROGRAMMES} plans and {PARTS} parts made, 0 dead"), said
        expected = _content((undisturbed / "current" / "store").resolve())
        number = 0
        while number == 0 or time.monotonic() < end:
            rng, began = random.Random(f"{seed} {number}"), time.monotonic()
            if number % 4 == 3:
                os.environ.pop("RAY_ADDRESS", None)
            else:
                os.environ["RAY_ADDRESS"] = address
            work = Path(folder) / f"trial-{number}"
            work.mkdir()
            trial = Trial(material, work / "out", material / "sources.toml", mark, rng)
            bad = _write_bad(trial, work)
            wrong = ""
            try:
                kill_driver(trial)
                plant_leftovers(trial)
                fill_disk(trial)
                kill_driver(trial)
                kill_workers(trial)
                _check(trial, expected, bad)
                for kind in rng.sample(CHANGES, 4):
                    change_setting(trial, kind)
                _check(trial, expected, bad)
            except AssertionError as error:
                wrong = f"wrong: {' '.join(str(error).split())[:300]}"
            for kind, right in trial.faults:
                yield kind, wrong or right, time.monotonic() - began
            shutil.rmtree(work, ignore_errors=True)
            number += 1


def run(minutes: float, seed: int) -> list[FaultRow]:
    """A row a kind of fault."""
    rows: dict[str, FaultRow] = {}
    for kind, result, seconds in trials(minutes, seed):
        row = rows.setdefault(kind, FaultRow(kind, right=RIGHT))
        row.outcomes[result] += 1
        row.worst_seconds = max(row.worst_seconds, seconds)
        print(f"{kind}: {result} ({seconds:.0f} s)", file=sys.stderr, flush=True)
    return sorted(rows.values(), key=lambda row: row.kind)
