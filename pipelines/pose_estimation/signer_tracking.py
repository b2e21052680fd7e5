"""Who of the people in a video signs: detections joined to tracks, and the weightiest track is the signer."""

import numpy as np

MIN_OVERLAP = 0.3  # intersection over union of a person's boxes in successive detections


def follow_signer(detections: list[np.ndarray]) -> list[np.ndarray | None]:
    """[persons, 5] boxes with confidence, frame by frame -> the signer's box [4] in each frame, None without one.

    The signer is the person whose boxes have the largest sum of area x confidence over the clip. A person that is lost
    for some frames is found again near where it was last seen.
    """
    last: list[np.ndarray] = []  # of each track: its newest box
    weights: list[float] = []
    tracks: list[dict[int, np.ndarray]] = []  # of each track: frame -> box
    for frame, result in enumerate(detections):
        boxes = result[:, :4]
        for track, person in _match(last, boxes):
            if track == len(tracks):
                last.append(boxes[person])
                weights.append(0.0)
                tracks.append({})
            last[track] = tracks[track][frame] = boxes[person]
            width, height = boxes[person, 2:] - boxes[person, :2]
            weights[track] += float(width * height * result[person, 4])
    signer = tracks[int(np.argmax(weights))] if tracks else {}
    return [signer.get(frame) for frame in range(len(detections))]


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [n, 4] and [m, 4]: [n, m]."""
    size = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    common = np.prod(np.maximum(size, 0), -1)
    areas = [np.prod(x[:, 2:] - x[:, :2], -1) for x in (a, b)]
    return common / np.maximum(areas[0][:, None] + areas[1][None] - common, 1e-9)


def _match(last: list[np.ndarray], boxes: np.ndarray) -> list[tuple[int, int]]:
    """(track, person) for every box, the best overlap first; who overlaps with no free track begins a new one."""
    pairs, persons = [], set(range(len(boxes)))
    if last and persons:
        shares = overlap(np.stack(last), boxes)
        while shares.size and shares.max() >= MIN_OVERLAP:
            track, person = np.unravel_index(np.argmax(shares), shares.shape)
            pairs.append((int(track), int(person)))
            persons.remove(int(person))
            shares[track] = shares[:, person] = -1
    return pairs + [(len(last) + i, person) for i, person in enumerate(sorted(persons))]
