"""Where the hands are in the picture: square boxes around the sampled hands, and their keypoints inside the box.

The published rule without its faults: a box may reach beyond any edge of the picture (what lies outside is black), all
coordinates are int64, and keypoints stay where they are relative to what is shown.
"""

import numpy as np

MARGIN = 1.2  # box side over the largest extent of any sampled hand


def hand_boxes(hands_px: np.ndarray) -> np.ndarray:
    """Boxes of all sampled hands of a clip, left and right: [n, 21, 2] keypoints in pixels -> int64 [n, 4].

    A box is (x0, y0, x1, y1), x1 and y1 exclusive, centred on its own hand. All of a clip share one even side, at
    least 2.
    """
    if len(hands_px) == 0:
        return np.zeros((0, 4), np.int64)
    low, high = hands_px.min(axis=1), hands_px.max(axis=1)
    side = max(2, int(float((high - low).max()) * MARGIN / 2) * 2)
    corner = np.floor((low + high) / 2 - side / 2).astype(np.int64)
    return np.concatenate([corner, corner + side], axis=1)


def crop_points(hands_px: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Keypoints relative to their boxes: float32 [n, 21, 2], (0, 0) the upper left corner, (1, 1) the lower right.

    Keypoints outside are moved to the edge.
    """
    corner, side = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
    return ((hands_px - corner) / side).clip(0, 1).astype(np.float32)
