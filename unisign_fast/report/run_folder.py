"""Reads the files of a run folder, as far as they exist."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import msgspec

from unisign_fast.evaluation.predictions import Prediction, read_predictions
from unisign_fast.evaluation.score_file import read_scores
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.input_files import read_json
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.utils.event_log import MAX_STEP, read_events

REMEDY = "use the version of the project that trained it, or train again"


class _Seed(msgspec.Struct):
    seed: int


class _Settings(msgspec.Struct):
    """The settings that a report needs."""

    recipe: str
    stage: int
    stores: list[str]
    data: dict[str, Any]
    train: _Seed


@dataclass(frozen=True)
class RunFolder:
    """A run, finished or not."""

    path: Path
    recipe: str
    stage: int
    stores: list[Path]
    data: DataSettings
    seed: int
    settings: dict  # as recorded, without `start`
    start: dict  # the last start: command, commit, versions, data; {} if not recorded
    events: list[dict]  # of log.jsonl; none if it is missing
    scores: dict | None  # of scores-test.json
    predictions: list[Prediction]  # of predictions-test.jsonl; none if it is missing
    model: Path | None  # the weights that were tested: best/, else last/

    def logged(self, event: str) -> list[dict]:
        """The events of one kind; those of steps and evaluations in the order of their steps.

        Where a resumed run logged a step twice, only the later entry counts.
        """
        events = [e for e in self.events if e.get("event") == event]
        if event not in ("step", "evaluation"):
            return events
        by_step = {e["step"]: e for e in events if isinstance(e.get("step"), int) and 0 <= e["step"] < MAX_STEP}
        return [by_step[step] for step in sorted(by_step)]


def read_run(path: Path) -> RunFolder:
    """Reads a run. Raises InputError if `path` is not a run folder or its contents cannot be read."""
    log, settings = path / "log.jsonl", path / "settings.json"
    if not (log.is_file() or settings.is_file()):
        problem = "is not a run folder (it has neither log.jsonl nor settings.json)"
        raise InputError(path, problem, "name a folder that launch/pretrain.py or launch/finetune.py wrote")
    events = read_events(log) if log.is_file() else []
    where, values = (settings, _read_json(settings)) if settings.is_file() else (log, _settings_of_log(events))
    scores, predictions = path / "scores-test.json", path / "predictions-test.jsonl"
    models = [path / name for name in ("best", "last") if (path / name / "config.json").is_file()]
    checked, data = _checked(values, where)
    return RunFolder(
        path=path,
        recipe=checked.recipe,
        stage=checked.stage,
        stores=[Path(store) for store in checked.stores],
        data=data,
        seed=checked.train.seed,
        settings={name: value for name, value in values.items() if name != "start"},
        start=start if isinstance(start := values.get("start"), dict) else {},
        events=events,
        scores=_read_scores(scores) if scores.is_file() else None,
        predictions=read_predictions(predictions) if predictions.is_file() else [],
        model=models[0] if models else None,
    )


def _checked(values: dict, where: Path) -> tuple[_Settings, DataSettings]:
    """The settings, converted to their types. Raises InputError naming the file and field."""
    problem = "does not say how the run was trained"
    try:
        checked = msgspec.convert(values, _Settings)
        unknown = checked.data.keys() - DataSettings.__dataclass_fields__
        if unknown:
            raise InputError("data", f"has an unknown field {min(unknown)!r}", REMEDY)
        return checked, msgspec.convert(checked.data, DataSettings)
    except msgspec.ValidationError as error:
        raise InputError(where, f"{problem} ({error})", REMEDY) from None
    except InputError as error:
        raise InputError(where, f"{problem} ({error.where}: {error.problem})", REMEDY) from None


def _settings_of_log(events: list[dict]) -> dict:
    """The settings of an unfinished run of version 0.1, which wrote settings.json only at the end.

    They are in the log's `start` event, grouped differently.
    """
    nothing: dict = {"recipe": {}, "setting": {}}
    start = next((event for event in events if event.get("event") == "start"), nothing)
    recipe = start.get("recipe")
    if not isinstance(recipe, dict):
        return {}
    data = {f.name: recipe[f.name] for f in fields(DataSettings) if f.name in recipe}
    return {**recipe, "data": data, "train": start.get("setting")}


def _read_scores(path: Path) -> dict:
    scores = _read_json(path)
    missing = [name for name in ("values", "signature", "normalization", "count") if name not in scores]
    if missing:
        raise InputError(path, f"lacks {', '.join(missing)}", "score the run again with launch/evaluate.py")
    read_scores(path)  # checks the values
    return scores


def _read_json(path: Path) -> dict:
    values = read_json(path, remedy := "train again, or remove the file")
    if not isinstance(values, dict):
        raise InputError(path, "is not a JSON object", remedy)
    return values
