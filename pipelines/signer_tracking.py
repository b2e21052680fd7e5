"""Selects the signer among the persons in a video: links detections into tracks and picks the heaviest track.

Pose readers, pose estimation and the live camera share this tracker. The weight of a track is box area times
confidence, summed over its frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass
class _Track:
    """One person's track: `persons` maps a frame to the person's index in it; `centre` is that of the last box.

    `reach` is the diagonal of the largest box: the maximum distance to the last position, in the unit of the boxes.
    """

    persons: dict[int, int]
    centre: np.ndarray
    reach: float
    weight: float


def follow_signer(frames: Sequence[np.ndarray]) -> list[int | None]:
    """The signer's number among the persons of each frame, None where the signer is not found.

    `frames`: boxes [persons, 5] (left, top, right, bottom, confidence) frame by frame; a person with a NaN in its box
    is never matched. Persons are matched to the nearest centre; a person missing for some frames is matched again near
    the last known position. If no frame has more than one person, each one is the signer, however far apart.
    """
    if max(map(len, frames), default=0) <= 1:
        return [0 if len(persons) else None for persons in frames]
    tracks: list[_Track] = []
    for t, persons in enumerate(frames):
        boxes = {k: _centre_reach_weight(box) for k, box in enumerate(persons) if np.isfinite(box).all()}
        pairs = [(float(np.linalg.norm(boxes[k][0] - x.centre)), i, k) for i, x in enumerate(tracks) for k in boxes]
        for distance, i, k in sorted(pairs):
            track = tracks[i]
            if k in boxes and t not in track.persons and distance <= track.reach:
                track.persons[t] = k
                track.centre, reach, weight = boxes.pop(k)
                track.reach, track.weight = max(track.reach, reach), track.weight + weight
        tracks += [_Track({t: k}, *box) for k, box in boxes.items()]
    signer = max(tracks, key=lambda track: track.weight).persons if tracks else {}
    return [signer.get(t) for t in range(len(frames))]


def nearest_person(persons: np.ndarray, box: np.ndarray) -> int | None:
    """The number of the person [persons, 5] nearest to the signer's last `box` [4]; None if out of reach."""
    if not len(persons):
        return None
    centre, reach, _ = _centre_reach_weight(np.append(box[:4], 0))
    distances = np.linalg.norm((persons[:, :2] + persons[:, 2:4]) / 2 - centre, axis=1)
    number = int(distances.argmin())
    return number if distances[number] <= reach else None


def _centre_reach_weight(box: np.ndarray) -> tuple[np.ndarray, float, float]:
    low, high = box[:2], box[2:4]
    return (low + high) / 2, float(np.hypot(*(high - low))), float((high - low).prod() * box[4])
