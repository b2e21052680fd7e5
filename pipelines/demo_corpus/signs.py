"""The signs of the demo language: handshape, place and movement, the three things that tell signs apart.

Lengths are in shoulder widths from the middle of the shoulders; x grows to the right of the picture, which is the
signer's left, and y downwards. Signs are given for the right hand, the dominant one. Angles are degrees from
fingers-up towards the midline.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# How far each finger is curled (thumb to little finger; 0 straight, 1 folded), then how far the fingers spread.
HANDSHAPES: dict[str, tuple[float, ...]] = {
    "fist": (1, 1, 1, 1, 1, 0),
    "spread": (0, 0, 0, 0, 0, 1),
    "vee": (1, 0, 0, 1, 1, 1),
    "flat": (0.7, 0, 0, 0, 0, 0),
    "index": (1, 0, 1, 1, 1, 0),
    "three": (1, 0, 0, 0, 1, 0.8),
    "thumb": (0, 1, 1, 1, 1, 0),
    "cup": (0.3, 0.5, 0.5, 0.5, 0.5, 0.2),
    "pinch": (0.5, 0.6, 0, 0, 0, 0.6),
}
SHAPE_SIZE = 6
MEAN_HAND = (0.5, 0.5, 0.5, 0.5, 0.5, 0.5)  # the estimator's guess when it cannot see the fingers
REST_PLACE, REST_ANGLE, REST_SHAPE = (-0.42, 1.08), 150.0, "cup"


def _ease(u: np.ndarray) -> np.ndarray:
    return u * u * (3 - 2 * u)


def _line(x: float, y: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda u: np.stack([x * _ease(u), y * _ease(u)], axis=1)


def _swing(x: float, y: float, cycles: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda u: np.stack([x * np.sin(2 * np.pi * cycles * u), y * np.sin(2 * np.pi * cycles * u)], axis=1)


def _circle(radius: float, cycles: float) -> Callable[[np.ndarray], np.ndarray]:
    angle = 2 * np.pi * cycles
    return lambda u: np.stack([radius * np.cos(angle * u), radius * np.sin(angle * u)], axis=1)


def _arc(x: float, height: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda u: np.stack([x * _ease(u), -height * np.sin(np.pi * u)], axis=1)


@dataclass(frozen=True)
class Movement:
    """`path` maps phases [n] in [0, 1] to offsets [n, 2] of the wrist. A `fast` one blinds the keypoint estimator."""

    path: Callable[[np.ndarray], np.ndarray]
    fast: bool = False


MOVEMENTS: dict[str, Movement] = {
    "up": Movement(_line(0, -0.35)),
    "down": Movement(_line(0, 0.35)),
    "out": Movement(_line(-0.35, 0)),
    "tap": Movement(_swing(0.05, 0.08, 2)),
    "wave": Movement(_swing(0.16, 0, 1)),
    "arc": Movement(_arc(-0.4, 0.25)),
    "circle": Movement(_circle(0.14, 1)),
    "shake across": Movement(_swing(0.22, 0, 3), fast=True),
    "shake upright": Movement(_swing(0, 0.22, 3), fast=True),
    "whirl": Movement(_circle(0.2, 3), fast=True),
}


@dataclass(frozen=True)
class Sign:
    """One sign. The left hand rests, mirrors the right one, or holds a flat `base` under it."""

    handshape: str
    place: tuple[float, float]
    angle: float
    movement: str
    left: str = "rest"

    @property
    def fast(self) -> bool:
        """Whether the estimator loses the fingers during the whole stroke."""
        return MOVEMENTS[self.movement].fast


SIGNS: dict[str, Sign] = {
    "我": Sign("index", (-0.45, 0.50), 80, "tap"),
    "你": Sign("index", (-0.45, 0.30), 5, "down"),
    "她": Sign("index", (-0.65, 0.25), -60, "out"),
    "昨天": Sign("thumb", (-0.50, -0.05), -10, "arc"),
    "明天": Sign("index", (-0.45, -0.45), 15, "arc"),
    "书": Sign("flat", (-0.15, 0.45), 60, "down", left="base"),
    "水": Sign("three", (-0.35, 0.05), 25, "tap"),
    "喝": Sign("cup", (-0.35, 0.20), 30, "up"),
    "吃": Sign("pinch", (-0.30, 0.00), 40, "circle"),
    "看": Sign("vee", (-0.40, -0.25), 15, "out"),
    "不": Sign("flat", (-0.70, 0.10), -5, "wave"),
    "吗": Sign("pinch", (-0.75, -0.15), 0, "circle"),
    "茶": Sign("fist", (-0.80, 0.50), 0, "shake across"),
    "咖啡": Sign("spread", (-0.80, 0.50), 0, "shake across"),
    "苹果": Sign("fist", (-0.80, -0.15), 0, "shake upright"),
    "橘子": Sign("spread", (-0.80, -0.15), 0, "shake upright"),
    "猫": Sign("spread", (-0.65, 0.95), -20, "whirl"),
    "狗": Sign("vee", (-0.65, 0.95), -20, "whirl"),
    "买": Sign("spread", (-0.40, 0.75), 5, "shake across", left="mirror"),
    "卖": Sign("fist", (-0.40, 0.75), 5, "shake across", left="mirror"),
}
# These differ in handshape alone, which the estimator never sees.
PAIRS: tuple[tuple[str, str], ...] = (("茶", "咖啡"), ("苹果", "橘子"), ("猫", "狗"), ("买", "卖"))

# A right hand of length 1, palm to the camera, fingers up, thumb towards +x; y upwards.
_KNUCKLES = np.array([[0.17, 0.48], [0.055, 0.52], [-0.06, 0.50], [-0.165, 0.44]])
_LENGTHS = np.array([0.44, 0.48, 0.45, 0.36])
_CLOSED_DEGREES, _SPREAD_DEGREES = np.array([3.0, 1.0, -1.0, -4.0]), np.array([20.0, 6.0, -9.0, -26.0])
_STRAIGHT, _FOLDED = np.array([0.45, 0.75, 1.0]), np.array([0.34, 0.26, -0.05])
_THUMB_OUT = np.array([[0.14, 0.12], [0.28, 0.26], [0.38, 0.38], [0.46, 0.50]])
_THUMB_IN = np.array([[0.14, 0.12], [0.23, 0.27], [0.14, 0.36], [0.02, 0.38]])


def hand_points(shape: np.ndarray) -> np.ndarray:
    """Handshapes [T, 6] -> joints [T, 21, 2] of a right hand of length 1 with the wrist at 0, x right, y DOWN."""
    frames = len(shape)
    points = np.zeros((frames, 21, 2))
    thumb = shape[:, :1, None]
    points[:, 1:5] = (1 - thumb) * _THUMB_OUT + thumb * _THUMB_IN
    degrees = _CLOSED_DEGREES + shape[:, 5:] * (_SPREAD_DEGREES - _CLOSED_DEGREES)
    direction = np.stack([np.sin(np.radians(degrees)), np.cos(np.radians(degrees))], axis=-1)  # [T, 4, 2]
    curl = shape[:, 1:5, None]
    along = ((1 - curl) * _STRAIGHT + curl * _FOLDED) * _LENGTHS[:, None]  # [T, 4 fingers, 3 joints]
    fingers = _KNUCKLES[:, None] + along[..., None] * direction[:, :, None]  # [T, 4, 3, 2]
    knuckles = np.broadcast_to(_KNUCKLES[:, None], (frames, 4, 1, 2))
    points[:, 5:] = np.concatenate([knuckles, fingers], axis=2).reshape(frames, 16, 2)
    points[..., 1] *= -1
    return points
