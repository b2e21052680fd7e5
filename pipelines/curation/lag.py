"""Lag of an interpreter behind the speech, estimated without a model from speech activity and hand movement.

Both are smoothed, and the products of their levels, rises and falls at shifts from SHORTEST to LONGEST are the evidence
for each lag in each BLOCK of a programme. The lag wanders as the interpreter falls behind and catches up: the best path
through the blocks, by the Viterbi algorithm, trades evidence against WANDER. With the hands moved back along the path,
the lag of starts is the peak of the correlation of rises within REACH of it, that of ends the peak of the falls.
The confidence is the smaller of two z-scores against shifts far beyond any lag: that of the path's evidence among the
best paths there, and that of the highest point of the three correlations together, which stands for a constant lag.
BOBSL shifts its subtitles by 2.7 s (Albanie et al., 2021).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..skeleton import LEFT_HAND, RIGHT_HAND
from .audio import SAMPLE_RATE
from .records import Lag

RATE = 25  # samples a second of activity and speed
SHORTEST, LONGEST = -2.0, 10.0  # seconds
REACH = 2.0  # seconds between the path and the lag of starts or ends, at most
FAR = (15.0, 75.0)  # shifts in seconds, in both directions, that the path is compared with
FEWEST_SECONDS = FAR[0] + FAR[1]  # of a recording, or its lag is not estimated
GATE = 4.0  # confidence below which the given lag is used
SMOOTHING = 0.3  # seconds, standard deviation
TREND = 20.0  # seconds; what changes more slowly is removed
STRIDE = 2  # samples between the lags of the path
STEP = STRIDE / RATE  # seconds
BLOCK = 12  # steps for which the path has one lag
WANDER = 0.2  # seconds by which the lag changes within a second, standard deviation of a random walk
EVIDENCE = 1.25  # log-likelihood of a second of perfect correlation of levels
_WEIGHTS = (1.0, 0.5, 0.5)  # of levels, rises and falls
_SHOULDERS = (5, 6)
_SHIFTS = round((LONGEST - SHORTEST) / STEP) + 1  # of a window
_LATER = range(round(FAR[0] / STEP), round(FAR[1] / STEP) - _SHIFTS + 2, _SHIFTS // 2)  # far windows overlap by half
_WINDOWS = (round(SHORTEST / STEP), *_LATER, *(1 - shift - _SHIFTS for shift in _LATER))  # their first shifts


@dataclass(frozen=True)
class Recording:
    """Speech and signing of a stretch of a programme, both [N] float32 at RATE, from the same moment on."""

    activity: np.ndarray  # speech, 0 to 1
    speed: np.ndarray  # of the hands, shoulder widths a second, weighted by confidence
    start: float = 0.0  # seconds of the programme


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
    pooled = replace(pooled, drift=Lag().drift)  # of several programmes
    lags = {}
    for name, recordings in programmes.items():
        own = _estimate(recordings)
        lags[name] = own if own.confidence >= GATE else pooled
    return lags


_Pairs = list[tuple[np.ndarray, np.ndarray]]  # levels, rises and falls of activity and speed, each [N]


@dataclass(frozen=True)
class _Track:
    """The lag in the course of one recording."""

    times: np.ndarray  # [blocks] seconds of the programme
    lags: np.ndarray  # [blocks] seconds
    gain: float  # evidence for them, above the mean of the best paths in far windows
    variance: float  # of the evidence for those
    pairs: _Pairs  # what was correlated
    rises: np.ndarray  # correlation at shifts within REACH of the path
    falls: np.ndarray


def _estimate(recordings: Sequence[Recording]) -> Lag:
    """The most likely lag, however sure; all zero where the recordings are too short to compare shifts."""
    tracks = [_track(one) for one in recordings if min(len(one.activity), len(one.speed)) >= FEWEST_SECONDS * RATE]
    if not tracks:
        return Lag()
    lags = np.concatenate([one.lags for one in tracks])
    middle = float(np.median(lags))
    start, end = (_peak(np.sum(curves, axis=0)) for curves in zip(*((one.rises, one.falls) for one in tracks)))
    path = sum(one.gain for one in tracks) / max(sum(one.variance for one in tracks) ** 0.5, 1e-9)
    confidence = max(0.0, min(path, _peak_score([one.pairs for one in tracks])))
    times = np.concatenate([one.times for one in tracks])
    drift = tuple(times.tolist()), tuple((lags - middle).tolist())
    return Lag(float(middle + start), float(middle + end), round(confidence, 2), drift)


def _track(recording: Recording) -> _Track:
    """The likeliest lags of a recording that is long enough."""
    activity, speed = _aligned(recording)
    pairs = [(_without_trend(activity), _without_trend(speed))]
    pairs += [(_edges(activity, sign), _edges(speed, sign)) for sign in (1, -1)]
    scores, paths = _best_paths(_evidence(pairs))
    lags = (_WINDOWS[0] + paths[0]) * STEP
    middles = (np.arange(len(lags)) + 0.5) * BLOCK * STEP
    times = np.arange(len(speed)) / RATE
    moved = np.interp(times + np.interp(times, middles, lags), times, speed)
    shifts = np.arange(-round(REACH * RATE), round(REACH * RATE) + 1)
    rises, falls = (_correlation(_edges(activity, sign), _edges(moved, sign), shifts) for sign in (1, -1))
    far = scores[1:]
    gain, variance = float(scores[0] - far.mean()), float(far.var(ddof=1))
    return _Track(recording.start + middles, lags, gain, variance, pairs, rises * len(speed), falls * len(speed))


def _peak_score(recordings: Sequence[_Pairs]) -> float:
    """The z-score of the highest point of levels, rises and falls together, at lags that may be."""
    longest = max(len(pairs[0][0]) for pairs in recordings)
    reach = round(min(FAR[1] * RATE, 0.75 * longest))
    shifts = np.arange(-reach, reach + 1)
    far = np.abs(shifts) >= FAR[0] * RATE
    near = (shifts >= SHORTEST * RATE) & (shifts <= LONGEST * RATE)
    curves = []
    for number in range(len(_WEIGHTS)):
        usable = [pairs[number] for pairs in recordings if len(pairs[number][0]) > reach]
        curve = np.sum([_correlation(*pair, shifts) * (len(pair[0]) - np.abs(shifts)) for pair in usable], axis=0)
        curve /= np.sum([len(pair[0]) - np.abs(shifts) for pair in usable], axis=0)
        curves.append(_scores(_smooth(curve, SMOOTHING) if number else curve, far))
    return float(_scores(np.sum(curves, axis=0), far)[near].max())


def _scores(curve: np.ndarray, far: np.ndarray) -> np.ndarray:
    """In standard deviations of the far shifts, above their mean."""
    return (curve - curve[far].mean()) / max(float(curve[far].std()), 1e-9)


def _evidence(pairs: _Pairs) -> np.ndarray:
    """[windows, blocks, shifts]: products of activity and shifted speed, summed over a block and weighted.

    In the far windows the speed starts again at its end, so that all blocks have as much evidence.
    """
    blocks = len(pairs[0][0]) // STRIDE // BLOCK
    result = np.zeros((len(_WINDOWS), blocks, _SHIFTS), np.float32)
    for weight, (activity, speed) in zip(_WEIGHTS, pairs, strict=True):
        spoken = activity[::STRIDE][: blocks * BLOCK].reshape(blocks, BLOCK).astype(np.float32)
        for window, first in enumerate(_WINDOWS):
            before, after = max(0, -first), max(0, first + _SHIFTS + BLOCK)
            padded = np.pad(speed[::STRIDE].astype(np.float32), (before, after), mode="wrap" if window else "constant")
            shifted = sliding_window_view(padded[before + first :], _SHIFTS + BLOCK - 1)[::BLOCK][:blocks]
            signed = sliding_window_view(shifted, BLOCK, axis=1)  # [blocks, shifts, BLOCK]
            result[window] += weight * np.einsum("blt,bt->bl", signed, spoken)
    return result * (EVIDENCE * STEP)


def _best_paths(evidence: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The score [windows] and the shifts [windows, blocks] of the best path through each window of evidence."""
    windows, blocks, shifts = evidence.shape
    spread = WANDER * (BLOCK * STEP) ** 0.5 / STEP  # steps
    reach = round(4 * spread)
    penalty = (-0.5 * (np.arange(-reach, reach + 1) / spread) ** 2).astype(np.float32)
    before = np.zeros((blocks, windows, shifts), np.int16)
    padded = np.full((windows, shifts + 2 * reach), -np.inf, np.float32)
    score = evidence[:, 0]
    for block in range(1, blocks):
        padded[:, reach:-reach] = score
        reached = sliding_window_view(padded, 2 * reach + 1, axis=1) + penalty
        before[block] = reached.argmax(axis=2)
        score = reached.max(axis=2) + evidence[:, block]
    paths = np.zeros((windows, blocks), np.int64)
    paths[:, -1] = score.argmax(axis=1)
    for block in range(blocks - 1, 0, -1):
        paths[:, block - 1] = paths[:, block] + before[block, np.arange(windows), paths[:, block]] - reach
    return score.max(axis=1), paths


def _peak(curve: np.ndarray) -> float:
    """The shift in seconds, from the middle of the curve, of its smoothed peak, by a parabola through three points."""
    curve = _smooth(curve, SMOOTHING / 3)
    top = min(max(int(curve.argmax()), 1), len(curve) - 2)
    before, at, after = curve[top - 1 : top + 2]
    bend = before - 2 * at + after
    return (top - len(curve) // 2 + (0.5 * (before - after) / bend if bend < 0 else 0.0)) / RATE


def _aligned(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """Smooth activity and smooth speed, of one length and both from 0 to 1."""
    frames = min(len(recording.activity), len(recording.speed))
    speed = np.sqrt(np.maximum(recording.speed[:frames], 0))
    speed = (speed / max(float(np.percentile(speed, 60)), 1e-6)).clip(0, 1)
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


def _correlation(a: np.ndarray, s: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Mean product of a[t] and s[t + shift] at each shift; both [N], shifts below N."""
    size = 2 * len(a)
    products = np.fft.irfft(np.fft.rfft(a, size).conj() * np.fft.rfft(s, size), size)
    return products[shifts % size] / (len(a) - np.abs(shifts))
