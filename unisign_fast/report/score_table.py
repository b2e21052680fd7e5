"""The run's test scores beside the paper's, as a table for the page, as CSV and as LaTeX."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from unisign_fast.paper.scores import PUBLISHED
from unisign_fast.report.run_folder import RunFolder

MISSING = "–"
LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: "\\" + character for character in "&%$#_{}"},
}
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # first characters of cells that a spreadsheet would run


class ScoreRow(NamedTuple):
    """One system on one corpus."""

    corpus: str
    system: str
    values: list[str]  # by metric, percent; MISSING if unknown
    intervals: list[tuple[str, str]]  # by metric, of this run only: low and high, ("", "") if unknown


@dataclass(frozen=True)
class ScoreTable:
    """The rows of this run, if it has scores, and of the paper."""

    metrics: list[str]
    better: str  # "higher is better" or "lower is better"
    own: ScoreRow | None
    published: list[ScoreRow]
    note: str  # how the scores were computed, "" without scores

    @property
    def rows(self) -> list[ScoreRow]:
        """This run's row, if it has scores, then the paper's."""
        return [*([self.own] if self.own else []), *self.published]


def score_table(run: RunFolder, modality: str) -> ScoreTable:
    """The table for the run's task; its columns are the paper's metrics, then those that only this run has."""
    published = PUBLISHED[run.data.task]
    metrics, own, note = list(published.metrics), None, ""
    if run.scores:
        scores, intervals = run.scores["values"], run.scores.get("intervals", {})
        metrics += [metric for metric in scores if metric not in metrics]
        own = ScoreRow(
            corpus=f"{', '.join(store.name for store in run.stores)}, test ({run.scores['count']} clips)",
            system=f"this run, {modality}",
            values=[f"{scores[metric]:.2f}" if metric in scores else MISSING for metric in metrics],
            intervals=[_interval(intervals.get(metric)) for metric in metrics],
        )
        note = f"Signature: {run.scores['signature']}; normalization of texts: {run.scores['normalization']}"
    rows = []
    for row in published.rows:
        values = dict(zip(published.metrics, row.values, strict=True))
        rows.append(ScoreRow(row.corpus, f"paper, {row.system}", [values.get(m, MISSING) for m in metrics], []))
    return ScoreTable(metrics, published.better, own, rows, note)


def as_csv(table: ScoreTable) -> str:
    """Comma-separated values with a header; each metric has columns for the bounds of its 95 % interval."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["corpus", "system", *(f"{m}{part}" for m in table.metrics for part in ("", " low", " high"))])
    for row in table.rows:
        intervals = row.intervals or [("", "")] * len(table.metrics)
        cells = [cell for value, bounds in zip(row.values, intervals, strict=True) for cell in (value, *bounds)]
        writer.writerow([_harmless(row.corpus), row.system, *("" if cell == MISSING else cell for cell in cells)])
    return file.getvalue()


def as_latex(table: ScoreTable) -> str:
    """A tabular for the package booktabs, starting with this run's row and its 95 % intervals."""
    lines = [f"% {' '.join(table.note.split())}"] if table.note else []
    lines += [rf"\begin{{tabular}}{{ll{'r' * len(table.metrics)}}}", r"\toprule"]
    lines += [_latex_row(["Corpus", "System", *table.metrics]), r"\midrule"]
    if table.own:
        lines.append(_latex_row([table.own.corpus, table.own.system, *table.own.values]))
        if any(low for low, _ in table.own.intervals):
            intervals = [f"[{low}, {high}]" if low else "" for low, high in table.own.intervals]
            lines.append(_latex_row(["", "95 % interval", *intervals]))
        lines.append(r"\midrule")
    lines += [_latex_row([row.corpus, row.system, *row.values]) for row in table.published]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _interval(bounds: Sequence[float] | None) -> tuple[str, str]:
    return (f"{bounds[0]:.1f}", f"{bounds[1]:.1f}") if bounds else ("", "")


def _latex_row(cells: Sequence[str]) -> str:
    escaped = ("".join(LATEX_SPECIAL.get(c, c) for c in " ".join(cell.split())) for cell in cells)
    return " & ".join(escaped).replace(MISSING, "--") + r" \\"


def _harmless(text: str) -> str:
    """The text, quoted if a spreadsheet would run it as a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text
