"""SVG coordinates of charts: curves over training steps and histograms, each with a sentence that summarises it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import numpy as np

WIDTH, HEIGHT = 360, 210  # of the picture, in its own units
LEFT, RIGHT, TOP, BOTTOM = 52, 20, 14, 34  # margins
MAX_POINTS = 400  # points of a line; more could not be told apart
MAX_DOTS = 30  # a longer line is drawn without dots and, if it is noisy, with a running mean
BINS = 10


class Tick(NamedTuple):
    """A labelled position on an axis."""

    at: float  # units of the picture
    label: str


class Bar(NamedTuple):
    """A bin of a histogram, in units of the picture."""

    x: float
    y: float
    width: float
    height: float
    total: int  # values in the bin


@dataclass(frozen=True)
class Chart:
    """A curve over training steps."""

    title: str
    line: str  # points of an SVG polyline
    trend: str  # polyline of the running mean; "" if there are few points or it is not requested
    dots: list[tuple[float, float]]  # one per point; [] if there are many
    marked: tuple[float, float] | None  # position of the best point; None if not requested
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    summary: str  # one sentence
    rows: list[tuple[int, str]]  # step and value of some points, including the first and the last


@dataclass(frozen=True)
class Histogram:
    """How often the values of each bin occur."""

    title: str
    bars: list[Bar]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    summary: str
    facts: list[tuple[str, str]]  # name and value


def line_chart(
    title: str, points: Sequence[tuple[int, float]], smooth: bool = False, best=None, limit: float = math.inf
) -> Chart:
    """A chart of one or more (step, value) pairs, all finite.

    `smooth` adds a running mean if there are many points; `best` (max or min) marks the best point; the axis ends at
    `limit`, the highest possible value.
    """
    kept = thinned(points, MAX_POINTS)
    steps, values = [step for step, _ in points], [value for _, value in points]
    x_marks = nice_ticks(steps[0], steps[-1], whole=True)
    y_marks = [mark for mark in nice_ticks(min(values), max(values)) if mark <= limit]
    if steps[0] == steps[-1]:  # a single point is centred, its step the only tick
        x_low, x_high, x_marks = steps[0] - 1, steps[0] + 1, [float(steps[0])]
    else:
        x_low, x_high = steps[0], steps[-1]
        x_marks = [x for x in x_marks if x_low <= x <= x_high]

    def place(x: float, y: float) -> tuple[float, float]:
        return _x_position((x - x_low) / (x_high - x_low)), _y_position(y, y_marks)

    placed = [place(x, y) for x, y in kept]
    many = len(points) > MAX_DOTS
    means = thinned(_running_mean(points), MAX_POINTS) if smooth and many else []
    chosen = best(points, key=lambda point: point[1]) if best else None
    span = f"from {short(values[0])} at step {steps[0]} to {short(values[-1])} at step {steps[-1]}"
    ends = f"lowest {short(min(values))}, highest {short(max(values))}"
    return Chart(
        title=title,
        line=_polyline(placed),
        trend=_polyline([place(x, y) for x, y in means]),
        dots=[] if many else placed,
        marked=place(*chosen) if chosen and len(points) > 1 else None,
        x_ticks=[Tick(place(x, y_marks[0])[0], label) for x, label in zip(x_marks, tick_labels(x_marks))],
        y_ticks=[Tick(_y_position(y, y_marks), label) for y, label in zip(y_marks, tick_labels(y_marks))],
        summary=f"{title}: {span}; {ends}" + (f"; best at step {chosen[0]}." if chosen else "."),
        rows=[(x, short(y)) for x, y in thinned(points, 12)],
    )


def histogram(title: str, values: Sequence[float], above: bool = False) -> Histogram:
    """A histogram of values from 0 to 100 (at least one), in ten bins; `above` adds a bin for values above 100."""
    bins = BINS + above
    counts = [0] * bins
    for value in values:
        counts[min(int(value / (100 / BINS)), bins - 1) if value != 100 else BINS - 1] += 1
    y_marks = nice_ticks(0, max(counts), whole=True)
    edges = [_x_position(number / bins) for number in range(bins + 1)]
    base, tops = _y_position(0, y_marks), [_y_position(n, y_marks) for n in counts]
    bars = [
        Bar(round(x + 1, 1), top, round(end - x - 2, 1), round(base - top, 1), n)
        for x, end, top, n in zip(edges, edges[1:], tops, counts)
    ]
    x_ticks = [Tick(edges[number], str(10 * number)) for number in range(0, bins + 1 - above, 2)]
    if above:
        x_ticks[-1] = Tick(round((edges[-2] + edges[-1]) / 2, 1), "> 100")
    ranges = [f"{10 * n} to {10 * n + 10}" for n in range(BINS)] + ["over 100"] * above
    low, middle, high = np.percentile(values, (25, 50, 75))
    facts = {
        "Clips": str(len(values)),
        "Mean": f"{fmean(values):.1f}",
        "Median": f"{middle:.1f}",
        "Interquartile range": f"{low:.1f} to {high:.1f}",
        "Exactly 0": str(sum(value == 0 for value in values)),
        "Exactly 100": str(sum(value == 100 for value in values)),
    }
    return Histogram(
        title=title,
        bars=bars,
        x_ticks=x_ticks,
        y_ticks=[Tick(_y_position(y, y_marks), label) for y, label in zip(y_marks, tick_labels(y_marks))],
        summary=f"{title}: " + ", ".join(f"{name}: {n}" for name, n in zip(ranges, counts, strict=True)) + ".",
        facts=list(facts.items()),
    )


def nice_ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Evenly spaced round numbers that enclose `low` and `high`; the step is 1, 2 or 5 times a power of ten."""
    if high <= low:
        low, high = (low - abs(low) / 10, low + abs(low) / 10) if low else (0.0, 1.0)
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(times * power for times in (1, 2, 5, 10) if times * power >= rough * 0.999)
    if whole:
        step = max(1.0, step)
    return [number * step for number in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Labels of evenly spaced ticks, with as many decimals as it takes to tell neighbours apart."""
    largest = max(abs(tick) for tick in ticks)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else largest or 1.0
    if 0 < largest < 1e-3:
        power = math.floor(math.log10(largest))
        decimals = max(0, power - math.floor(math.log10(step) + 1e-9))
        return ["0" if abs(t) < step / 2 else f"{t / 10.0**power:.{decimals}f}e{power}" for t in ticks]
    unit, suffix = next(((u, s) for u, s in ((1e6, "M"), (1e3, "k")) if largest >= 10 * u), (1.0, ""))
    decimals = max(0, -math.floor(math.log10(step / unit) + 1e-9)) if len(ticks) > 1 else 3 * (unit > 1)
    return [f"{tick / unit:.{decimals}f}{suffix}" if abs(tick) >= step / 2 else "0" for tick in ticks]


def short(value: float) -> str:
    """A number with four significant digits."""
    if abs(value) >= 1000:
        return f"{value:.0f}"
    text = f"{value:.4g}"
    return text if "e" not in text else f"{value:.1e}".replace("e-0", "e-")


def thinned(points: Sequence, most: int) -> list:
    """At most `most` of the points, evenly spaced, including the first and the last."""
    if len(points) <= most:
        return list(points)
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]


def _running_mean(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """The mean over a window of a twentieth of the curve, centred on each point."""
    reach = max(1, len(points) // 40)
    return [(x, fmean(y for _, y in points[max(0, i - reach) : i + reach + 1])) for i, (x, _) in enumerate(points)]


def _x_position(share: float) -> float:
    """The x of a point that is this share of the axis from its start."""
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def _y_position(value: float, ticks: Sequence[float]) -> float:
    """The y of `value` on an axis from the first to the last of `ticks`."""
    return round(HEIGHT - BOTTOM - (value - ticks[0]) / (ticks[-1] - ticks[0]) * (HEIGHT - TOP - BOTTOM), 1)


def _polyline(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)
