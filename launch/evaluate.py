"""Scores a model on a split of a keypoint store, or existing predictions; compares two systems.

python launch/evaluate.py --model FOLDER --stores STORE --task slt --split test --out OUT
python launch/evaluate.py --predictions OUT/predictions-test.jsonl --task slt --language zh
python launch/evaluate.py --predictions FILE --baseline OTHER_FILE --task slt --language zh

Launched with deepspeed or torchrun instead of python, the ranks share the clips.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro
from rich.console import Console
from rich.table import Table

from unisign_fast.evaluation.metrics import Scores, score
from unisign_fast.evaluation.predictions import (
    Prediction,
    read_baseline,
    read_predictions,
    write_json,
    write_predictions,
)
from unisign_fast.evaluation.significance import Difference, difference
from unisign_fast.evaluation.synonyms import read_class_list
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.targets import Task, language_code, read_language
from unisign_fast.text.normalization import Normalization
from unisign_fast.utils.console import run_command

if TYPE_CHECKING:
    from unisign_fast.evaluation.evaluate import Evaluation
    from unisign_fast.utils.distributed import Ranks


@dataclass(frozen=True)
class Settings:
    """What to score: a model (--model) or a file of predictions (--predictions)."""

    task: Task  # slt: BLEU, ROUGE-L, chrF; cslr: word error rate; islr: accuracy
    model: str | None = None  # model folder (best/ or last/ of a run), or id on the hub
    stores: tuple[Path, ...] = ()  # keypoint stores to evaluate the model on
    split: Literal["train", "dev", "test"] = "test"  # of the stores
    out: Path | None = None  # folder for the model's predictions and scores
    beams: int = 4  # width of the beam search
    max_new_tokens: int = 100  # longest text
    frames_per_batch: int = 4096  # clips times frames of the longest: memory
    predictions: Path | None = None  # JSON lines {id, prediction, reference}, or published lines
    references: Path | None = None  # their references, if in a file of their own
    baseline: Path | None = None  # another predictions file, to compare with
    language: str | None = None  # of the texts (zh, en, de, ...); a model's clips know theirs
    normalization: Normalization = "published"  # nfkc also folds what mT5's tokenizer cannot write
    classes: Path | None = None  # islr: a class a line, synonyms behind tabs; or JSON
    bleurt: Path | None = None  # folder of a BLEURT-20 checkpoint, for English slt
    json: Path | None = None  # file for the scores; a model's default is scores-SPLIT.json in --out

    def __post_init__(self):
        if (self.model is None) == (self.predictions is None):
            raise InputError("--model, --predictions", "one of them is needed, and one alone", "name what to score")
        if self.model is not None and not (self.stores and self.out):
            missing = "--out" if self.stores else "--stores"
            raise InputError(missing, "is needed with --model", "name keypoint stores, and a folder for the results")
        if self.model is None and self.language is None:
            raise InputError("--language", "is needed with --predictions", "give that of the texts, as zh or en")
        if self.language is not None:
            object.__setattr__(self, "language", read_language(self.language))


def evaluate(settings: tyro.conf.OmitArgPrefixes[Settings]) -> None:
    """Score a model (--model) or a file of predictions (--predictions)."""
    classes = read_class_list(settings.classes) if settings.classes else None
    if settings.model is None:
        assert settings.predictions is not None, "Settings demands one of the two"
        _score(settings, classes, read_predictions(settings.predictions, settings.references), {})
        return
    ranks, evaluation = _generate(settings)
    if ranks.is_first:
        assert settings.out is not None, "Settings demands --out with --model"
        predictions, json = (settings.out / f"{name}-{settings.split}" for name in ("predictions", "scores"))
        predictions, json = predictions.with_suffix(".jsonl"), settings.json or json.with_suffix(".json")
        write_predictions(predictions, evaluation.rows)
        for problem in evaluation.bad_clips:
            print(f"left out: {problem}")
        about = {name: getattr(settings, name) for name in ("model", "split", "beams", "max_new_tokens")}
        about |= {"clips_per_second": evaluation.clips_per_second, "bad_clips": evaluation.bad_clips}
        result = replace(settings, model=None, predictions=predictions, json=json, language=evaluation.language)
        _score(result, classes, evaluation.rows, about)
        print(f"{evaluation.clips_per_second:.1f} clips/s; predictions and scores in {settings.out}", flush=True)
    ranks.leave()


def _generate(settings: Settings) -> tuple["Ranks", "Evaluation"]:
    """What the model says of the split, on every rank."""
    from unisign_fast.checkpoints.model_folder import find_model, load_data_settings
    from unisign_fast.evaluation.evaluate import GenerationSettings, evaluate_split
    from unisign_fast.model.unisign import UniSign
    from unisign_fast.pipelines.batches.reader import (
        ClipReader,  # late: torch and transformers take seconds that --help need not
    )
    from unisign_fast.pipelines.store.keypoint_store import KeypointStore
    from unisign_fast.utils.distributed import start_ranks

    assert settings.model is not None
    generation = GenerationSettings(settings.beams, settings.max_new_tokens, settings.frames_per_batch)
    stores = [KeypointStore.open(store) for store in settings.stores]
    folder = find_model(settings.model)
    model, tokenizer = UniSign.load(folder)
    data = load_data_settings(folder)
    p_samp = data.p_samp if model.config.rgb else 0.0
    data = replace(data, task=settings.task, language=settings.language, p_samp=p_samp)
    ranks = start_ranks()
    reader = ClipReader(stores, data, tokenizer, device=ranks.device)
    model = model.to(ranks.device)
    return ranks, evaluate_split(model, tokenizer, reader, settings.split, ranks, generation, show_progress=True)


def _score(
    settings: Settings, classes: Mapping[str, str] | None, rows: Sequence[Prediction], about: Mapping[str, object]
) -> None:
    """Print the scores of these predictions, and write them where the settings say, with what is known `about` them."""

    assert settings.language is not None, "predictions come with a language, a model's clips know theirs"
    language = language_code(settings.language)

    def scored(some: Sequence[Prediction]) -> Scores:
        texts = [r.prediction for r in some], [r.reference for r in some]
        return score(settings.task, *texts, language, settings.normalization, settings.bleurt, classes)

    scores, compared = scored(rows), {}
    if settings.baseline is not None:
        other = scored(read_baseline(settings.baseline, rows))
        compared = {metric: difference(other.statistics[metric], s) for metric, s in scores.statistics.items()}
    plain = scores.plain()
    show(scores, plain["intervals"], compared, f"{settings.task}, {language}")
    if settings.json is not None:
        files = {"predictions": settings.predictions, "references": settings.references or settings.predictions}
        files |= {"baseline": settings.baseline, "classes": settings.classes}
        about = {**about, **{name: str(path) for name, path in files.items() if path is not None}}
        differences = (
            {"differences": {metric: asdict(result) for metric, result in compared.items()}} if compared else {}
        )
        write_json(settings.json, {"task": settings.task, "language": language, **plain, **differences, **about})


def show(
    scores: Scores, intervals: dict[str, tuple[float, float]], compared: dict[str, Difference], title: str
) -> None:
    """Print the scores as a table, and below it how they were computed."""
    table = Table(title=title)
    for column in ("metric", "percent", "95 % interval", *(("difference", "95 % interval", "p") if compared else ())):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for metric, value in scores.values.items():
        row = [metric, f"{value:.2f}", _span(intervals[metric])]
        if compared:
            result = compared[metric]
            row += [f"{result.value:+.2f}", _span(result.interval), f"{result.p_value:.4f}"]
        table.add_row(*row)
    console = Console()
    console.print(table)
    notes = [f"clips: {scores.count}", f"normalization: {scores.normalization}", f"signature: {scores.signature}"]
    if compared:
        notes.append("difference: from the baseline; interval by paired bootstrap, p by approximate randomisation")
    if scores.unreachable:
        told = f"references with characters that mT5's tokenizer cannot write: {scores.unreachable}"
        notes.append(f"{told} (--normalization nfkc folds them on both sides)")
    console.print("\n".join(notes), highlight=False, markup=False, soft_wrap=True)


def _span(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:.2f} to {bounds[1]:.2f}"


if __name__ == "__main__":
    run_command(evaluate)
