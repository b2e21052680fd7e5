"""The signer's keypoints in a video, with the person detector run on only a few frames.

The detector runs on every DETECT_EVERY-th frame and on the last. In between, the signer's box is interpolated, and both
networks process batches. Its keypoints validate the box: if a joint lies at the edge of the crop, or a body
part is much less confident than in the last frame with a detection, the detector also runs on that frame and its box
replaces the interpolated one. It also runs on every frame between two detections that disagree about the signer's
position. A signer who stays in place costs about one detection in 25 frames; one in each, as in rtmlib's Wholebody,
takes 3.6 times as long as the pose network.
"""

from bisect import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..converters.convert import UNDECODABLE_FRAMES
from ..converters.pose import SEEN
from ..crops.video import VideoFile
from ..errors import InputError
from ..signer_tracking import follow_signer, nearest_person
from ..skeleton import JOINTS, PACKED_JOINTS, PART_JOINTS, PARTS
from .networks import PersonDetector, PoseNetwork

DETECT_EVERY = 25  # frames
SAME_PLACE = 0.5  # intersection over union of two detections between which the signer's box is interpolated
EDGE = 0.1  # of the box's width and height: a joint further outside is too close to the edge of the crop (0.125)
LESS_SURE = 0.6  # times a part's mean confidence in the last frame with a detection

T = TypeVar("T")


@dataclass
class _Frame:
    """A frame that shows the signer in `box` [4]. `detected`: the box was detected, not interpolated."""

    number: int
    picture: np.ndarray
    box: np.ndarray
    detected: bool


Pictures = Callable[[int], Iterator[tuple[int, np.ndarray]]]
"""Called with n, it yields every n-th picture and the last: its number from 0, and RGB [height, width, 3] uint8."""


@dataclass
class Poses:
    """The signer in a sequence of pictures."""

    points: np.ndarray  # [T, 133, 2] float64, pixels; 0 where the signer is not found
    confidence: np.ndarray  # [T, 133] float32; 0 where the signer is not found
    persons: dict[int, int]  # picture with a detection of the first pass -> persons in it


def track_signer(
    pictures: Pictures, detector: PersonDetector, network: PoseNetwork, detect_every: int = DETECT_EVERY
) -> Poses:
    """Keypoints of the signer in each of `pictures`, which are read twice so that only a few are in memory."""
    return _poses(pictures, _Detections(pictures(detect_every), detector), detector, network)


def estimate_pose(
    video: Path, detector: PersonDetector, network: PoseNetwork, detect_every: int = DETECT_EVERY
) -> dict[str, Any]:
    """The content of a video's pose file. Raises InputError if the video does not decode to its end, or shows no
    person.

    The video is decoded twice, which costs little beside the networks and keeps few pictures in memory.
    """

    def pictures(every: int) -> Iterator[tuple[int, np.ndarray]]:
        with VideoFile(video) as file:
            yield from file.sampled(every)

    with VideoFile(video) as file:
        info, declared = file.info(), file.declared_frames
    detections = _Detections(pictures(detect_every), detector)
    declared = max(info.frames, declared)
    if declared - detections.frames > UNDECODABLE_FRAMES:
        problem = f"decodes only to frame {detections.frames} of {declared}"
        raise InputError(video, problem, "copy or encode the video again, or leave the clip out")
    if not detections.known and detect_every > 1:  # the signer may appear only briefly
        detections = _Detections(pictures(1), detector)
    if not detections.known:
        raise InputError(video, f"no person is found in its {detections.frames} frames", "leave the clip out")
    poses = _poses(pictures, detections, detector, network)
    missing = max(0, info.frames - detections.frames)  # the last few frames may not decode
    points = np.pad(poses.points / (info.width, info.height), ((0, missing), (0, 0), (0, 0))).astype(np.float32)
    return {
        "keypoints": list(points[:, None]),
        "scores": list(np.pad(poses.confidence, ((0, missing), (0, 0)))[:, None]),
        "w_h": [info.width, info.height],
        "estimator": network.weights.name,
    }


