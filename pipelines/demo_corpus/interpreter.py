"""A demo interpreter: a procedural signer who follows given speech at a known lag.

Tests and benchmarks of lag estimation use it as ground truth.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from .signer import Performance, Signer, perform
from .signs import SIGNS

FRAMES_A_SIGN = 10  # with the transition to the next one
_REST_FRAMES = 30


@dataclass(frozen=True)
class Interpretation:
    """The performance of a whole programme, and when each sentence is signed: (start, end) in seconds, None if not."""

    performance: Performance
    signed: list[tuple[float, float] | None]


def interpret(
    wanted: Sequence[tuple[float, float] | None], seconds: float, fps: float, signer: Signer, rng: np.random.Generator
) -> Interpretation:
    """Signs something in each of the `wanted` intervals (start, end in seconds), in order, and rests in between.

    An interval that overlaps the previous one starts late; one of less than three frames is not signed.
    """
    frames = round(seconds * fps)
    rest = _part(perform((next(iter(SIGNS)),), signer, rng), np.zeros(_REST_FRAMES))
    parts: list[Performance] = []
    signed: list[tuple[float, float] | None] = []
    at = 0
    for span in wanted:
        start, end = (max(at, round(span[0] * fps)), min(frames, round(span[1] * fps))) if span else (0, 0)
        if end - start < 3:
            signed.append(None)
            continue
        parts += [_part(rest, np.zeros(start - at)), _moving(end - start, signer, rng)]
        signed.append((start / fps, end / fps))
        at = end
    parts.append(_part(rest, np.zeros(frames - at)))
    return Interpretation(_joined(parts), signed)


def _moving(frames: int, signer: Signer, rng: np.random.Generator) -> Performance:
    """Signs from rest to rest, stretched to the given number of frames."""
    glosses = rng.choice(list(SIGNS), size=max(1, round(frames / FRAMES_A_SIGN)))
    performance = perform(tuple(glosses.tolist()), signer, rng)
    moving = np.flatnonzero(performance.speeds.max(axis=1) > 0)
    return _part(performance, np.linspace(moving[0], moving[-1], frames))


def _part(performance: Performance, at: np.ndarray) -> Performance:
    """The performance at fractional frame numbers [T]."""
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, len(performance) - 1)
    share = at - low

    def blended(values: np.ndarray) -> np.ndarray:
        if values.dtype == bool:
            return values[low]
        weight = share.reshape(-1, *[1] * (values.ndim - 1))
        return (1 - weight) * values[low] + weight * values[high]

    return Performance(**{field.name: blended(getattr(performance, field.name)) for field in fields(Performance)})


def _joined(parts: Sequence[Performance]) -> Performance:
    """The parts one after another; speeds are those of the whole."""
    arrays = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Performance)}
    arrays["speeds"] = np.linalg.norm(np.gradient(arrays["wrists"], axis=0), axis=-1)
    return Performance(**arrays)
