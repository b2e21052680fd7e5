"""Frame choice and part normalisation: from 133 raw keypoints to the 69 x 3 numbers a frame that the model sees.

Uni-Sign's rule, matching the published code on float32 input to the last bit. The loops are compiled by numba and
release the GIL, so that background threads run side by side.
"""

from collections.abc import Callable
from functools import cache, partial

import numba
import numpy as np
import torch

from pipelines.skeleton import JOINTS, PACKED_JOINTS, PART_SLICES, PARTS, ROOT_JOINT

CONFIDENT = np.float32(0.3)  # a joint counts above this confidence
MIN_POINTS = 4  # fewer confident body points in a clip: nothing to measure its scale by
NO_ROOT = -1
FLOAT16_INFINITY = 0x7C00  # its bits; those of NaN are above

_ENDS = np.array([PART_SLICES[part].stop for part in PARTS])  # of the parts among the packed joints
_ROOTS = np.array([PART_SLICES[p].start + ROOT_JOINT[p] if p in ROOT_JOINT else NO_ROOT for p in PARTS])  # of the parts


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
    """The 69 joints of the four parts: [T, 133, 3], float16 as stored or another type, to float32 [T, 69, 3].

    Raises ValueError unless all of their numbers are finite.
    """
    assert keypoints.ndim == 3 and keypoints.shape[1:] == (JOINTS, 3), keypoints.shape
    if keypoints.dtype != np.float16:
        selected = keypoints[:, PACKED_JOINTS].astype(np.float32)
        finite = np.isfinite(selected).all()
    else:
        halves = np.empty((len(keypoints), len(PACKED_JOINTS), 3), np.float16)
        largest = _compiled(_select)(keypoints.view(np.uint16), PACKED_JOINTS, halves.view(np.uint16))
        finite = largest < FLOAT16_INFINITY
        selected = torch.from_numpy(halves).float().numpy()  # eight numbers an instruction, which numpy doesn't know
    if not finite:
        raise ValueError("keypoints are not all finite numbers")
    return selected


def normalize_parts(parts: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """The chosen frames of one clip, normalised: float32 [T, 69, 3] of `select_parts`, to values in [-1, 1].

    Input: x and y as fractions of width and height, raw confidence (may exceed 1); all finite. The clip's scale is the
    larger side of the box around all confident body points; without at least four of them, or at scale 0, all is zero.
    The body is put into that box as [-1, 1]; hands and face are taken relative to their root joint of the same frame,
    over the scale. Joints that are not confident are zero. The result is written to `out`, if given.
    """
    assert parts.ndim == 3 and parts.shape[1:] == (len(PACKED_JOINTS), 3) and parts.dtype == np.float32, parts.shape
    parts = np.ascontiguousarray(parts)
    out = np.empty_like(parts) if out is None else out
    _compiled(_normalize)(parts, _ENDS, _ROOTS, CONFIDENT, out)
    return out


@cache
def _compiled(function: Callable) -> Callable:
    """`function` compiled and kept on disk; in memory only where neither the package nor a cache folder is writable."""
    compiled = partial(numba.njit, function, nogil=True, error_model="numpy")
    try:
        return compiled(cache=True)
    except RuntimeError:  # numba's "cannot cache function: no locator available"
        return compiled()


def _select(bits, joints_J, selected):  # bits: numba has no float16 on CPUs
    numbers, row = selected.reshape(-1), 3 * len(joints_J)
    largest = np.uint16(0)
    for t in range(len(bits)):
        for j in range(len(joints_J)):
            joint = np.uint64(joints_J[j])  # never negative: counted from the end by nobody
            for c in range(3):
                selected[t, j, c] = bits[t, joint, c]
        for n in range(t * row, (t + 1) * row):
            largest = max(largest, numbers[n] & np.uint16(0x7FFF))  # without the sign
    return largest


def _normalize(keypoints, ends_P, roots_P, confident, packed):
    # Parts come in as arguments, since numba would not notice a change of another module's globals in its disk cache.
    # Every constant is float32: the published numbers are, and a float64 literal would widen the arithmetic.
    half, one, two, zero = np.float32(0.5), np.float32(1), np.float32(2), np.float32(0)
    body, joints = ends_P[0], keypoints.shape[1]
    points = 0
    x_min = y_min = np.float32(np.inf)
    x_max = y_max = np.float32(-np.inf)
    for t in range(len(keypoints)):
        for j in range(body):
            x, y, confidence = keypoints[t, j]
            if confidence > confident:
                points += 1
                x_min, x_max = min(x_min, x), max(x_max, x)
                y_min, y_max = min(y_min, y), max(y_max, y)
    scale = max(x_max - x_min, y_max - y_min)
    if points < MIN_POINTS or scale == 0:
        packed[:] = 0
        return
    # Joints differ in their origin, and the body in what follows. One loop without branches over what is contiguous is
    # what the compiler turns into instructions for eight joints.
    x_origin_J, y_origin_J = np.empty(joints, np.float32), np.empty(joints, np.float32)
    centre_J, factor_J = np.zeros(joints, np.float32), np.ones(joints, np.float32)
    x_origin_J[:body], y_origin_J[:body] = (x_min + x_max - scale) / two, (y_min + y_max - scale) / two
    centre_J[:body], factor_J[:body] = half, two
    values_TN, packed_TN = keypoints.reshape(-1, 3 * joints), packed.reshape(-1, 3 * joints)
    for t in range(len(keypoints)):
        for p in range(1, len(ends_P)):
            x_root, y_root = keypoints[t, roots_P[p], 0], keypoints[t, roots_P[p], 1]
            for j in range(ends_P[p - 1], ends_P[p]):
                x_origin_J[j], y_origin_J[j] = x_root, y_root
        for j in range(joints):
            confidence = values_TN[t, 3 * j + 2]
            x = ((values_TN[t, 3 * j] - x_origin_J[j]) / scale - centre_J[j]) * factor_J[j]
            y = ((values_TN[t, 3 * j + 1] - y_origin_J[j]) / scale - centre_J[j]) * factor_J[j]
            packed_TN[t, 3 * j] = min(max(x, -one), one) if confidence > confident else zero
            packed_TN[t, 3 * j + 1] = min(max(y, -one), one) if confidence > confident else zero
            packed_TN[t, 3 * j + 2] = min(confidence, one) if confidence > confident else zero
