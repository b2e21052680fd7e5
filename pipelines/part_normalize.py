"""Frame choice and part normalisation: from 133 raw keypoints to the 69 x 3 numbers a frame that the model sees.

Uni-Sign's rule, matching the published code on float32 input to the last bit. The loops are compiled by numba and
release the GIL, so that background threads run side by side.
"""

from collections.abc import Callable
from functools import cache

import numba
import numpy as np

from pipelines.skeleton import JOINTS, PACKED_JOINTS, PART_JOINTS, PART_SLICES, PARTS, ROOT_JOINT

CONFIDENT = np.float32(0.3)  # a joint counts above this confidence
MIN_POINTS = 4  # fewer confident body points in a clip: nothing to measure its scale by
NO_ROOT = -1

_ROOTS = np.concatenate(
    [np.full(len(PART_JOINTS[p]), PART_SLICES[p].start + ROOT_JOINT[p] if p in ROOT_JOINT else NO_ROOT) for p in PARTS]
)  # [69] the joint among them whose position is subtracted


def choose_frames(frames: int, max_frames: int, rng: np.random.Generator | None) -> np.ndarray:
    """Which of a clip's frames are used: ascending int64 indices, all of them if there are at most `max_frames`.

    Otherwise a random choice without repetition from `rng`; without `rng` (evaluation) evenly spaced ones.
    """
    if frames <= max_frames:
        return np.arange(frames)
    if rng is None:
        return (2 * np.arange(max_frames) + 1) * frames // (2 * max_frames)
    return np.sort(rng.choice(frames, max_frames, replace=False, shuffle=False))


def select_parts(keypoints: np.ndarray) -> np.ndarray:
    """The 69 joints of the four parts: [T, 133, 3], float16 as stored or another type, to float32 [T, 69, 3]."""
    assert keypoints.ndim == 3 and keypoints.shape[1:] == (JOINTS, 3), keypoints.shape
    if keypoints.dtype != np.float16:
        return keypoints[:, PACKED_JOINTS].astype(np.float32)
    return _compiled(_select)(keypoints.view(np.uint16), PACKED_JOINTS, _float16_values())


def normalize_parts(parts: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """The chosen frames of one clip, normalised: float32 [T, 69, 3] of `select_parts`, to values in [-1, 1].

    Input: x and y as fractions of width and height, raw confidence (may exceed 1); all finite. The clip's scale is the
    larger side of the box around all confident body points; without at least four of them, or at scale 0, all is zero.
    The body is put into that box as [-1, 1]; hands and face are taken relative to their root joint of the same frame,
    over the scale. Joints that are not confident are zero. The result is written to `out`, if given.
    """
    assert parts.ndim == 3 and parts.shape[1:] == (len(PACKED_JOINTS), 3) and parts.dtype == np.float32, parts.shape
    out = np.empty_like(parts) if out is None else out
    _compiled(_normalize)(parts, _ROOTS, CONFIDENT, out)
    return out


@cache
def _compiled(function: Callable) -> Callable:
    """`function` compiled and kept on disk; in memory only where neither the package nor a cache folder is writable."""
    try:
        return numba.njit(function, nogil=True, cache=True)
    except RuntimeError:  # numba's "cannot cache function: no locator available"
        return numba.njit(function, nogil=True)


@cache
def _float16_values() -> np.ndarray:
    """[65536] what each pattern of 16 bits is worth; numba has no float16 on CPUs."""
    return np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)


def _select(bits, joints_J, values):
    selected = np.empty((len(bits), len(joints_J), 3), np.float32)
    for t in range(len(bits)):
        for j in range(len(joints_J)):
            for c in range(3):
                selected[t, j, c] = values[bits[t, joints_J[j], c]]
    return selected


def _normalize(keypoints, roots_J, confident, packed):
    # Roots come in as arguments, since numba would not notice a change of another module's globals in its disk cache.
    # Every constant is float32: the published numbers are, and a float64 literal would widen the arithmetic.
    half, one, two = np.float32(0.5), np.float32(1), np.float32(2)
    packed[:] = 0
    points = 0
    x_min = y_min = np.float32(np.inf)
    x_max = y_max = np.float32(-np.inf)
    for t in range(len(keypoints)):
        for j in range(len(roots_J)):
            x, y, confidence = keypoints[t, j]
            if roots_J[j] == NO_ROOT and confidence > confident:
                points += 1
                x_min, x_max = min(x_min, x), max(x_max, x)
                y_min, y_max = min(y_min, y), max(y_max, y)
    if points < MIN_POINTS:
        return
    scale = max(x_max - x_min, y_max - y_min)
    if scale == 0:
        return
    x_corner = (x_min + x_max - scale) / two
    y_corner = (y_min + y_max - scale) / two
    for t in range(len(keypoints)):
        for j in range(len(roots_J)):
            x, y, confidence = keypoints[t, j]
            if confidence <= confident:
                continue
            if roots_J[j] == NO_ROOT:
                x = ((x - x_corner) / scale - half) * two
                y = ((y - y_corner) / scale - half) * two
            else:
                x = (x - keypoints[t, roots_J[j], 0]) / scale
                y = (y - keypoints[t, roots_J[j], 1]) / scale
            packed[t, j, 0] = min(max(x, -one), one)
            packed[t, j, 1] = min(max(y, -one), one)
            packed[t, j, 2] = min(confidence, one)
