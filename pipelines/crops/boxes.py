"""Square boxes around the hands, and hand keypoints relative to their box.

A box may reach beyond any edge of the picture (what lies outside is black), all coordinates are int64, and keypoints
stay where they are relative to what is shown. All boxes of a clip share one side, by one of two rules:

    clip      MARGIN times the 95th percentile of the extents of the clip's confident hands. Does not depend on which
              frames are selected or sampled, so crops can be cut in advance.
    sampled   MARGIN times the largest extent among the currently sampled hands (published code).
"""

from typing import Literal, get_args

import numpy as np

BoxRule = Literal["clip", "sampled"]
BOX_RULES: tuple[BoxRule, ...] = get_args(BoxRule)
MARGIN = 1.2  # ratio of box side to extent
KEPT_SHARE = 0.95  # clip rule: a few wrong keypoints must not shrink every hand
CONFIDENT = 0.3  # clip rule: mean confidence of a hand whose extent counts


def side_of_clip(hands_px: np.ndarray, confidence: np.ndarray) -> int:
    """The box side of the `clip` rule in pixels; every hand of the clip: [n, 21, 2] in pixels, [n, 21].

    If no hand is confident, all hands count.
    """
    confident = confidence.mean(axis=1) > CONFIDENT
    extent = _extent(hands_px[confident] if confident.any() else hands_px)
    rank = int(np.ceil(KEPT_SHARE * len(extent))) - 1
    return _side(np.partition(extent, rank)[rank])


def side_of_sampled(hands_px: np.ndarray) -> int:
    """The box side of the `sampled` rule in pixels; the sampled hands [n, 21, 2] in pixels, n >= 1."""
    return _side(_extent(hands_px).max())


def hand_boxes(hands_px: np.ndarray, side: int) -> np.ndarray:
    """Each hand's box, centred on it: [n, 21, 2] keypoints in pixels -> int64 [n, 4].

    A box is (x0, y0, x1, y1) in pixels, x1 and y1 exclusive.
    """
    corner = np.floor((hands_px.min(axis=1) + hands_px.max(axis=1)) / 2 - side / 2).astype(np.int64)
    return np.concatenate([corner, corner + side], axis=1)


def crop_points(hands_px: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Keypoints relative to their boxes: float32 [n, 21, 2], (0, 0) the upper left corner, (1, 1) the lower right.

    Keypoints outside are moved to the edge.
    """
    if not len(boxes):
        return np.zeros((0, *hands_px.shape[1:]), np.float32)
    corner, side = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
    return ((hands_px - corner) / side).clip(0, 1).astype(np.float32)


def _extent(hands_px: np.ndarray) -> np.ndarray:
    return (hands_px.max(axis=1) - hands_px.min(axis=1)).max(axis=1)


def _side(extent: float) -> int:
    """Even, and at least 2."""
    return max(2, int(float(extent) * MARGIN / 2) * 2)
