"""Normalisation of the body parts: raw keypoints (of the default skeleton 133) to 69 x 3 model inputs per frame.

Follows Uni-Sign and is bit-exact with the published code on float32 input. The loops are compiled by numba and release
the GIL, so that background threads run in parallel.
"""

from functools import cache

import numpy as np

from ..jit import compiled
from ..skeleton import PARTS, WHOLEBODY, Skeleton

CONFIDENT = np.float32(0.3)  # a joint counts above this confidence
MIN_POINTS = 4  # with fewer confident body points, a clip's scale is undefined
NO_ROOT = -1
FLOAT16_INFINITY = 0x7C00  # bit pattern of infinity; NaN patterns are larger


@cache
def _layout(skeleton: Skeleton) -> tuple[np.ndarray, np.ndarray]:
    """Where the parts end among the packed joints, and where their roots are."""
    roots = (skeleton.parts[part].root for part in PARTS)
    starts = (skeleton.slices[part].start for part in PARTS)
    ends = np.array([skeleton.slices[part].stop for part in PARTS])
    return ends, np.array([NO_ROOT if root is None else start + root for start, root in zip(starts, roots)])


def normalize_parts(keypoints: np.ndarray, skeleton: Skeleton = WHOLEBODY) -> np.ndarray:
    """The joints in use of a clip's chosen frames, normalised: [T, 133, 3] to float32 [T, 69, 3], values in [-1, 1].

    Input: x and y as fractions of width and height, raw confidence (may exceed 1); float16 as stored is fastest.
    The clip's scale is the larger side of the box around all confident body points; with fewer than four of them, or a
    scale of 0, all outputs are zero. The body is put into that box as [-1, 1]; hands and face are taken relative to
    their root joint of the same frame, over the scale. Joints that are not confident are zero.

    Raises ValueError unless all numbers of these joints are finite.
    """
    assert keypoints.ndim == 3 and keypoints.shape[1:] == (len(skeleton.joints), 3), keypoints.shape
    joints, (ends, roots) = skeleton.packed_joints, _layout(skeleton)
    packed = np.empty((len(keypoints), len(joints), 3), np.float32)
    if keypoints.dtype == np.float16:
        bits = keypoints.view(np.uint16), packed.view(np.uint32)
        finite = _select_and_normalize(*bits, joints, packed, ends, roots, CONFIDENT)
    else:
        packed[:] = keypoints[:, joints]
        finite = np.isfinite(packed).all()
        if finite:
            _normalize(packed, ends, roots, CONFIDENT)
    if not finite:
        raise ValueError("keypoints are not all finite numbers")
    return packed


@compiled
def _select(bits_TVC, joints_J, packed_bits, packed):
    """Converts the joints in use from float16 to float32; returns the largest magnitude, as float16 bits.

    bits_TVC: the float16 numbers as uint16, since numba has no float16 on CPUs. `packed` [T, J, 3] float32 gets the
    result; `packed_bits` is the same memory as uint32.

    The exponent's offset is larger by 112. Adjusting it by a multiplication also converts subnormal numbers correctly.
    """
    frames, row = len(bits_TVC), 3 * len(joints_J)
    halves_N = np.empty(row, np.uint16)  # one frame, contiguous, so that the next loop is vectorised
    packed_bits_TN, packed_TN = packed_bits.reshape(-1, row), packed.reshape(-1, row)
    largest = np.uint16(0)
    for t in range(frames):
        for j in range(len(joints_J)):
            joint = np.uint64(joints_J[j])  # unsigned: numba omits the handling of negative indices
            for c in range(3):
                halves_N[3 * j + c] = bits_TVC[t, joint, c]
        for n in range(row):
            sign, magnitude = np.uint32(halves_N[n] & np.uint16(0x8000)), np.uint32(halves_N[n] & np.uint16(0x7FFF))
            packed_bits_TN[t, n] = sign << np.uint32(16) | magnitude << np.uint32(13)
            largest = max(largest, halves_N[n] & np.uint16(0x7FFF))
        for n in range(row):
            packed_TN[t, n] *= np.float32(2.0**112)
    return largest


@compiled
def _normalize(packed, ends_P, roots_P, confident):
    # Parts come in as arguments, since numba would not notice a change of another module's globals in its disk cache.
    # Every constant is float32: the published numbers are, and a float64 literal would widen the arithmetic.
    half, one, two, zero = np.float32(0.5), np.float32(1), np.float32(2), np.float32(0)
    body, joints = ends_P[0], packed.shape[1]
    points = 0
    x_min = y_min = np.float32(np.inf)
    x_max = y_max = np.float32(-np.inf)
    for t in range(len(packed)):
        for j in range(body):
            x, y, confidence = packed[t, j]
            if confidence > confident:
                points += 1
                x_min, x_max = min(x_min, x), max(x_max, x)
                y_min, y_max = min(y_min, y), max(y_max, y)
    scale = max(x_max - x_min, y_max - y_min)
    if points < MIN_POINTS or scale == 0:
        packed[:] = 0
        return
    # Joints differ in their origin, and the body in centre and factor. The compiler vectorises one branch-free loop
    # over contiguous values to eight joints per instruction.
    x_origin_J, y_origin_J = np.empty(joints, np.float32), np.empty(joints, np.float32)
    centre_J, factor_J = np.zeros(joints, np.float32), np.ones(joints, np.float32)
    x_origin_J[:body], y_origin_J[:body] = (x_min + x_max - scale) / two, (y_min + y_max - scale) / two
    centre_J[:body], factor_J[:body] = half, two
    packed_TN = packed.reshape(-1, 3 * joints)
    for t in range(len(packed)):
        for p in range(1, len(ends_P)):
            x_root, y_root = packed[t, roots_P[p], 0], packed[t, roots_P[p], 1]
            for j in range(ends_P[p - 1], ends_P[p]):
                x_origin_J[j], y_origin_J[j] = x_root, y_root
        for j in range(joints):
            confidence = packed_TN[t, 3 * j + 2]
            x = ((packed_TN[t, 3 * j] - x_origin_J[j]) / scale - centre_J[j]) * factor_J[j]
            y = ((packed_TN[t, 3 * j + 1] - y_origin_J[j]) / scale - centre_J[j]) * factor_J[j]
            packed_TN[t, 3 * j] = min(max(x, -one), one) if confidence > confident else zero
            packed_TN[t, 3 * j + 1] = min(max(y, -one), one) if confidence > confident else zero
            packed_TN[t, 3 * j + 2] = min(confidence, one) if confidence > confident else zero


@compiled
def _select_and_normalize(bits_TVC, packed_bits, joints_J, packed, ends_P, roots_P, confident):
    """Selects and normalises; returns whether all numbers are finite. A single call, because for a short clip the call
    overhead exceeds the work."""
    finite = _select(bits_TVC, joints_J, packed_bits, packed) < FLOAT16_INFINITY
    if finite:
        _normalize(packed, ends_P, roots_P, confident)
    return finite
