"""The scores and speeds of finished runs, as rows and as one table."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from statistics import median

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
    """What the table needs of a run's settings.json."""

    data: _Data


class _OtherRow(msgspec.Struct):
    """What the table needs of a row that `write_rows` wrote."""

    task: str
    modality: str
    score: float


@dataclass(frozen=True)
class Row:
    """One fine-tuning run."""

    task: str
    modality: str
    metric: str
    signature: str
    score: float
    clips: int  # of the test split
    clips_per_second: list[float | None]  # training, stages 1 to 3; None where a stage was not trained


def training_speed(run: Path) -> float | None:
    """Median clips/s of a run's logged steps; None without any."""
    log = run / "log.jsonl"
    events = read_events(log) if log.is_file() else []
    rates = [event.clips_per_s for event in events_of(events, StepEvent) if isfinite(event.clips_per_s)]
    return median(rates) if rates else None


def summarise(root: Path) -> list[Row]:
    """A row for every run below `root` with test scores. Raises InputError if there is none."""
    runs = sorted(path.parent for path in root.glob("*/scores-test.json"))
    if not runs:
        raise InputError(root, "no run there has test scores", "train with launch/finetune.py first")
    rows = []
    for run in runs:
        data = read_settings(run / "settings.json", _Settings, "holds no settings of a run", REMEDY).data
        task, rgb = data.task, data.p_samp > 0
        metric = MAIN_METRIC[task][0]
        scores = read_scores(run / "scores-test.json", (metric,))
        before = [training_speed(root / "stage1"), training_speed(root / "stage2") if rgb else None]
        rows.append(
            Row(
                task=task.upper(),
                modality="RGB-pose" if rgb else "pose-only",
                metric=metric,
                signature=scores.signature,
                score=scores.values[metric],
                clips=scores.count,
                clips_per_second=[*before, training_speed(run)],
            )
        )
    return rows


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as JSON, to be shown beside other runs later."""
    write_json(path, [asdict(row) for row in rows])


def summary_table(title: str, rows: Sequence[Row], beside: Sequence[Path] = ()) -> Table:
    """The rows as a table; each file of `beside` (from `write_rows`) adds a column of scores, named like the file."""
    others = {path.stem: {(r.task, r.modality): r.score for r in _read_rows(path)} for path in beside}
    table = Table(title=title, caption="\n".join(sorted({f"{row.metric}: {row.signature}" for row in rows})))
    table.add_column("task")
    table.add_column("modality")
    table.add_column("metric")
    for name in ("score", *others, "clips", "clips/s, stages 1 2 3"):
        table.add_column(name, justify="right")
    for row in rows:
        compared = (scores.get((row.task, row.modality)) for scores in others.values())
        speeds = " ".join("-" if speed is None else f"{speed:.1f}" for speed in row.clips_per_second)
        scores = ("-" if score is None else f"{score:.2f}" for score in (row.score, *compared))
        table.add_row(row.task, row.modality, row.metric, *scores, str(row.clips), speeds)
    return table


def _read_rows(path: Path) -> list[_OtherRow]:
    return read_settings(path, list[_OtherRow], "holds no rows of a table", REMEDY)
