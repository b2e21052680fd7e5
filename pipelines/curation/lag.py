"""An interpreter's lag behind the speech, estimated from speech activity and hand movement, without a trained model.

Both signals are smoothed. For every lag from SHORTEST to LONGEST, the products of their levels, of their rises and of
their falls are the evidence for that lag in each BLOCK of a programme. The lag wanders as the interpreter falls behind
and catches up, so the Viterbi algorithm finds the path through the blocks that best trades evidence against WANDER.
After the hand movement is shifted back along this path, the rises' correlation peaks at the lag of the starts, and that
of the falls at the lag of the ends, both within REACH of the path.

The confidence is the smaller of two z-scores, both relative to shifts too long for any lag: that of the path's evidence
among the best paths at such shifts, and that of the peak of the three summed correlations, which tests for a constant
lag. BOBSL shifts its subtitles by 2.7 s (Albanie et al., 2021).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..skeleton import LEFT_HAND, RIGHT_HAND
from .audio import SAMPLE_RATE
from .records import Lag

RATE = 25  # samples of activity and speed per second
SHORTEST, LONGEST = -2.0, 10.0  # lags in seconds
REACH = 2.0  # largest distance in seconds from the path to the lag of starts or ends
FAR = (15.0, 75.0)  # shifts in seconds, in both directions, that the path is compared with
FEWEST_SECONDS = FAR[0] + FAR[1]  # shorter recordings are not used for the estimate
GATE = 4.0  # confidence below which the given lag is used
SMOOTHING = 0.3  # seconds, standard deviation
TREND = 20.0  # seconds; what changes more slowly is removed
STRIDE = 2  # samples between the lags of the path
STEP = STRIDE / RATE  # seconds
BLOCK = 12  # steps over which the path keeps one lag
WANDER = 0.2  # standard deviation of the lag's random walk, seconds after one second
EVIDENCE = 1.25  # log-likelihood of one second of perfectly correlated levels
_WEIGHTS = (1.0, 0.5, 0.5)  # of levels, rises and falls
_SHOULDERS = (5, 6)
_SHIFTS = round((LONGEST - SHORTEST) / STEP) + 1  # in a window
_LATER = range(round(FAR[0] / STEP), round(FAR[1] / STEP) - _SHIFTS + 2, _SHIFTS // 2)  # far windows overlap by half
_WINDOWS = (round(SHORTEST / STEP), *_LATER, *(1 - shift - _SHIFTS for shift in _LATER))  # first shift of each window


@dataclass(frozen=True)
class Recording:
    """Speech and signing in a span of a programme, both [N] float32 at RATE, starting at the same time."""

    activity: np.ndarray  # of speech, 0 to 1
    speed: np.ndarray  # of the hands, in shoulder widths per second, weighted by confidence
    start: float = 0.0  # seconds from the programme's start


def speech_activity(samples: np.ndarray) -> np.ndarray:
    """Speech activity [N] float32 at RATE from samples at SAMPLE_RATE: 1 loud, 0 silent.

    The level in dB, scaled so that the programme's 5th percentile is 0 and its 75th is 1.
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
    """Speed of both hands [N] float32 at RATE, in shoulder widths per second, weighted by confidence.

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
    """The lag common to all recordings. If its confidence is below GATE: `given`, with that confidence."""
    estimate = _estimate(recordings)
    return estimate if estimate.confidence >= GATE else Lag(given.start_seconds, given.end_seconds, estimate.confidence)


def estimate_lags(programmes: Mapping[str, Sequence[Recording]], given: Lag) -> dict[str, Lag]:
    """The lag of each programme in a series: its own if that is confident, else the series', else `given`."""
    pooled = estimate_lag([one for recordings in programmes.values() for one in recordings], given)
    pooled = replace(pooled, drift=Lag().drift)  # drift belongs to a single programme
    lags = {}
    for name, recordings in programmes.items():
        own = _estimate(recordings)
        lags[name] = own if own.confidence >= GATE else pooled
    return lags


