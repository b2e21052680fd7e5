"""Simulates a whole-body keypoint estimator on a performance: 133 keypoints with its noise and failures.

Where a hand moves fast (or covers the other one) the fingers are guessed: a mean hand at the right place and of about
the right size, with low confidence, whatever the true handshape. Arms, wrists and face stay good.
"""

import numpy as np

from ..skeleton import JOINTS, LEFT_HAND, RIGHT_HAND
from .signer import LEFT, RIGHT, Performance, Signer, elbows, face_points, head_centre, place_hands

_FACE = slice(23, 91)
_LEGS = slice(13, 23)  # knees, ankles, feet: below the picture
GOOD_CONFIDENCE, GUESS_CONFIDENCE = 0.96, (0.16, 0.34)  # means over a hand
TRANSITION_LOSS, TRANSITION_SPEED = 0.10, 0.35  # confidence lost by a hand at that speed between signs


def _body(performance: Performance, signer: Signer) -> np.ndarray:
    """True positions [T, 133, 2] of all joints except those of the hands (zero here)."""
    points = np.zeros((len(performance), JOINTS, 2))
    face = face_points(signer)
    points[:, _FACE] = face
    points[:, 0] = face[30]
    points[:, 1], points[:, 2] = face[42:48].mean(axis=0), face[36:42].mean(axis=0)
    ear = np.array([0.8 * signer.head, -0.05 * signer.head])
    points[:, 3], points[:, 4] = head_centre(signer) + ear, head_centre(signer) + ear * (-1, 1)
    elbow = elbows(performance)
    for hand, side in ((LEFT, 1), (RIGHT, -1)):
        points[:, 5 + hand] = (0.5 * side, 0)
        points[:, 7 + hand], points[:, 9 + hand] = elbow[:, hand], performance.wrists[:, hand]
        points[:, 11 + hand] = (0.3 * side, 1.55)
        points[:, 13 + hand], points[:, 15 + hand] = (0.32 * side, 2.2), (0.32 * side, 2.5)
        points[:, 17 + 3 * hand : 20 + 3 * hand] = (0.36 * side, 2.6)
    return points


def _fingers(performance: Performance, signer: Signer, hand: int, rng: np.random.Generator) -> np.ndarray:
    """[T, 21, 2]: the visible handshape; where the stroke is fast, with a random rotation, size and scatter."""
    frames = len(performance)
    points = place_hands(performance, performance.seen_shapes, signer)[:, hand]
    fast = performance.fast[:, hand, None]
    wrist = points[:, :1]
    angle = fast * np.radians(rng.normal(0, 10, (frames, 1)))
    size = 1 + fast * rng.normal(0.1, 0.1, (frames, 1))
    x, y = np.moveaxis(points - wrist, -1, 0) * size
    points = wrist + np.stack([x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)], axis=-1)
    scatter = np.where(fast, 0.05, 0.008)[..., None] * np.ones((1, 21, 1))
    scatter[:, 0] = 0.008
    return points + rng.normal(0, 1, points.shape) * scatter


def _hand_confidence(performance: Performance, hand: int, rng: np.random.Generator) -> np.ndarray:
    """[T, 21] raw scores, some of which exceed 1, like a real estimator's."""
    frames = len(performance)
    lost = TRANSITION_LOSS * np.minimum(1, performance.speeds[:, hand] / TRANSITION_SPEED)
    good = GOOD_CONFIDENCE - lost + rng.normal(0, 0.015, frames)
    guess = rng.uniform(*GUESS_CONFIDENCE, frames)
    mean = np.where(performance.fast[:, hand], guess, good)
    return np.maximum(mean[:, None] + rng.normal(0, 0.04, (frames, 21)), 0.01)


def estimate(performance: Performance, signer: Signer, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Positions [T, 133, 2] in the signer's units, and raw confidences [T, 133].

    They depend on a sign of `signs.PAIRS` only through what both signs of the pair share: from the same generator
    state, both give the same bytes.
    """
    points = _body(performance, signer)
    points += rng.normal(0, 0.007, points.shape)
    confidence = rng.normal(0.92, 0.04, points.shape[:2])
    confidence[:, _LEGS] = rng.uniform(0.05, 0.28, confidence[:, _LEGS].shape)
    for hand, joints in ((LEFT, LEFT_HAND), (RIGHT, RIGHT_HAND)):
        points[:, joints] = _fingers(performance, signer, hand, rng)
        confidence[:, joints] = _hand_confidence(performance, hand, rng)
    return points, confidence
