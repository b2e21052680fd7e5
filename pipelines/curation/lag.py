"""Lag of an interpreter behind the speech, estimated without a model from speech activity and hand movement.

Both are smoothed, and their levels, rises and falls are correlated at shifts from SHORTEST to LONGEST. The peak of the
three together is the lag of whole stretches, which differs from that of starts where signing lasts longer than speech.
The lag of starts is the peak of the rises alone within REACH of it, that of ends the peak of the falls. The confidence
is the common peak's z-score against shifts far beyond any lag.
BOBSL shifts its subtitles by 2.7 s (Albanie et al., 2021).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..skeleton import LEFT_HAND, RIGHT_HAND
from .audio import SAMPLE_RATE
from .records import Lag

RATE = 25  # samples a second of activity and speed
SHORTEST, LONGEST = -2.0, 10.0  # seconds
REACH = 2.0  # seconds between the peak and the lag of starts or ends, at most
FAR = (15.0, 75.0)  # shifts in seconds, in both directions, that the peak is compared with
GATE = 4.0  # confidence below which the given lag is used
SMOOTHING = 0.3  # seconds, standard deviation
TREND = 20.0  # seconds; what changes more slowly is removed
_SHOULDERS = (5, 6)


@dataclass(frozen=True)
class Recording:
    """Speech and signing of a stretch of a programme, both [N] float32 at RATE, from the same moment on."""

    activity: np.ndarray  # speech, 0 to 1
    speed: np.ndarray  # of the hands, shoulder widths a second, weighted by confidence


def speech_activity(samples: np.ndarray) -> np.ndarray:
    """Speech activity [N] float32 at RATE from samples at SAMPLE_RATE: 1 loud, 0 silent.

    The level in dB, between the programme's own floor (5th percentile) and its loud half (75th percentile).
    """
    step = SAMPLE_RATE // RATE
    frames = len(samples) // step
    if frames == 0:
        return np.zeros(0, np.float32)
    power = np.square(samples[: frames * step].reshape(frames, step), dtype=np.float32).mean(axis=1)
    level = 10 * np.log10(power + 1e-10)
    floor, loud = np.percentile(level, (5, 75))
    return ((level - floor) / max(loud - floor, 6.0)).clip(0, 1).astype(np.float32)


def hand_speed(keypoints_TJ3: np.ndarray, fps: float, aspect: float) -> np.ndarray:
    """Speed of both hands [N] float32 at RATE, shoulder widths a second, weighted by confidence.

    `keypoints_TJ3`: x and y as fractions of a picture whose width is `aspect` times its height. Frames without a
    confident hand have speed 0.
    """
    points = keypoints_TJ3[..., :2].astype(np.float32) * np.array((aspect, 1), np.float32)
    weight = keypoints_TJ3[..., 2].astype(np.float32).clip(0, 1)
    seen = weight[:, _SHOULDERS].min(axis=1) > 0
    if len(points) < 2 or not seen.any():
        return np.zeros(round(len(points) / fps * RATE), np.float32)
    width = float(np.median(np.linalg.norm(points[seen][:, 5] - points[seen][:, 6], axis=-1)))
    total = np.zeros(len(points), np.float32)
    for joints in (LEFT_HAND, RIGHT_HAND):
        hand = weight[:, joints]
        centre = (points[:, joints] * hand[..., None]).sum(axis=1) / (hand.sum(axis=1)[:, None] + 1e-6)
        moved = np.linalg.norm(np.diff(centre, axis=0), axis=-1)
        sure = np.minimum(hand[1:].mean(axis=1), hand[:-1].mean(axis=1))
        total[1:] += moved * sure
    times = (np.arange(round(len(points) / fps * RATE)) + 0.5) / RATE
    speed = total * fps / max(width, 1e-3)
    return np.interp(times, (np.arange(len(points)) + 0.5) / fps, speed).astype(np.float32)


def estimate_lag(recordings: Sequence[Recording], given: Lag) -> Lag:
    """The lag common to all recordings; `given`'s times, with the confidence reached, where that is below GATE."""
    estimate = _estimate(recordings)
    return estimate if estimate.confidence >= GATE else Lag(given.start_seconds, given.end_seconds, estimate.confidence)


