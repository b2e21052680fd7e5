"""A procedural signer: proportions, tempo and colours, and the joints of a sentence signed frame by frame.

Lengths as in signs.py: shoulder widths from the middle of the shoulders, x right, y down. Hand 0 is the left one.
"""

from dataclasses import dataclass

import numpy as np

from .signs import (
    HANDSHAPES,
    MEAN_HAND,
    MOVEMENTS,
    REST_ANGLE,
    REST_PLACE,
    REST_SHAPE,
    SHAPE_SIZE,
    SIGNS,
    Sign,
    hand_points,
)

Colour = tuple[int, int, int]
LEFT, RIGHT = 0, 1


@dataclass(frozen=True)
class Signer:
    """One person. Lengths are in shoulder widths, `size` is the shoulder width in units of the picture's short side."""

    name: str
    size: float
    reach: float  # scales the places of signs
    hand: float  # wrist to middle fingertip
    head: float  # half its height
    tempo: float  # frames a sign takes, relative to the mean
    skin: Colour
    cloth: Colour
    background: Colour
    hair: Colour


SIGNERS: tuple[Signer, ...] = (
    Signer("anna", 0.290, 1.00, 0.60, 0.44, 1.00, (236, 188, 152), (40, 70, 120), (196, 204, 208), (60, 40, 30)),
    Signer("bao", 0.300, 1.05, 0.58, 0.42, 0.92, (214, 160, 120), (34, 92, 72), (226, 220, 200), (20, 20, 24)),
    Signer("chen", 0.280, 0.95, 0.64, 0.46, 1.10, (246, 208, 176), (96, 40, 92), (150, 176, 190), (30, 26, 26)),
    Signer("dora", 0.285, 0.97, 0.62, 0.45, 1.05, (180, 124, 88), (30, 44, 60), (188, 214, 188), (24, 16, 14)),
    Signer("emil", 0.305, 1.04, 0.59, 0.43, 0.90, (242, 200, 180), (60, 60, 64), (206, 190, 214), (150, 104, 50)),
    Signer("fang", 0.275, 0.98, 0.65, 0.45, 1.03, (226, 176, 132), (112, 48, 44), (164, 190, 204), (36, 28, 24)),
)

# A frame of one hand as a row: wrist x and y, angle, true handshape, handshape the estimator can see, fast or not.
_WRIST, _ANGLE = slice(0, 2), 2
_SHAPE, _SEEN = slice(3, 3 + SHAPE_SIZE), slice(3 + SHAPE_SIZE, 3 + 2 * SHAPE_SIZE)
_FAST = 3 + 2 * SHAPE_SIZE
_ROW = _FAST + 1
# Score-aware sampling draws a tenth of the frames, rounded down: two from a word, nearly surely in a long fast stroke.
FAST_FRAMES, CLIP_FRAMES = 8, 20  # at least this many frames
TRANSITION_FRAMES = 3


@dataclass(frozen=True)
class Performance:
    """A signed clip of T frames. Axis 1 of the arrays is the hand, left first."""

    wrists: np.ndarray  # [T, 2, 2]
    angles: np.ndarray  # [T, 2] degrees, as in Sign, mirrored for the left hand
    shapes: np.ndarray  # [T, 2, 6], as in signs.HANDSHAPES: what the picture shows
    seen_shapes: np.ndarray  # [T, 2, 6]: the most that an estimator can see; the same for both signs of a pair
    fast: np.ndarray  # [T, 2] bool: the stroke is too fast for the estimator
    speeds: np.ndarray  # [T, 2] of the wrist, shoulder widths per frame

    def __len__(self) -> int:
        return len(self.wrists)


def _row(place: np.ndarray | tuple[float, float], angle: float, shape: str, fast: bool = False) -> np.ndarray:
    true = HANDSHAPES[shape]
    return np.array([*place, angle, *true, *(MEAN_HAND if fast else true), fast], dtype=np.float64)


def _rest() -> np.ndarray:
    """Both hands at rest [2, _ROW], each in the right hand's coordinates; `perform` mirrors the left one."""
    return np.tile(_row(REST_PLACE, REST_ANGLE, REST_SHAPE), (2, 1))


