"""Frame selection, and score-aware sampling: which of these frames use a hand's crop, as its keypoints are unreliable.

`paper` is Algorithm 1 of Uni-Sign, `published` the rule of the released code. Both apply to one hand of one clip.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from ..skeleton import WHOLEBODY

Rule = Literal["paper", "published"]
RULES: tuple[Rule, ...] = get_args(Rule)
MIN_MEAN_CONFIDENCE = 0.3  # published: hands below this confidence are never sampled
MIN_WEIGHT = 1e-5  # published: keeps the most confident frame eligible


def choose_frames(frames: int, max_frames: int, rng: np.random.Generator | None) -> np.ndarray:
    """Selects the frames of a clip to use: ascending int64 indices. All frames if there are at most `max_frames`;
    otherwise a random choice from `rng` without repetition, or evenly spaced frames if `rng` is None (evaluation).
    """
    if frames <= max_frames:
        return np.arange(frames)
    if rng is None:
        return (2 * np.arange(max_frames) + 1) * frames // (2 * max_frames)
    return np.sort(rng.choice(frames, max_frames, replace=False, shuffle=False))


def sample_frames(
    confidence: np.ndarray,
    p_samp: float,
    rule: Rule,
    rng: np.random.Generator,
    fingertips: Sequence[int] = WHOLEBODY.fingertips,
) -> np.ndarray:
    """Ascending, unique int64 indices of the frames whose hand crop is used; confidence [T, 21] is raw.

    paper: floor(T p) draws with replacement, weights 1 - mean confidence; a frame drawn twice is computed once.
    published: ceil(n p) of the n frames with mean confidence above 0.3, without replacement, weighted by how far the
    confidence of the least confident fingertip lies below the maximum of that value over the frames.
    """
    assert rule in RULES and 0 <= p_samp <= 1, (rule, p_samp)
    confidence = confidence.astype(np.float64)
    if rule == "paper":
        draws = int(len(confidence) * p_samp)
        if draws == 0:
            return np.zeros(0, np.int64)
        weights = 1 - confidence.clip(0, 1).mean(axis=1)
        if not weights.any():
            weights = np.ones_like(weights)
        return np.unique(rng.choice(len(weights), draws, p=weights / weights.sum()))
    candidates = np.flatnonzero(confidence.mean(axis=1) > MIN_MEAN_CONFIDENCE)
    if len(candidates) == 0:
        return candidates
    least_N = confidence[candidates][:, list(fingertips)].min(axis=1)  # of the least confident fingertip
    weights = least_N.max() - least_N + MIN_WEIGHT
    draws = math.ceil(p_samp * len(candidates))
    return np.sort(rng.choice(candidates, draws, replace=False, p=weights / weights.sum()))