class _Detections:
    """The signer's box [4] in the frames of the first detection pass, None where there is no signer."""

    def __init__(self, sampled: Iterator[tuple[int, np.ndarray]], detector: PersonDetector):
        """Detects persons in the `sampled` frames, of which the last is the video's."""
        persons: dict[int, np.ndarray] = {}
        for group in _groups(sampled, detector.batch):
            persons |= zip((number for number, _ in group), detector([picture for _, picture in group]))
        signer = follow_signer(list(persons.values()))
        self.boxes = {n: None if k is None else boxes[k, :4] for (n, boxes), k in zip(persons.items(), signer)}
        self.persons = {number: len(boxes) for number, boxes in persons.items()}
        self.numbers = list(self.boxes)
        self.known = {number: box for number, box in self.boxes.items() if box is not None}
        self.frames = self.numbers[-1] + 1 if persons else 0

    def between(self, number: int) -> np.ndarray | None:
        """The box interpolated between the detections before and after a frame; None if they disagree."""
        at = bisect(self.numbers, number)
        before, after = self.numbers[at - 1], self.numbers[at]
        a, b = self.boxes[before], self.boxes[after]
        if a is None or b is None or _overlap(a, b) < SAME_PLACE:
            return None
        return a + (number - before) / (after - before) * (b - a)

    def nearest(self, number: int) -> np.ndarray:
        """The known box nearest in time."""
        return self.known[min(self.known, key=lambda n: abs(n - number))]


def _poses(pictures: Pictures, detections: _Detections, detector: PersonDetector, network: PoseNetwork) -> Poses:
    points = np.zeros((detections.frames, JOINTS, 2))
    confidence = np.zeros((detections.frames, JOINTS), np.float32)
    if detections.known:
        for numbers, some_points, some_confidence in _follow(pictures(1), detections, detector, network):
            points[numbers], confidence[numbers] = some_points, some_confidence
    return Poses(points, confidence, detections.persons)


def _follow(
    pictures: Iterator[tuple[int, np.ndarray]], detections: _Detections, detector: PersonDetector, network: PoseNetwork
) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """Batches of frames that show the signer: numbers, keypoints [n, 133, 2] in pixels, confidences [n, 133]."""
    sure = np.zeros(len(PARTS))  # mean confidence of each part in the last frame with a detection
    for group in _groups(pictures, network.batch):
        frames = _locate(group, detections, detector)
        if not frames:
            continue
        points, confidence = _look(frames, network)
        doubtful = []
        for row, frame in enumerate(frames):
            means = np.array([confidence[row, PART_JOINTS[part]].clip(min=0).mean() for part in PARTS])
            if frame.detected:
                sure = means
            elif _is_doubtful(points[row], confidence[row], frame.box) or (means < LESS_SURE * sure).any():
                doubtful.append(row)
        kept = [row for row in range(len(frames)) if row not in doubtful]
        yield [frames[row].number for row in kept], points[kept], confidence[kept]
        if again := _detect_near([frames[row] for row in doubtful], detector):
            yield [frame.number for frame in again], *_look(again, network)


def _groups(pictures: Iterator[T], size: int) -> Iterator[list[T]]:
    while group := list(islice(pictures, size)):
        yield group


def _locate(pictures: list[tuple[int, np.ndarray]], detections: _Detections, detector: PersonDetector) -> list[_Frame]:
    """The frames that show the signer, with the box detected before, interpolated, or else detected now."""
    located, unknown = [], []
    for number, picture in pictures:
        if number in detections.boxes:
            if (box := detections.boxes[number]) is not None:
                located.append(_Frame(number, picture, box, True))
        elif (box := detections.between(number)) is not None:
            located.append(_Frame(number, picture, box, False))
        else:
            unknown.append(_Frame(number, picture, detections.nearest(number), False))
    return sorted(located + _detect_near(unknown, detector), key=lambda frame: frame.number)


def _detect_near(frames: list[_Frame], detector: PersonDetector) -> list[_Frame]:
    """The frames, each with the detection nearest to its box; frames that show nobody within reach are left out."""
    result = []
    for frame, persons in zip(frames, detector([frame.picture for frame in frames])):
        k = nearest_person(persons, frame.box)
        if k is not None:
            result.append(_Frame(frame.number, frame.picture, persons[k, :4], True))
    return result


def _look(frames: list[_Frame], network: PoseNetwork) -> tuple[np.ndarray, np.ndarray]:
    return network([network.crop(frame.picture, frame.box) for frame in frames])


def _is_doubtful(points: np.ndarray, confidence: np.ndarray, box: np.ndarray) -> bool:
    """Whether a confident joint of points [133, 2] lies so far outside the box that the crop may cut it off."""
    seen = points[PACKED_JOINTS][confidence[PACKED_JOINTS] > SEEN]
    margin = EDGE * (box[2:] - box[:2])
    return bool(((seen < box[:2] - margin) | (seen > box[2:] + margin)).any())


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes [4]."""
    common = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    return float(common / max(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - common, 1e-9))