def _stroke(sign: Sign, signer: Signer, rng: np.random.Generator) -> np.ndarray:
    """[n, 2, _ROW]. Draws the same random numbers for both signs of a pair, whatever they are."""
    frames = round(rng.uniform(6.2, 8.2) * signer.tempo)
    if sign.fast:
        frames = max(frames, FAST_FRAMES)
    place = np.array(sign.place) * signer.reach + rng.normal(0, 0.025, 2)
    angle = sign.angle + rng.normal(0, 4)
    extent = rng.uniform(0.88, 1.12)
    right = np.tile(_row(place, angle, sign.handshape, sign.fast), (frames, 1))
    right[:, _WRIST] += extent * MOVEMENTS[sign.movement].path(np.linspace(0, 1, frames))
    rows = np.repeat(_rest()[None], frames, axis=0)
    rows[:, RIGHT] = right
    if sign.left == "mirror":
        rows[:, LEFT] = right
    elif sign.left == "base":
        rows[:, LEFT] = _row(np.array([-0.35, 0.95]) * signer.reach, 75, "flat")
    return rows


def _transition(start: np.ndarray, end: np.ndarray, frames: int) -> np.ndarray:
    """The frames strictly between two [2, _ROW] rows, with a smooth start and stop; never fast."""
    u = np.arange(1, frames + 1) / (frames + 1)
    weight = (u * u * (3 - 2 * u))[:, None, None]
    rows = (1 - weight) * start + weight * end
    rows[..., _FAST] = 0
    return rows


def perform(glosses: tuple[str, ...], signer: Signer, rng: np.random.Generator) -> Performance:
    """Signs the glosses one after another, from rest to rest: 20 to 23 frames for one sign, 34 to 68 for 3 to 5."""
    rest = _rest()
    parts: list[np.ndarray] = []
    for gloss in glosses:
        stroke = _stroke(SIGNS[gloss], signer, rng)
        parts += [_transition(parts[-1][-1] if parts else rest, stroke[0], TRANSITION_FRAMES), stroke]
    parts.append(_transition(parts[-1][-1], rest, TRANSITION_FRAMES))
    before, after = rng.integers(1, 5, 2)
    after = max(after, CLIP_FRAMES - before - sum(map(len, parts)))
    rows = np.concatenate([np.repeat(rest[None], before, axis=0), *parts, np.repeat(rest[None], after, axis=0)])
    rows[:, LEFT, 0] *= -1
    rows[:, LEFT, _ANGLE] *= -1
    wrists = rows[..., _WRIST]
    speeds = np.linalg.norm(np.gradient(wrists, axis=0), axis=-1)
    return Performance(wrists, rows[..., _ANGLE], rows[..., _SHAPE], rows[..., _SEEN], rows[..., _FAST] == 1, speeds)


def place_hands(performance: Performance, shapes: np.ndarray, signer: Signer) -> np.ndarray:
    """Hand joints [T, 2, 21, 2] for handshapes [T, 2, 6]: `performance.shapes` or `performance.seen_shapes`."""
    hands = []
    for hand in (LEFT, RIGHT):
        points = hand_points(shapes[:, hand]) * signer.hand
        if hand == LEFT:
            points[..., 0] *= -1
        angle = np.radians(performance.angles[:, hand])[:, None]
        x, y = points[..., 0], points[..., 1]
        rotated = np.stack([x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)], axis=-1)
        hands.append(rotated + performance.wrists[:, hand, None])
    return np.stack(hands, axis=1)


def elbows(performance: Performance) -> np.ndarray:
    """The elbows [T, 2, 2]: beside the trunk, partly following the wrists, like arms seen from the front."""
    outward = np.array([[1.0, 1.0], [-1.0, 1.0]])
    rest_wrist = np.abs(REST_PLACE) * outward
    return np.array([0.66, 0.66]) * outward + 0.32 * (performance.wrists - rest_wrist)


def face_points(signer: Signer) -> np.ndarray:
    """The 68 face landmarks [68, 2]: jaw, brows, nose, eyes, lips, each from left to right in the picture."""

    def arc(count: int, centre: tuple[float, float], radii: tuple[float, float], start: float, stop: float) -> list:
        angles = np.radians(np.linspace(start, stop, count))
        return [(centre[0] + radii[0] * np.cos(t), centre[1] + radii[1] * np.sin(t)) for t in angles]

    points = arc(17, (0, -0.05), (0.78, 1.0), 185, -5)
    for x in (-0.36, 0.36):
        points += arc(5, (x, -0.18), (0.22, 0.14), 200, 340)
    points += [(0, y) for y in (-0.1, 0.0, 0.1, 0.2)] + [(x, 0.27) for x in (-0.14, -0.07, 0.0, 0.07, 0.14)]
    for x in (-0.36, 0.36):
        points += arc(6, (x, -0.08), (0.14, 0.07), 180, 480)
    points += arc(12, (0, 0.54), (0.28, 0.12), 180, 510) + arc(8, (0, 0.54), (0.2, 0.04), 180, 495)
    return np.array(points) * signer.head + head_centre(signer)


def head_centre(signer: Signer) -> np.ndarray:
    """The centre of the head [2]."""
    return np.array([0.0, -0.22 - signer.head])
