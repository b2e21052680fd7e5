"""The page of a release: yield and reasons, lag, hours, durations, texts and vocabulary, as one HTML file."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from unisign_fast.pipelines.atomic_io import replace_text
from unisign_fast.pipelines.corpus.statistics import LONGEST, unit_name
from unisign_fast.pipelines.curation.lag import GATE
from unisign_fast.pipelines.curation.report import CorpusReport, read_corpus_report
from unisign_fast.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Tick, nice_ticks, short, thinned

HERE = Path(__file__).parent
MIN_BARS, MAX_BARS, MAX_ROWS, MAX_LAGS = 4, 24, 12, 200


class Bar(NamedTuple):
    """A rectangle of an SVG."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Figure:
    """A histogram (bars) or a curve (line) with its ticks, a sentence that summarises it, and its numbers."""

    title: str
    x_label: str
    y_label: str
    bars: list[Bar]
    line: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    summary: str
    rows: list[tuple[str, str]]


def write_corpus_page(release: Path, out: Path) -> None:
    """Writes the page of a finished release to `out`. Raises InputError if `release` is not one or is damaged."""
    report = read_corpus_report(release)
    files = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    files.globals |= {"left": LEFT, "right": WIDTH - RIGHT}  # of the figures
    page = files.get_template("corpus_page.html.j2").render(
        report=report,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        style=(HERE / "style.css").read_text(encoding="utf-8"),
        lag_figures=_lag_figures(report),
        text_figures=_text_figures(report),
        summary=_summary(report),
        gate=GATE,
        max_lags=MAX_LAGS,
    )
    replace_text(out, page)


@dataclass(frozen=True)
class Summary:
    """A language's row, with the figures of the paper's Table 1 and the means of its Figure 2."""

    language: str
    vocabulary: int
    unit: str
    clips: int
    hours: float
    mean_seconds: float
    mean_length: float


def _summary(report: CorpusReport) -> list[Summary]:
    return [
        Summary(
            language,
            len(texts.vocabulary),
            unit_name(language),
            len(texts.seconds),
            sum(texts.seconds) / 3600,
            float(np.mean(texts.seconds)),
            float(np.mean(texts.lengths)),
        )
        for language, texts in sorted(report.texts.items())
    ]


def _lag_figures(report: CorpusReport) -> list[Figure]:
    lags = {
        "Lag of starts": [programme.lag.start_seconds for programme in report.lags],
        "Lag of ends": [programme.lag.end_seconds for programme in report.lags],
    }
    return [histogram(title, values, "seconds", "programmes") for title, values in lags.items() if values]


def _text_figures(report: CorpusReport) -> list[Figure]:
    figures = []
    for language, texts in sorted(report.texts.items()):
        unit = unit_name(language)
        figures += [
            histogram(f"Durations, {language}", texts.seconds, "seconds", "clips"),
            histogram(f"Text lengths, {language}", texts.lengths, unit, "clips"),
        ]
        if texts.vocabulary:
            figures.append(rank_curve(f"Vocabulary, {language}", texts.vocabulary, unit))
    return figures


def histogram(title: str, values: Sequence[float], x_label: str, y_label: str) -> Figure:
    """A histogram of finite values, at least one; those above percentile LONGEST are in the last bar."""
    numbers = np.asarray(values, np.float64)
    low, high = float(numbers.min()), float(np.percentile(numbers, LONGEST))
    whole = all(isinstance(value, int) for value in values)
    bars = min(MAX_BARS, max(MIN_BARS, round(2 * len(numbers) ** 0.5)))
    step = max((high - low) / bars, 0.05)
    if whole:
        step = max(1, math.ceil(step))
    edges = low + step * np.arange(max(int((high - low) / step) + 2, MIN_BARS + 1))
    counts, _ = np.histogram(numbers.clip(max=(edges[-1] + edges[-2]) / 2), edges)
    marks = nice_ticks(0, float(counts.max()), whole=True)
    base, top = HEIGHT - BOTTOM, marks[-1]
    width = (WIDTH - LEFT - RIGHT) / len(counts)

    def place(x: float) -> float:
        return round(LEFT + (x - edges[0]) / (edges[-1] - edges[0]) * (WIDTH - LEFT - RIGHT), 1)

    heights = [round(count / top * (HEIGHT - TOP - BOTTOM), 1) for count in counts.tolist()]
    spans = [f"{short(a)} to {short(b)}" for a, b in zip(edges, edges[1:])]
    mean, middle = short(float(numbers.mean())), short(float(np.median(numbers)))
    return Figure(
        title=title,
        x_label=x_label,
        y_label=y_label,
        bars=[Bar(place(x), base - h, max(round(width - 1, 1), 0.5), h) for x, h in zip(edges, heights)],
        line="",
        x_ticks=[Tick(place(x), short(x)) for x in nice_ticks(edges[0], edges[-1]) if edges[0] <= x <= edges[-1]],
        y_ticks=[Tick(round(base - y / top * (HEIGHT - TOP - BOTTOM), 1), short(y)) for y in marks],
        summary=f"{title}: mean {mean}, median {middle} {x_label}; most {y_label} at {spans[int(counts.argmax())]}.",
        rows=thinned([(span, str(count)) for span, count in zip(spans, counts.tolist())], MAX_BARS),
    )


def rank_curve(title: str, vocabulary: Counter[str], unit: str) -> Figure:
    """Occurrences by rank on logarithmic axes, as in the paper's Figure 8."""
    counts = sorted(vocabulary.values(), reverse=True)
    decades = max(1, math.ceil(math.log10(len(counts)))), max(1, math.ceil(math.log10(counts[0])))

    def place(rank: int, count: int) -> tuple[float, float]:
        x = LEFT + math.log10(rank) / decades[0] * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - math.log10(count) / decades[1] * (HEIGHT - TOP - BOTTOM)
        return round(x, 1), round(y, 1)

    ranks = sorted({round(len(counts) ** (step / 100)) for step in range(101)})
    placed = [place(rank, counts[rank - 1]) for rank in ranks]
    if len(placed) == 1:
        placed.append((placed[0][0] + 2, placed[0][1]))
    frequent = vocabulary.most_common(MAX_ROWS)
    return Figure(
        title=title,
        x_label=f"rank of the {unit}",
        y_label="occurrences",
        bars=[],
        line=" ".join(f"{x},{y}" for x, y in placed),
        x_ticks=[Tick(place(10**n, 1)[0], short(10**n)) for n in range(decades[0] + 1)],
        y_ticks=[Tick(place(1, 10**n)[1], short(10**n)) for n in range(decades[1] + 1)],
        summary=f"{title}: {len(counts)} different {unit}, the most frequent one {counts[0]} times, "
        f"{sum(count == 1 for count in counts)} once.",
        rows=[(word, str(count)) for word, count in frequent],
    )
