"""Augmentation of keypoints in training: seeded transforms between frame choice and normalisation.

Off by default, as in the paper. `--augment rotation=10 noise=0.01` applies the transforms in the order given, each with
its own generator for (seed, epoch, clip), so the result does not depend on workers, ranks or interruptions.

Confidence is kept, so missing joints stay missing; `joint_dropout` alone sets it, to 0. Hand crops are not transformed:
sampling, boxes and the joints' places in a crop follow the stored keypoints of the frames shown, so the RGB branch
looks for every joint where it is in the picture.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..errors import InputError

SPEED_KNOTS = 5  # knots of a time warp's speed curve over a clip


class Frames(NamedTuple):
    """The chosen frames of a clip, as a transform takes and returns them."""

    keypoints: np.ndarray  # [T, V, 3] float32: x and y as fractions of the picture, raw confidence
    numbers: np.ndarray  # [T] int64: the frame of the clip that each row shows
    aspect: float  # width of the picture over its height
    body: np.ndarray  # the joints whose extent is the signer's size, as in normalisation


class Transform(NamedTuple):
    """`apply` transforms frames with a strength in (0, `most`] and a generator; it changes no array in place."""

    apply: Callable[[Frames, float, np.random.Generator], Frames]
    most: float


def time_warp(clip: Frames, strength: float, rng: np.random.Generator) -> Frames:
    """Varies the speed smoothly, by factors of up to 1 + strength; frames are repeated or dropped, never
    interpolated."""
    count = len(clip.numbers)
    if count < 3:
        return clip
    knots = rng.uniform(-1, 1, SPEED_KNOTS) * math.log1p(strength)
    speed = np.exp(np.interp(np.linspace(0, 1, count - 1), np.linspace(0, 1, SPEED_KNOTS), knots))
    time = np.concatenate([[0], np.cumsum(speed)])
    rows = np.rint(time / time[-1] * (count - 1)).astype(np.int64)
    return clip._replace(keypoints=clip.keypoints[rows], numbers=clip.numbers[rows])


def rotation(clip: Frames, degrees: float, rng: np.random.Generator) -> Frames:
    """Rotates the signer within the picture by up to `degrees` in either direction."""
    angle = math.radians(rng.uniform(-degrees, degrees))
    cos, sin = math.cos(angle), math.sin(angle)
    rotation = np.array([[cos, -sin / clip.aspect], [sin * clip.aspect, cos]])  # pixel coordinates from fractions
    return _moved(clip, (clip.keypoints[..., :2] - 0.5) @ rotation.T + 0.5)


def scale(clip: Frames, strength: float, rng: np.random.Generator) -> Frames:
    """Stretches width and height, each by its own factor of up to 1 + strength; normalisation cancels a common one."""
    factors = np.exp(rng.uniform(-1, 1, 2) * math.log1p(strength))
    return _moved(clip, (clip.keypoints[..., :2] - 0.5) * factors + 0.5)


def noise(clip: Frames, strength: float, rng: np.random.Generator) -> Frames:
    """Moves every joint by Gaussian noise of standard deviation strength x the larger side of the body's box."""
    from .keypoint_normalization import CONFIDENT  # late import: it imports numba, and settings import this module

    joints = clip.keypoints[:, clip.body]
    seen = joints[joints[..., 2] > CONFIDENT][:, :2]
    size = np.ptp(seen, axis=0).max() if len(seen) else 0.0
    return _moved(clip, clip.keypoints[..., :2] + strength * size * rng.standard_normal(clip.keypoints[..., :2].shape))


def joint_dropout(clip: Frames, share: float, rng: np.random.Generator) -> Frames:
    """Makes each joint of each frame missing with probability `share`.

    Its position stays, since hands and face are taken relative to their roots.
    """
    keypoints = clip.keypoints.copy()
    keypoints[rng.random(keypoints.shape[:2]) < share, 2] = 0
    return clip._replace(keypoints=keypoints)


def _moved(clip: Frames, xy: np.ndarray) -> Frames:
    keypoints = clip.keypoints.copy()
    keypoints[..., :2] = xy
    return clip._replace(keypoints=keypoints)


TRANSFORMS: dict[str, Transform] = {
    "time_warp": Transform(time_warp, 1),
    "rotation": Transform(rotation, 180),
    "scale": Transform(scale, 1),
    "noise": Transform(noise, 1),
    "joint_dropout": Transform(joint_dropout, 1),
}


def read_augmentation(options: Sequence[str]) -> list[tuple[str, float]]:
    """The names and strengths in NAME=STRENGTH options. Raises InputError if a name or strength is invalid."""
    steps: dict[str, float] = {}
    for option in options:
        name, _, text = option.partition("=")
        if name not in TRANSFORMS:
            raise InputError(
                "--augment", f"{option!r} is not known", f"use {', '.join(f'{x}=...' for x in TRANSFORMS)}"
            )
        if name in steps:
            raise InputError("--augment", f"{name} is given twice", "give each once")
        try:
            steps[name] = float(text)
        except ValueError:
            steps[name] = 0.0
        if not 0 < steps[name] <= TRANSFORMS[name].most:
            remedy = f"give a number above 0, at most {TRANSFORMS[name].most:g}"
            raise InputError("--augment", f"{option!r} is not valid", remedy)
    return list(steps.items())


def augment(
    clip: Frames, steps: Sequence[tuple[str, float]], generator: Callable[[str], np.random.Generator]
) -> Frames:
    """The frames after all `steps` of `read_augmentation`; `generator` gives each transform its own by name."""
    for name, strength in steps:
        clip = TRANSFORMS[name].apply(clip, strength, generator(f"augment {name}"))
    return clip
