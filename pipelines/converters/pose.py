"""What every pose format is read into, and what the readers share.

A reader is `read_pose(path, video)` in its format's module, beside SUFFIXES (what its files are called) and SOURCE
(what the store says of its keypoints). Its keypoints are in COCO-WholeBody order (pipelines/skeleton.py).

A clip has one signer. Of several persons a frame it is the one whose box (of the joints in no doubt), weighted by the
mean confidence, is largest on the mean over the clip; persons are followed from frame to frame by nearest centre.
"""

from dataclasses import dataclass

import numpy as np

from ..crops.video import VideoInfo
from ..errors import InputError
from ..skeleton import JOINTS, PACKED_JOINTS

AGAIN = "extract the pose again"
SEEN = 0.3  # a joint with at most this confidence is in doubt
PIXELS = 2  # coordinates with a larger median are pixels: fractions seldom leave the picture
# rtmlib's to_openpose puts the neck in as joint 1 and changes the order of the body: where COCO's joints 0-16 are then,
# and the rest one place further (rtmlib, convert_coco_to_openpose in pose_estimation/post_processings.py).
FROM_OPENPOSE_134 = np.array([0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10, *range(18, 134)])


@dataclass(frozen=True)
class Pose:
    """What a pose file holds of its clip: keypoints [T, 133, 3] float32, from frame `start` of `file_frames`.

    x, y are fractions of width and height, then the raw confidence. Width and height in pixels and the frames per
    second are 0 where the file does not say.
    """

    keypoints: np.ndarray
    start: int
    file_frames: int
    width: int = 0
    height: int = 0
    fps: float = 0.0


def make_pose(
    keypoints: np.ndarray,
    where: object,
    size: tuple[int, int] | None,
    start: int = 0,
    file_frames: int | None = None,
    fps: float = 0.0,
) -> Pose:
    """A Pose of keypoints [T, 133, 3] in fractions or in pixels of a picture of `size` (width, height; None: unknown).

    Raises InputError, naming the file `where`, on no frames, NaN, pixels of an unknown size or points that are all in
    one place.
    """
    if len(keypoints) == 0:
        raise InputError(f"{where}: keypoints", "have no frame", AGAIN)
    if not np.isfinite(keypoints).all():
        frame = start + int(np.argwhere(~np.isfinite(keypoints))[0, 0])
        raise InputError(f"{where}: keypoints", f"frame {frame} has NaN or infinite numbers", AGAIN)
    seen = keypoints[keypoints[..., 2] > SEEN][:, :2]
    if len(seen) and np.median(np.abs(seen)) > PIXELS:
        if size is None:
            problem = "are pixels, and nothing says of how large a picture"
            raise InputError(f"{where}: keypoints", problem, "give the videos with --videos")
        keypoints = keypoints / np.array([*size, 1], np.float32)
        seen = seen / np.array(size, np.float32)
    if len(seen) > 1 and np.ptp(seen, axis=0).max() < 0.01:
        problem = "are neither pixels nor fractions of the picture: all lie within a hundredth of it"
        raise InputError(f"{where}: keypoints", problem, "give them as the estimator wrote them, not normalised")
    width, height = size or (0, 0)
    keypoints = keypoints.astype(np.float32)
    return Pose(keypoints, start, len(keypoints) if file_frames is None else file_frames, width, height, fps)


def picture_size(video: VideoInfo | None, w_h: object = None) -> tuple[int, int] | None:
    """The size of the picture that the pose was taken from: the video's, or w_h where the file says it was another.

    Some files have w_h swapped, which the video puts right.
    """
    size = (video.width, video.height) if video else None
    try:
        width, height = (int(x) for x in w_h)
    except (TypeError, ValueError):
        return size
    if width <= 0 or height <= 0 or (size and sorted(size) == sorted((width, height))):
        return size
    return width, height


def persons_of(points: object, scores: object, where: object) -> np.ndarray:
    """[persons, 133, 3] float32 of one frame, from (persons, 133, 2) and (persons, 133), arrays or nested lists.

    134 joints are rtmlib's openpose-style order, and put back. Raises InputError on anything else.
    """
    try:
        with np.errstate(over="ignore"):  # make_pose refuses what becomes infinite
            points, scores = np.asarray(points, np.float32), np.asarray(scores, np.float32)
    except (TypeError, ValueError):
        raise InputError(where, "is not an array of numbers", AGAIN) from None
    if points.size == 0 and scores.size == 0:
        return np.zeros((0, JOINTS, 3), np.float32)
    if points.ndim != 3 or points.shape[1] not in (JOINTS, JOINTS + 1) or points.shape[2] != 2:
        problem = f"keypoints {points.shape} are not (persons, {JOINTS}, 2)"
        raise InputError(where, problem, "extract the pose again with a whole-body model")
    if scores.shape != points.shape[:2]:
        problem = f"scores {scores.shape} do not fit keypoints {points.shape}"
        raise InputError(where, problem, AGAIN)
    persons = np.concatenate([points, scores[..., None]], axis=-1)
    return persons if persons.shape[1] == JOINTS else persons[:, FROM_OPENPOSE_134]


@dataclass
class _Track:
    """One person through the clip: `persons` maps frames to its number there, `centre` is the last box's.

    `reach` is the largest box's diagonal: so far the person may be from its last place, in the unit of the keypoints.
    """

    persons: dict[int, int]
    centre: np.ndarray
    reach: float
    weight: float


def follow_signer(frames: list[np.ndarray]) -> np.ndarray:
    """The signer's keypoints [T, 133, 3] of frames [persons, 133, 3] each; zeros where the signer is not found."""
    keypoints = np.zeros((len(frames), JOINTS, 3), np.float32)
    if max(map(len, frames), default=0) <= 1:  # nobody to be mistaken for, however far the signer moves
        for t, persons in enumerate(frames):
            keypoints[t, :] = persons[0] if len(persons) else 0
        return keypoints
    tracks: list[_Track] = []
    for t, persons in enumerate(frames):
        boxes = {k: box for k, person in enumerate(persons) if (box := _box(person))}
        pairs = [(float(np.linalg.norm(boxes[k][0] - x.centre)), i, k) for i, x in enumerate(tracks) for k in boxes]
        for distance, i, k in sorted(pairs):
            track = tracks[i]
            if k in boxes and t not in track.persons and distance <= track.reach:
                track.persons[t] = k
                track.centre, reach, weight = boxes.pop(k)
                track.reach, track.weight = max(track.reach, reach), track.weight + weight
        tracks += [_Track({t: k}, *box) for k, box in boxes.items()]
    if tracks:
        for t, k in max(tracks, key=lambda track: track.weight).persons.items():
            keypoints[t] = frames[t][k]
    return keypoints


def _box(person: np.ndarray) -> tuple[np.ndarray, float, float] | None:
    """Centre, diagonal, and area times mean confidence of the box round the joints in no doubt, if there are any."""
    person = person[PACKED_JOINTS]
    seen = person[(person[:, 2] > SEEN) & np.isfinite(person).all(axis=1)]
    if len(seen) == 0:
        return None
    low, high = seen[:, :2].min(axis=0), seen[:, :2].max(axis=0)
    weight = (high - low).prod() * seen[:, 2].sum() / len(person)
    return (low + high) / 2, float(np.hypot(*(high - low))), float(weight)