_Pairs = list[tuple[np.ndarray, np.ndarray]]  # levels, rises and falls of activity and speed, each [N]


@dataclass(frozen=True)
class _Track:
    """The lag over the course of one recording."""

    times: np.ndarray  # [blocks] seconds from the programme's start
    lags: np.ndarray  # [blocks] seconds
    gain: float  # evidence for this path, above the mean of the best paths in the far windows
    variance: float  # of the evidence for those paths
    pairs: _Pairs  # the correlated signals
    rises: np.ndarray  # correlation at shifts within REACH of the path
    falls: np.ndarray


def _estimate(recordings: Sequence[Recording]) -> Lag:
    """The most likely lag, whatever its confidence; all zero if every recording is too short."""
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
    """The most likely lags of a recording of at least FEWEST_SECONDS."""
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
    """The z-score of the peak of the summed correlations of levels, rises and falls, among possible lags."""
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
    """The curve's z-scores relative to its values at the far shifts."""
    return (curve - curve[far].mean()) / max(float(curve[far].std()), 1e-9)


def _evidence(pairs: _Pairs) -> np.ndarray:
    """[windows, blocks, shifts]: the weighted products of activity and shifted speed, summed over each block.

    In the far windows the speed wraps around at its end, so that all blocks have the same amount of evidence.
    """
    blocks = len(pairs[0][0]) // STRIDE // BLOCK
    evidence = np.zeros((len(_WINDOWS), blocks, _SHIFTS), np.float32)
    for weight, (activity, speed) in zip(_WEIGHTS, pairs, strict=True):
        spoken = activity[::STRIDE][: blocks * BLOCK].reshape(blocks, BLOCK).astype(np.float32)
        for window, first in enumerate(_WINDOWS):
            before, after = max(0, -first), max(0, first + _SHIFTS + BLOCK)
            padded = np.pad(speed[::STRIDE].astype(np.float32), (before, after), mode="wrap" if window else "constant")
            shifted = sliding_window_view(padded[before + first :], _SHIFTS + BLOCK - 1)[::BLOCK][:blocks]
            signed = sliding_window_view(shifted, BLOCK, axis=1)  # [blocks, shifts, BLOCK]
            evidence[window] += weight * np.einsum("blt,bt->bl", signed, spoken)
    return evidence * (EVIDENCE * STEP)


def _best_paths(evidence: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Score [windows] and shifts [windows, blocks] of the best path through the evidence of each window (Viterbi)."""
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
    """The distance in seconds from the curve's middle to its smoothed peak, refined by a parabola through 3 points."""
    curve = _smooth(curve, SMOOTHING / 3)
    top = min(max(int(curve.argmax()), 1), len(curve) - 2)
    before, at, after = curve[top - 1 : top + 2]
    bend = before - 2 * at + after
    return (top - len(curve) // 2 + (0.5 * (before - after) / bend if bend < 0 else 0.0)) / RATE


def _aligned(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed activity and speed, of equal length, both in [0, 1]."""
    frames = min(len(recording.activity), len(recording.speed))
    speed = np.sqrt(np.maximum(recording.speed[:frames], 0))
    speed = (speed / max(float(np.percentile(speed, 60)), 1e-6)).clip(0, 1)
    return _smooth(recording.activity[:frames], SMOOTHING), _smooth(speed, SMOOTHING)


def _without_trend(signal: np.ndarray) -> np.ndarray:
    return _standardized(signal - _smooth(signal, TREND))


def _edges(signal: np.ndarray, sign: int) -> np.ndarray:
    """The signal's rises (`sign` 1) or falls (-1), standardised."""
    edges = np.maximum(sign * np.gradient(signal), 0)
    return _standardized(edges - edges.mean())


def _standardized(signal: np.ndarray) -> np.ndarray:
    """The signal over its standard deviation; 0 if it is constant 0."""
    return signal / max(float(signal.std()), 1e-6)


def _smooth(signal: np.ndarray, seconds: float) -> np.ndarray:
    """The signal, smoothed by a Gaussian of this standard deviation, which is cut off and renormalised at both ends."""
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
