"""One run of launch/evaluate.py: generates or reads predictions, scores them and compares them with a baseline."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from unisign_fast.evaluation.metrics import Scores, score
from unisign_fast.evaluation.options import Options, Split
from unisign_fast.evaluation.predictions import (
    Prediction,
    read_baseline,
    read_predictions,
    recorded_language,
    write_json,
    write_predictions,
)
from unisign_fast.evaluation.significance import Difference, difference
from unisign_fast.evaluation.synonyms import read_class_list
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.targets import Task, language_code, language_name, script_mismatch

if TYPE_CHECKING:
    from unisign_fast.evaluation.evaluate import Evaluation


@dataclass(frozen=True)
class Result:
    """Scores, and how they differ from a baseline's."""

    task: Task
    language: str
    scores: Scores
    intervals: dict[str, tuple[float, float]]  # of the scores, by metric
    differences: dict[str, Difference]  # from the baseline, by metric; {} without one
    warnings: list[str]
    predictions: Path  # the file that is scored
    evaluation: "Evaluation | None"  # None if the predictions were not generated in this run


def evaluate(options: Options, show: Callable[[Result], None]) -> None:
    """Score and write as `options` specify, and `show` the result on the first rank only. Raises InputError if an input
    cannot be used.
    """
    if options.model is not None:
        _evaluate_model(options, show)
        return
    assert options.predictions is not None
    predictions = predictions_file(options.predictions, options.split)
    language = options.language or recorded_language(predictions)
    if language is None:
        raise InputError("--language", f"{predictions} does not name it", "give the texts' language, such as zh")
    if language_name(language) is None:
        raise InputError(f"{predictions}: language", f"{language!r} is not known", "give --language")
    assert options.task is not None  # required with --predictions
    rows = read_predictions(predictions, options.references)
    baseline = None
    if options.baseline is not None:
        baseline = read_baseline(predictions_file(Path(options.baseline), options.split), rows)
    show(_score(options, options.task, language_code(language), predictions, rows, baseline, None))


def predictions_file(path: Path, split: Split) -> Path:
    """`path`, or the predictions file in it if it is a folder. Raises InputError if the folder has none."""
    if not path.is_dir():
        return path
    inside = path / f"predictions-{split}.jsonl"
    if not inside.is_file():
        remedy = "name a file, the folder of a finished run, or a model with --stores to generate them"
        raise InputError(path, f"holds no {inside.name}", remedy)
    return inside


def _evaluate_model(options: Options, show: Callable[[Result], None]) -> None:
    """Generate predictions on all ranks, each for its share of the clips; the first rank scores and writes."""
    from unisign_fast.checkpoints.model_folder import find_model, untrained_language  # late import: torch takes seconds
    from unisign_fast.evaluation.evaluate import GenerationSettings, evaluate_model
    from unisign_fast.pipelines.store.keypoint_store import KeypointStore
    from unisign_fast.utils.distributed import start_ranks

    assert options.model is not None and options.out is not None
    generation = GenerationSettings(options.beams, options.max_new_tokens, options.frames_per_batch)
    stores = [KeypointStore.open(store) for store in options.stores]
    folder = find_model(options.model)
    baseline = None if options.baseline is None else _find_baseline(options.baseline, options.split)
    ranks = start_ranks()

    def generate(folder: Path, task: Task | None) -> "Evaluation":
        return evaluate_model(folder, stores, task, options.language, options.split, ranks, generation)

    evaluation = generate(folder, options.task)
    compared = generate(baseline, evaluation.task).rows if baseline and baseline.is_dir() else None
    if ranks.is_first:
        if baseline and compared is None:
            compared = read_baseline(baseline, evaluation.rows)
        predictions = options.out / f"predictions-{options.split}.jsonl"
        write_predictions(predictions, evaluation.rows)
        scores = options.json or options.out / f"scores-{options.split}.json"
        task, language = evaluation.task, evaluation.language
        result = _score(
            replace(options, json=scores), task, language, predictions, evaluation.rows, compared, evaluation
        )
        if unknown := untrained_language(folder, language):
            result.warnings.append(unknown)
        show(result)
    ranks.leave()


def _find_baseline(baseline: str, split: Split) -> Path:
    """A baseline's predictions file, or the folder of the model that has to generate them."""
    from unisign_fast.checkpoints.model_folder import find_model

    path = Path(baseline)
    inside = path / f"predictions-{split}.jsonl"
    is_file = path.is_file() or path.suffix in (".jsonl", ".txt")
    return path if is_file else inside if inside.is_file() else find_model(baseline)


def _score(
    options: Options,
    task: Task,
    language: str,
    predictions: Path,
    rows: Sequence[Prediction],
    baseline: Sequence[Prediction] | None,
    evaluation: "Evaluation | None",
) -> Result:
    """Score the rows and the baseline's, and write the scores to `options.json`; `language` is a code."""
    classes = read_class_list(options.classes) if options.classes else None

    def scored(system: Sequence[Prediction]) -> Scores:
        texts = [row.prediction for row in system], [row.reference for row in system]
        return score(task, *texts, language, options.normalization, options.bleurt, classes)

    scores, differences = scored(rows), {}
    if baseline is not None:
        other = scored(baseline)
        differences = {name: difference(other.statistics[name], own) for name, own in scores.statistics.items()}
    plain = scores.plain()
    if options.json is not None:
        values = {"task": task, "language": language, **plain}
        values |= {"differences": {name: asdict(one) for name, one in differences.items()}} if differences else {}
        write_json(options.json, values | _metadata(options, predictions, evaluation))
    mismatch = script_mismatch((row.reference for row in rows), language)
    return Result(
        task,
        language,
        scores,
        plain["intervals"],
        differences,
        warnings=[f"--language {language}: references: {mismatch}"] if mismatch else [],
        predictions=predictions,
        evaluation=evaluation,
    )


def _metadata(options: Options, predictions: Path, evaluation: "Evaluation | None") -> dict:
    """What was scored: the files, and the model that wrote the predictions."""
    files: dict[str, Path | str | None] = {"predictions": predictions, "references": options.references or predictions}
    files |= {"baseline": options.baseline, "classes": options.classes}
    names = {name: str(path) for name, path in files.items() if path is not None}
    if evaluation is None:
        return names
    generated = {name: getattr(options, name) for name in ("model", "split", "beams", "max_new_tokens")}
    return generated | evaluation.metadata() | names
