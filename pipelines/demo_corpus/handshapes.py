"""Pictures of single hands, to teach an RGB encoder what a hand looks like before it sees a clip.

They replace ImageNet pretraining: handshapes with random rotation, size and colour, none taken from a clip.
"""

import numpy as np
from PIL import Image, ImageDraw

from .renderer import draw_hand
from .signer import SIGNERS, Colour
from .signs import HANDSHAPES, SHAPE_SIZE, hand_points

SHAPES = np.array(list(HANDSHAPES.values()))
_OVERSIZE = 2  # drawn larger and shrunk, as crops are


def handshape_pictures(count: int, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pictures [count, 3, size, size] uint8 RGB, and which of `SHAPES` each shows: int64 [count]."""
    labels = rng.integers(len(SHAPES), size=count)
    shapes = np.clip(SHAPES[labels] + rng.normal(0, 0.05, (count, SHAPE_SIZE)), 0, 1)
    return np.stack([_picture(shape, size, rng) for shape in shapes]), labels


def _picture(shape: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """One hand, left or right, roughly as its box would show it."""
    signer, other = (SIGNERS[i] for i in rng.integers(len(SIGNERS), size=2))
    behind = other.background if rng.random() < 0.5 else other.cloth
    skin, sleeve, behind = (_varied(colour, rng) for colour in (signer.skin, signer.cloth, behind))
    side = _OVERSIZE * size
    length = side * rng.uniform(0.6, 0.85)
    angle, mirror = np.radians(rng.uniform(-60, 60)), rng.choice((-1, 1))
    x, y = np.moveaxis(hand_points(shape[None])[0] * (mirror * length, length), -1, 0)
    points = np.stack([x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)], axis=-1)
    points += side / 2 - (points.min(axis=0) + points.max(axis=0)) / 2 + rng.normal(0, 0.05 * side, 2)
    image = Image.new("RGB", (side, side), behind)
    draw = ImageDraw.Draw(image)
    elbow = points[0] + 2 * (points[0] - points[9])
    draw.line([tuple(points[0]), tuple(elbow)], fill=sleeve, width=round(0.4 * length))
    draw_hand(draw, points, length, skin)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)).transpose(2, 0, 1)


def _varied(colour: Colour, rng: np.random.Generator) -> Colour:
    return tuple(np.clip(colour + rng.normal(0, 20, 3), 0, 255).astype(int).tolist())