def estimate_lags(programmes: Mapping[str, Sequence[Recording]], given: Lag) -> dict[str, Lag]:
    """The lag of each programme of a series: its own where it is sure of it, else the series', else `given`."""
    pooled = estimate_lag([one for recordings in programmes.values() for one in recordings], given)
    lags = {}
    for name, recordings in programmes.items():
        own = _estimate(recordings)
        lags[name] = own if own.confidence >= GATE else pooled
    return lags


def _estimate(recordings: Sequence[Recording]) -> Lag:
    """The most likely lag, however sure; all zero where the recordings are too short to compare shifts."""
    fewest = 2 * FAR[0] * RATE
    pairs = [_aligned(one) for one in recordings if min(len(one.activity), len(one.speed)) > fewest]
    if not pairs:
        return Lag()
    reach = round(min(FAR[1] * RATE, 0.75 * max(len(a) for a, _ in pairs)))
    shifts = np.arange(-reach, reach + 1)
    far = np.abs(shifts) >= FAR[0] * RATE
    levels = _correlation([(_without_trend(a), _without_trend(s)) for a, s in pairs], shifts)
    rises, falls = (_correlation([(_edges(a, sign), _edges(s, sign)) for a, s in pairs], shifts) for sign in (1, -1))
    curves = levels, _smooth(rises, SMOOTHING), _smooth(falls, SMOOTHING)
    evidence = _scores(np.sum([_scores(curve, far) for curve in curves], axis=0), far)
    near = (shifts >= SHORTEST * RATE) & (shifts <= LONGEST * RATE)
    peak = shifts[near][evidence[near].argmax()]
    around = np.abs(shifts - peak) <= REACH * RATE
    start, end = (float(shifts[around][curve[around].argmax()]) / RATE for curve in (rises, falls))
    return Lag(start, end, round(float(evidence[near].max()), 2))


def _scores(curve: np.ndarray, far: np.ndarray) -> np.ndarray:
    """In standard deviations of the far shifts, above their mean."""
    return (curve - curve[far].mean()) / max(float(curve[far].std()), 1e-9)


def _aligned(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """Smooth activity and smooth speed, of one length and both from 0 to 1."""
    frames = min(len(recording.activity), len(recording.speed))
    speed = np.sqrt(np.maximum(recording.speed[:frames], 0))
    speed = (speed / max(float(np.percentile(speed, 90)), 1e-6)).clip(0, 1)
    return _smooth(recording.activity[:frames], SMOOTHING), _smooth(speed, SMOOTHING)


def _without_trend(signal: np.ndarray) -> np.ndarray:
    return _standardized(signal - _smooth(signal, TREND))


def _edges(signal: np.ndarray, sign: int) -> np.ndarray:
    """Its rises (`sign` 1) or falls (-1)."""
    edges = np.maximum(sign * np.gradient(signal), 0)
    return _standardized(edges - edges.mean())


def _standardized(signal: np.ndarray) -> np.ndarray:
    """Divided by its standard deviation; a constant becomes zero."""
    return signal / max(float(signal.std()), 1e-6)


def _smooth(signal: np.ndarray, seconds: float) -> np.ndarray:
    """A Gaussian window of that standard deviation; at the ends, of the part that lies inside."""
    reach = round(4 * seconds * RATE)
    window = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (seconds * RATE)) ** 2)
    size = len(signal) + 2 * reach
    spectrum = np.fft.rfft(window, size)

    def filtered(values: np.ndarray) -> np.ndarray:
        return np.fft.irfft(np.fft.rfft(values, size) * spectrum, size)[reach : reach + len(signal)]

    return filtered(signal) / filtered(np.ones(len(signal)))


def _correlation(pairs: Sequence[tuple[np.ndarray, np.ndarray]], shifts: np.ndarray) -> np.ndarray:
    """Mean product of a[t] and s[t + shift] over all pairs, at each shift; 0 where no pair overlaps."""
    total, count = np.zeros(len(shifts)), np.zeros(len(shifts))
    for a, s in pairs:
        size = 2 * len(a) + int(np.abs(shifts).max())
        products = np.fft.irfft(np.fft.rfft(a, size).conj() * np.fft.rfft(s, size), size)
        overlap = (len(a) - np.abs(shifts)).clip(0)
        total += np.where(overlap > 0, products[shifts % size], 0)
        count += overlap
    return total / np.maximum(count, 1)
