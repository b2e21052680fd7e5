"""The scores and speeds of finished runs, as rows and as one table."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from rich.table import Table

from unisign_fast.evaluation.evaluate import MAIN_METRIC
from unisign_fast.evaluation.predictions import write_json
from unisign_fast.evaluation.score_file import read_scores
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.input_files import read_settings
from unisign_fast.pipelines.targets import Task
from unisign_fast.utils.event_log import StepEvent, events_of, read_events

REMEDY = "name a file that a run or --json wrote"


class _Data(msgspec.Struct):
    task: Task
    p_samp: float


class _Settings(msgspec.Struct):
    """The fields of a run's settings.json that the table needs."""

    data: _Data
    stage: int = 3


class _OtherRow(msgspec.Struct):
    """The fields of a row written by `write_rows` that the table needs."""

    task: str
    modality: str
    score: float


@dataclass(frozen=True)
class Row:
    """One fine-tuning run."""

    run: str  # name of its folder
    task: str
    modality: str
    metric: str
    signature: str
    score: float
    clips: int  # of the test split
    clips_per_second: list[float | None]  # in training, stages 1 to 3; None if a stage was not trained
    setting: str  # its settings as JSON, equal for runs that differ in the seed only


def training_speed(run: Path) -> float | None:
    """Median clips/s of a run's logged steps; None if there are none."""
    log = run / "log.jsonl"
    events = read_events(log) if log.is_file() else []
    rates = [event.clips_per_s for event in events_of(events, StepEvent) if isfinite(event.clips_per_s)]
    return median(rates) if rates else None


def summarise(root: Path) -> tuple[list[Row], list[str]]:
    """A row for every fine-tuning run in `root`, or for `root` itself if it is one, and the reasons why other folders
    are skipped. Raises InputError if there is no row.
    """
    folders = [root] if (root / "settings.json").is_file() else sorted(path for path in root.glob("*") if path.is_dir())
    rows, skipped = [], []
    for folder in folders:
        try:
            if row := _row(folder):
                rows.append(row)
        except InputError as error:
            skipped.append(str(error))
    if not rows:
        problem = "no run there has test scores" + (f" ({skipped[0]})" if skipped else "")
        raise InputError(root, problem, "train with launch/finetune.py first")
    return rows, skipped


def _row(run: Path) -> Row | None:
    """The row of a run; None for a pre-training run. Raises InputError if the folder is not a run or has no test
    scores.
    """
    path, what = run / "settings.json", "holds no settings of a run"
    if not path.is_file():
        raise InputError(run, "is not a run", "name a folder of runs")
    values = read_settings(path, dict[str, Any], what, REMEDY)
    try:
        settings = msgspec.convert(values, _Settings)
    except msgspec.ValidationError as error:
        raise InputError(path, f"{what} ({error})", REMEDY) from None
    if settings.stage < 3:
        return None
    if not (run / "scores-test.json").is_file():
        raise InputError(run, "has no test scores", "finish the run")
    task, rgb = settings.data.task, settings.data.p_samp > 0
    metric = MAIN_METRIC[task][0]
    scores = read_scores(run / "scores-test.json", (metric,))
    pretraining = [training_speed(run.parent / "stage1"), training_speed(run.parent / "stage2") if rgb else None]
    return Row(
        run=run.name,
        task=task.upper(),
        modality="RGB-pose" if rgb else "pose-only",
        metric=metric,
        signature=scores.signature,
        score=scores.values[metric],
        clips=scores.count,
        clips_per_second=[*pretraining, training_speed(run)],
        setting=_without_seed(values),
    )


def _without_seed(settings: dict[str, Any]) -> str:
    """The settings as JSON, without the seed, the folder, and when and how the run was started."""
    settings = {key: value for key, value in settings.items() if key not in ("out", "start")}
    if isinstance(train := settings.get("train"), dict):
        settings["train"] = {key: value for key, value in train.items() if key != "seed"}
    return json.dumps(settings, sort_keys=True)


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as JSON for the `beside` of a later `summary_table`."""
    write_json(path, [asdict(row) for row in rows])


def summary_table(title: str, rows: Sequence[Row], beside: Sequence[Path] = ()) -> Table:
    """The rows as a table, with median and range of runs that differ in the seed only. Each file of `beside` (from
    `write_rows`) adds a column of scores, named after the file.
    """
    others = {path.stem: {(r.task, r.modality): r.score for r in _read_rows(path)} for path in beside}
    table = Table(title=title, caption="\n".join(sorted({f"{row.metric}: {row.signature}" for row in rows})))
    table.add_column("run", no_wrap=True)  # names of runs often differ in their last letters only
    for name in ("task", "modality", "metric"):
        table.add_column(name, overflow="fold")
    for name in ("score", *others, "clips", "clips/s, stages 1 2 3"):
        table.add_column(name, justify="right", overflow="fold")
    for row in rows:
        compared = (scores.get((row.task, row.modality)) for scores in others.values())
        speeds = " ".join("-" if speed is None else f"{speed:.1f}" for speed in row.clips_per_second)
        scores = ("-" if score is None else f"{score:.2f}" for score in (row.score, *compared))
        table.add_row(row.run, row.task, row.modality, row.metric, *scores, str(row.clips), speeds)
    groups = defaultdict(list)
    for row in rows:
        groups[row.setting].append(row)
    for group in groups.values():
        if len(group) > 1:
            seeds = sorted(row.score for row in group)
            spread = f"{median(seeds):.2f} ({seeds[0]:.2f} to {seeds[-1]:.2f})"
            first = group[0]
            table.add_row(f"median of {len(group)} seeds", first.task, first.modality, first.metric, spread)
    return table


def _read_rows(path: Path) -> list[_OtherRow]:
    return read_settings(path, list[_OtherRow], "holds no rows of a table", REMEDY)
