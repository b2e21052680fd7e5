"""Faults of corpus making: killed drivers and workers, bad files, a full disk, changed settings.

A trial makes the corpus of a few small programmes in several starts, each disturbed by a fault, and a last one that is
not. The outcome is right if the release's store is byte-identical to the undisturbed one, every part exists once,
nothing unfinished is left, and the dead letters are the bad files, each with its reason; after a changed setting,
exactly what depends on it is made again. Workers run on the campaign's own Ray cluster or, in every fourth trial, on
one that each driver starts.
"""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:1] = [str(ROOT), str(ROOT / "tests" / "helpers")]

from pose_networks import write_detector, write_pose_network
from programmes import write_programme, write_sources

from benchmarks.faults_curation_drivers import PART_SECONDS, Start, Trial, ray_cluster, workers_of
from benchmarks.faults_stores import FaultRow

PROGRAMMES, SECONDS = 5, 2
PARTS = PROGRAMMES * SECONDS // PART_SECONDS
SAME, NAMED, REFUSED, REPEATED = (
    "identical",
    "dead letter, the rest identical",
    "refused in one line",
    "only what depends",
)
RIGHT = (SAME, NAMED, REFUSED, REPEATED)
KILLED_WORKERS = 2  # per trial: three on the same item would make it a dead letter


CHANGES = ("lag", "target_seconds", "most_copies", "touched", "network")


def kill_driver(trial: Trial) -> None:
    """SIGKILL or SIGTERM to the driver at a random moment."""
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
    """SIGKILL to busy workers, and a second driver at the same time, which is refused."""
    start, killed = trial.start(), set()
    for _ in range(KILLED_WORKERS):
        new: list[int] = []

        def has_new_workers() -> bool:
            new[:] = [pid for pid in workers_of(trial.mark) if pid not in killed]
            return bool(new)

        if trial.until(start, has_new_workers):
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
    """Only files of a few kilobytes can be written."""
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
    """Another lag, cut or cap, or a touched file, repeats nothing; another network all parts; changing back nothing."""
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


def _content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def _check(trial: Trial, expected: dict[str, bytes], bad: list[Path]) -> None:
    """Raises AssertionError if a trial did not end like the undisturbed corpus."""
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
    """Writes a second series, of programmes that kill their worker or are cut short."""
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


def trials(minutes: float, seed: int) -> Iterator[tuple[str, str, float]]:
    """(kind, outcome, seconds of its trial) of one fault after another, for so many minutes."""
    end = time.monotonic() + 60 * minutes
    mark = f"faults-{os.getpid()}"
    os.environ |= {"FAULTS_MARK": mark, "PYTHONPATH": os.pathsep.join(sys.path[:2]), "RAY_BACKEND_LOG_LEVEL": "fatal"}
    os.environ["RAY_AUTH_MODE"] = "token"  # of the cluster and its drivers
    import ray.data  # noqa: F401  # before the drivers are forked

    with tempfile.TemporaryDirectory(prefix="faults-") as folder, ray_cluster(mark, Path(folder)) as address:
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
    """A row for each kind of fault."""
    rows: dict[str, FaultRow] = {}
    for kind, result, seconds in trials(minutes, seed):
        row = rows.setdefault(kind, FaultRow(kind, right=RIGHT))
        row.outcomes[result] += 1
        row.worst_seconds = max(row.worst_seconds, seconds)
        print(f"{kind}: {result} ({seconds:.0f} s)", file=sys.stderr, flush=True)
    return sorted(rows.values(), key=lambda row: row.kind)
