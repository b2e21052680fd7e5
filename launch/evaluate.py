"""Score predictions against references, from files alone.

python launch/evaluate.py --predictions FILE --references FILE --task slt --language zh --json OUT
"""

from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from unisign_fast.console import run_command
from unisign_fast.metrics import Language, Normalization, Scores, Task, score
from unisign_fast.predictions import read_predictions, write_json


def evaluate(
    predictions: Path,
    task: Task,
    language: Language,
    references: Path | None = None,
    normalization: Normalization = "published",
    bleurt: Path | None = None,
    json: Path | None = None,
) -> None:
    """Score a file of predictions.

    Files hold one JSON object a line, {"id": ..., "prediction": ..., "reference": ...}, or the published lines
    "sample: ID, prediction: TEXT" and "sample: ID, ground-truth: TEXT".

    Args:
        predictions: File of predictions.
        task: slt (BLEU-1 to 4, ROUGE-L, chrF), cslr (word error rate) or islr (top-1 accuracy).
        language: Language of the texts; Chinese translations are scored by character.
        references: File of references; not needed where the predictions file holds them.
        normalization: published gives the published numbers; nfkc also folds what mT5's tokenizer cannot write.
        bleurt: Folder of a BLEURT-20 checkpoint, for English slt.
        json: File to write the scores to.
    """
    rows = read_predictions(predictions, references)
    scores = score(task, [r.prediction for r in rows], [r.reference for r in rows], language, normalization, bleurt)
    show(scores, f"{task}, {language}")
    if json is not None:
        source = {"predictions": str(predictions), "references": str(references or predictions)}
        write_json(json, {"task": task, "language": language, **source, **asdict(scores)})


def show(scores: Scores, title: str) -> None:
    """Print the scores as a table, and below it how they were computed."""
    table = Table(title=title)
    table.add_column("metric")
    table.add_column("percent", justify="right")
    for metric, value in scores.values.items():
        table.add_row(metric, f"{value:.2f}")
    console = Console()
    console.print(table)
    notes = [f"clips: {scores.count}", f"normalization: {scores.normalization}", f"signature: {scores.signature}"]
    if scores.unreachable:
        told = f"references with characters that mT5's tokenizer cannot write: {scores.unreachable}"
        notes.append(f"{told} (--normalization nfkc folds them on both sides)")
    console.print("\n".join(notes), highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    run_command(evaluate)
