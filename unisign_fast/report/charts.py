"""Curves as the numbers of an SVG: a line, its ticks, and the sentence that says it in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

WIDTH, HEIGHT = 360, 210  # of the picture, in its own units
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 34  # margins
MOST_POINTS = 400  # of a line; more cannot be told apart


class Tick(NamedTuple):
    """Where on its axis, and what it says."""

    at: float
    label: str


@dataclass(frozen=True)
class Chart:
    """A line over training steps."""

    title: str
    line: str  # points of an SVG polyline
    dots: list[tuple[float, float]]  # few values are drawn as dots too
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    words: str  # what the picture shows
    rows: list[tuple[int, str]]  # step and value: some of them, the first and the last among them


def chart(title: str, points: Sequence[tuple[int, float]]) -> Chart:
    """A chart of (step, value): at least one, and finite."""
    kept = thinned(points, MOST_POINTS)
    x_values, y_values = [x for x, _ in kept], [y for _, y in points]
    x_marks, y_marks = nice_ticks(min(x_values), max(x_values), whole=True), nice_ticks(min(y_values), max(y_values))
    x_low, x_high = min(x_values), max(max(x_values), min(x_values) + 1)
    y_low, y_high = y_marks[0], y_marks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (x - x_low) / (x_high - x_low), (y - y_low) / (y_high - y_low)
        x, y = LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)
        return round(x, 1), round(y, 1)

    placed = [place(x, y) for x, y in kept]
    first, last = points[0], points[-1]
    span = f"from {short(first[1])} at step {first[0]} to {short(last[1])} at step {last[0]}"
    ends = f"least {short(min(y_values))}, most {short(max(y_values))}"
    return Chart(
        title=title,
        line=" ".join(f"{x},{y}" for x, y in placed),
        dots=placed if len(placed) <= 30 else [],
        x_ticks=[Tick(place(x, y_low)[0], short(x)) for x in x_marks if x_low <= x <= x_high],
        y_ticks=[Tick(place(x_low, y)[1], short(y)) for y in y_marks],
        words=f"{title}: {span}; {ends}.",
        rows=[(x, short(y)) for x, y in thinned(points, 12)],
    )


def nice_ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Round numbers a constant step apart, around `low` and `high`; a step is 1, 2 or 5 times a power of ten."""
    if high <= low:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(times * power for times in (1, 2, 5, 10) if times * power >= rough * 0.999)
    if whole:
        step = max(1.0, step)
    return [number * step for number in range(math.floor(low / step), math.ceil(high / step) + 1)]


def short(value: float) -> str:
    """Four digits at most."""
    text = f"{value:.4g}"
    return text if "e" not in text else f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")


def thinned(points: Sequence, most: int) -> list:
    """At most so many of them, evenly, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]
