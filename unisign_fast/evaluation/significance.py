"""Confidence in a score: bootstrap intervals, and whether two systems differ by more than chance.

Every metric is computed from sums over clips (`ClipStatistics`), so a resample is scored by weighting the clips. Draws
and seed are those of sacrebleu's --confidence and --paired-ar: BLEU and chrF get sacrebleu's numbers, and the other
metrics are treated the same way. One thing differs: ties count against a difference, so two equal systems have p = 1,
where sacrebleu reports 0.0001.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SEED = 12345
RESAMPLES = 1000  # of the bootstrap
TRIALS = 10000  # of the randomisation test
ROUNDING = 1e-3  # percent; float32 sums cannot distinguish closer values
ROWS = 500  # resamples whose weights are in memory at once


@dataclass(frozen=True)
class ClipStatistics:
    """The statistics of each clip from which a metric is computed."""

    per_clip: np.ndarray  # [clips, S] float32
    percent: Callable[[np.ndarray], float]  # the metric, given the sum over clips [S]

    @property
    def value(self) -> float:
        """The metric over all clips, in percent."""
        return self.percent(self.per_clip.sum(0, dtype=np.float64))


@dataclass(frozen=True)
class Difference:
    """The difference between a system and a baseline in one metric."""

    value: float
    interval: tuple[float, float]  # 95 %, from the paired bootstrap
    p_value: float  # two-sided, from approximate randomisation


def interval(statistics: ClipStatistics) -> tuple[float, float]:
    """The metric's 95 % interval over resampled clips, in percent."""
    return _central_95(_bootstrap(statistics))


def difference(baseline: ClipStatistics, system: ClipStatistics) -> Difference:
    """How a system differs from a baseline, in percentage points, on the same clips in the same order."""
    assert baseline.per_clip.shape == system.per_clip.shape, (baseline.per_clip.shape, system.per_clip.shape)
    value = system.value - baseline.value
    p_value = _randomization_p(baseline, system, abs(value))
    return Difference(value, _central_95(_bootstrap(system) - _bootstrap(baseline)), p_value)


def _bootstrap(statistics: ClipStatistics) -> np.ndarray:
    """The metric of every resample [RESAMPLES]; two systems with as many clips get the same resamples."""
    clips = len(statistics.per_clip)
    rng = np.random.default_rng(SEED)
    values = []
    for first in range(0, RESAMPLES, ROWS):
        drawn = rng.choice(clips, size=(min(ROWS, RESAMPLES - first), clips), replace=True)
        weights = np.stack([np.bincount(row, minlength=clips) for row in drawn]).astype(np.float32)
        values += [statistics.percent(total) for total in weights @ statistics.per_clip]
    return np.array(values)


def _central_95(values: np.ndarray) -> tuple[float, float]:
    """The bounds of the values without 1/40 of them at either end."""
    ordered = np.sort(values)
    cut = len(ordered) // 40
    return float(ordered[cut]), float(ordered[-1 - cut])


def _randomization_p(baseline: ClipStatistics, system: ClipStatistics, difference: float) -> float:
    """The share of random swaps of clips between the systems whose difference is at least `difference`."""
    swapped = np.random.default_rng(SEED).integers(2, size=(TRIALS, len(baseline.per_clip)), dtype=bool)
    both = (baseline.per_clip + system.per_clip).sum(0)
    at_least = 0
    for first in range(0, TRIALS, ROWS):
        chosen = swapped[first : first + ROWS].astype(np.float32)
        mixed = chosen @ baseline.per_clip + (1 - chosen) @ system.per_clip
        differences = [abs(baseline.percent(total) - baseline.percent(both - total)) for total in mixed]
        at_least += sum(value > difference - ROUNDING for value in differences)
    return (at_least + 1) / (TRIALS + 1)
