"""The table of scores that launch/evaluate.py prints, and the lines below it that say how they were computed."""

from rich.table import Table

from unisign_fast.evaluation.session import Result


def score_table(result: Result) -> Table:
    """The metrics with their intervals and, if there is a baseline, the differences from it."""
    table = Table(title=f"{result.task}, {result.language}")
    compared = ("difference", "95 % interval", "p") if result.differences else ()
    for column in ("metric", "percent", "95 % interval", *compared):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for metric, value in result.scores.values.items():
        row = [metric, f"{value:.2f}", _range(result.intervals[metric])]
        if result.differences:
            difference = result.differences[metric]
            row += [f"{difference.value:+.2f}", _range(difference.interval), f"{difference.p_value:.4f}"]
        table.add_row(*row)
    return table


def score_notes(result: Result) -> list[str]:
    """The lines that say how the scores were computed."""
    scores = result.scores
    notes = [f"clips: {scores.count}", f"normalization: {scores.normalization}", f"signature: {scores.signature}"]
    if result.differences:
        notes.append("difference: from the baseline; interval by paired bootstrap, p by approximate randomisation")
    if scores.unreachable:
        count = f"references with characters that mT5's tokenizer cannot write: {scores.unreachable}"
        notes.append(f"{count} (--normalization nfkc folds them on both sides)")
    if result.evaluation:
        notes.append(f"{result.evaluation.clips_per_second:.1f} clips/s; predictions: {result.predictions}")
    return notes


def _range(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:.2f} to {bounds[1]:.2f}"
