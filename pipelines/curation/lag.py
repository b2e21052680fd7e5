"""Lag of an interpreter behind the speech, estimated without a model from speech activity and hand movement.

Both are smoothed and correlated at shifts from SHORTEST to LONGEST. The peak is the lag of whole stretches and is
biased where signing lasts longer than speech; starts and ends of signing are therefore aligned separately with starts
and ends of speech, within REACH of the peak. The confidence is the peak's z-score against shifts far beyond any lag.
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
    points = keypoints_TJ3[..., :2].astype(np.float32) * np.float32((aspect, 1))
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
    found = _estimate(recordings)
    return found if found.confidence >= GATE else Lag(given.start_seconds, given.end_seconds, found.confidence)


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
    long = [one for one in recordings if min(len(one.activity), len(one.speed)) > 2 * FAR[0] * RATE]
    if not long:
        return Lag()
    pairs = [_aligned(one) for one in long]
    shifts = np.arange(-round(FAR[1] * RATE), round(FAR[1] * RATE) + 1)
    curve = _correlation([(_standardized(a), _standardized(s)) for a, s in pairs], shifts)
    near = (shifts >= SHORTEST * RATE) & (shifts <= LONGEST * RATE)
    far = (np.abs(shifts) >= FAR[0] * RATE) & np.isfinite(curve)
    spread = float(curve[far].std())
    if spread == 0:
        return Lag()
    peak = int(shifts[near][curve[near].argmax()])
    confidence = float((curve[near].max() - curve[far].mean()) / spread)
    start, end = (_refined(pairs, peak, sign) for sign in (1, -1))
    return Lag(start / RATE, end / RATE, round(confidence, 2))


def _aligned(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """Smooth activity and smooth speed, of one length and both from 0 to 1."""
    frames = min(len(recording.activity), len(recording.speed))
    speed = np.sqrt(np.maximum(recording.speed[:frames], 0))
    speed = (speed / max(float(np.percentile(speed, 90)), 1e-6)).clip(0, 1)
    return _smooth(recording.activity[:frames], SMOOTHING), _smooth(speed, SMOOTHING)


def _standardized(signal: np.ndarray) -> np.ndarray:
    """Without its slow trend, divided by its standard deviation."""
    signal = signal - _smooth(signal, TREND)
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
    """Mean product of a[t] and s[t + shift] over all pairs, at each shift; NaN where a shift has no samples."""
    total, count = np.zeros(len(shifts)), np.zeros(len(shifts))
    for a, s in pairs:
        size = 2 * len(a) + int(np.abs(shifts).max())
        products = np.fft.irfft(np.fft.rfft(a, size).conj() * np.fft.rfft(s, size), size)
        overlap = len(a) - np.abs(shifts)
        total += np.where(overlap > 0, products[shifts % size], 0)
        count += overlap.clip(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _refined(pairs: Sequence[tuple[np.ndarray, np.ndarray]], peak: int, sign: int) -> int:
    """The shift near the peak at which rises (`sign` 1) or falls (-1) of speed follow those of activity best."""
    reach = round(REACH * RATE)
    shifts = np.arange(peak - reach, peak + reach + 1)
    edges = [tuple(np.maximum(sign * np.gradient(signal), 0) for signal in pair) for pair in pairs]
    return int(shifts[np.nanargmax(_correlation(edges, shifts))])
