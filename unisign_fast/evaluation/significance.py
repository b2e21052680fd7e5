"""Confidence in a score: bootstrap intervals, and whether two systems differ by more than chance.

Every metric here is computed from sums over clips (`ClipStatistics`), so that a resample is scored by weighting the
clips. Draws and seed are those of sacrebleu's --confidence and --paired-ar: BLEU and chrF get sacrebleu's numbers, and
the other metrics are treated in the same way. With one exception: ties count against a difference, so that two equal
systems have p = 1, where sacrebleu reports 0.0001.
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
    """The statistics of each clip that a metric needs."""

    per_clip: np.ndarray  # [clips, S] float32
    percent: Callable[[np.ndarray], float]  # of the sum over clips [S]

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
    """The metric's 95 % interval over resampled clips."""
    return _middle(_bootstrap(statistics))


def difference(baseline: ClipStatistics, system: ClipStatistics) -> Difference:
    """How a system differs from a baseline on the same clips in the same order."""
    assert baseline.per_clip.shape == system.per_clip.shape, (baseline.per_clip.shape, system.per_clip.shape)
    value = system.value - baseline.value
    p_value = _randomization_p(baseline, system, abs(value))
    return Difference(value, _middle(_bootstrap(system) - _bootstrap(baseline)), p_value)


def _bootstrap(statistics: ClipStatistics) -> np.ndarray:
    """The metric of every resample [RESAMPLES]; those of two systems are the same clips."""
    clips = len(statistics.per_clip)
    rng = np.random.default_rng(SEED)
    values = []
    for first in range(0, RESAMPLES, ROWS):
        drawn = rng.choice(clips, size=(min(ROWS, RESAMPLES - first), clips), replace=True)
        times = np.stack([np.bincount(row, minlength=clips) for row in drawn]).astype(np.float32)
        values += [statistics.percent(total) for total in times @ statistics.per_clip]
    return np.array(values)


def _middle(values: np.ndarray) -> tuple[float, float]:
    """The bounds of all but 1/40 of the values at either end."""
    ordered = np.sort(values)
    cut = len(ordered) // 40
    return float(ordered[cut]), float(ordered[-1 - cut])


def _randomization_p(baseline: ClipStatistics, system: ClipStatistics, difference: float) -> float:
    """The share of random swaps of clips between the systems that yield `difference` or more."""
    swapped = np.random.default_rng(SEED).integers(2, size=(TRIALS, len(baseline.per_clip)), dtype=bool)
    both = (baseline.per_clip + system.per_clip).sum(0)
    as_far = 0
    for first in range(0, TRIALS, ROWS):
        chosen = swapped[first : first + ROWS].astype(np.float32)
        mixed = chosen @ baseline.per_clip + (1 - chosen) @ system.per_clip
        apart = [abs(baseline.percent(one) - baseline.percent(both - one)) for one in mixed]
        as_far += sum(distance > difference - ROUNDING for distance in apart)
    return (as_far + 1) / (TRIALS + 1)
