"""The head of the page: what was trained, by which code, with which settings and on which data."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.store.clip import SPLITS
from unisign_fast.pipelines.store.keypoint_store import KeypointStore
from unisign_fast.report.run_folder import RunFolder

STAGES = {1: "pose-only pre-training", 2: "RGB-pose pre-training", 3: "fine-tuning"}
TASKS = {"slt": "sentences (SLT)", "cslr": "glosses (CSLR)", "islr": "words (ISLR)"}
NOT_RECORDED = "not recorded"


class Fact(NamedTuple):
    """A line of the head."""

    name: str
    value: str
    code: bool = False  # set in a fixed-width font


@dataclass(frozen=True)
class DataRow:
    """One of the run's stores."""

    name: str
    path: str
    content: str  # clips, frames and checksum when the run started
    splits: str  # clips of each split, now
    problem: str  # "" if the store is there and has not changed since the start


def modality(run: RunFolder) -> str:
    """What the model reads: keypoints, or keypoints and hand crops."""
    return "RGB-pose" if run.data.p_samp else "pose-only"


def facts(run: RunFolder, written: str) -> list[Fact]:
    """What identifies the run, as far as its files record it; `written` is the time of the report."""
    train, start = run.settings.get("train", {}), run.start
    rgb = f", p_samp {run.data.p_samp:g}" if run.data.p_samp else ""
    result = [
        Fact("Recipe", f"{run.recipe}, stage {run.stage} ({STAGES.get(run.stage, 'unknown')})"),
        Fact("Task", TASKS[run.data.task]),
        Fact("Modality", modality(run) + rgb),
        Fact("Steps", _steps(run)),
    ]
    for name, key in (
        ("Epochs", "epochs"),
        ("Clips per step", "clips_per_step"),
        ("Learning rate", "learning_rate"),
        ("Precision", "precision"),
        ("Seed", "seed"),
    ):
        if key in train:
            result.append(Fact(name, str(train[key])))
    versions = start.get("versions")
    libraries = (
        ", ".join(f"{name} {version}" for name, version in versions.items()) if isinstance(versions, dict) else ""
    )
    commit = str(start.get("commit") or NOT_RECORDED)
    code = commit.removesuffix("+")
    result += [
        Fact("Commit", f"{code}, with uncommitted changes" if code != commit else code, code != NOT_RECORDED),
        Fact("unisign_fast", str(start.get("unisign_fast", NOT_RECORDED))),
        Fact("Libraries", libraries or NOT_RECORDED),
        Fact("Ranks", str(start.get("ranks", NOT_RECORDED))),
        Fact("Started", str(start.get("time", NOT_RECORDED))),
        Fact("Report written", written),
    ]
    command = start.get("command")
    if isinstance(command, list):
        result.append(Fact("Command", " ".join(map(str, command)), code=True))
    return result


def data_rows(run: RunFolder, stores: Sequence[KeypointStore | InputError]) -> list[DataRow]:
    """A row for each of the run's stores; `stores` holds each one opened, or the error that prevents it."""
    recorded = run.start.get("data")
    entries = recorded if isinstance(recorded, list) else []
    contents = [str(entry["content"]) for entry in entries if isinstance(entry, dict) and "content" in entry]
    contents += [NOT_RECORDED] * (len(stores) - len(contents))
    rows = []
    for path, content, store in zip(run.stores, contents, stores):
        splits = problem = ""
        if isinstance(store, InputError):
            problem = str(store)
        else:
            counts = {split: len(store.clips.numbers_in(split)) for split in SPLITS}
            splits = ", ".join(f"{split} {count}" for split, count in counts.items() if count)
            checksum = f"{store.manifest_crc32c:08x}"
            if content != NOT_RECORDED and not content.endswith(checksum):
                problem = f"The store has changed since the run started: its checksum is now {checksum}."
        rows.append(DataRow(path.name, str(path), content, splits, problem))
    return rows


def setting_rows(run: RunFolder) -> list[tuple[str, str]]:
    """Every recorded setting by its dotted name."""
    return list(_flattened(run.settings, ""))


def _steps(run: RunFolder) -> str:
    steps = run.logged("step")
    if not steps:
        return "none logged"
    return f"{steps[-1]['step']} logged, {'finished' if run.logged('finished') else 'not finished'}"


def _flattened(value: object, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flattened(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        yield name, ", ".join(map(str, value)) or "none"
    else:
        yield name, "none" if value is None or value == {} else str(value)
