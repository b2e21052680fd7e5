"""`Pose`, the common result of all pose readers, and their shared helpers.

A format is a module of this package, named in formats.py, with a reader `read_pose(path, video)`, SUFFIXES (of its
files; "" for folders) and SOURCE (keypoint source recorded in the store). PREFIX, if defined, may precede the clip's
name in a file name. Keypoints are in COCO-WholeBody order (pipelines/skeleton.py), or in that of SKELETON, if defined.

A clip has one signer (pipelines/signer_tracking.py); a person's box encloses the confident joints.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..crops.video import VideoInfo
from ..errors import InputError
from ..signer_tracking import follow_signer
from ..skeleton import HANDS, JOINTS, WHOLEBODY, Skeleton

AGAIN = "extract the pose again"
SEEN = 0.3  # joints with at most this confidence are unreliable
MAX_SIDE = 2**16  # pixels of a picture's side
PIXELS = 2  # coordinates with a larger median are pixels: fractions rarely exceed 1
FEWEST_JOINTS = 10  # of a frame, for the median to tell pixels from fractions
MOST_OUTSIDE = 0.6  # share of a clip's joints outside the picture; a signer's hips, legs and feet are a tenth
# rtmlib's to_openpose inserts the neck as joint 1 and reorders the body. For each COCO joint, its index in that order;
# joints from 17 on are shifted by one (rtmlib, convert_coco_to_openpose in pose_estimation/post_processings.py).
FROM_OPENPOSE_134 = np.array([0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10, *range(18, 134)])


@dataclass(frozen=True)
class Pose:
    """The content of a pose file: keypoints [T, V, 3] float32 of V joints, from frame `start` of `file_frames`.

    x, y are fractions of width and height, then the raw confidence. Width and height in pixels and the frames per
    second are 0 where the file does not say.
    """

    keypoints: np.ndarray
    start: int
    file_frames: int
    width: int = 0
    height: int = 0
    fps: float = 0.0
    skeleton: Skeleton = WHOLEBODY


def make_pose(
    keypoints: np.ndarray,
    where: object,
    video: VideoInfo | None,
    w_h: object = None,
    start: int = 0,
    file_frames: int | None = None,
    fps: float = 0.0,
    skeleton: Skeleton = WHOLEBODY,
) -> Pose:
    """A Pose of keypoints [T, 133, 3] in fractions, or in pixels of the video's picture.

    `w_h` is the picture's size where the file says one. The most confident joints decide whether coordinates are
    pixels. Raises InputError, naming the file `where`, if there are no frames, NaN values, no person in any frame,
    pixels of a picture of unknown or changing size, pixels beside fractions, or if all points coincide or most lie
    outside the picture.
    """
    if len(keypoints) == 0:
        raise InputError(f"{where}: keypoints", "have no frame", AGAIN)
    if not np.isfinite(keypoints).all():
        frame = start + int(np.argwhere(~np.isfinite(keypoints))[0, 0])
        raise InputError(f"{where}: keypoints", f"frame {frame} has NaN or infinite numbers", AGAIN)
    check_signer(keypoints, where, skeleton)
    size = picture_size(video, w_h)
    confidence = keypoints[..., 2]
    is_seen = confidence > (SEEN if (confidence > SEEN).any() else 0)
    seen = keypoints[is_seen][:, :2]
    pixels = bool(np.median(np.abs(seen)) > PIXELS)
    _check_units(keypoints, is_seen, pixels, start, where, skeleton)
    if pixels:
        if size is None:
            problem = "are pixels, and nothing says of how large a picture"
            raise InputError(f"{where}: keypoints", problem, "give the videos with --videos")
        if video and video.resized:
            problem = "are pixels, and the picture of its video changes size"
            raise InputError(f"{where}: keypoints", problem, "encode the video in one size, and extract the pose again")
        keypoints = keypoints / np.array([*size, 1], np.float32)
        seen = seen / np.array(size, np.float32)
    remedy = "give them as the estimator wrote them, not normalised"
    if len(seen) > 1 and np.ptp(seen, axis=0).max() < 0.01:
        problem = "are neither pixels nor fractions of the picture: all lie within a hundredth of it"
        raise InputError(f"{where}: keypoints", problem, remedy)
    if ((seen < 0) | (seen > 1)).any(axis=1).mean() > MOST_OUTSIDE:
        problem = "are neither pixels nor fractions of the picture: most lie outside it"
        raise InputError(f"{where}: keypoints", problem, remedy)
    width, height = size or (0, 0)
    keypoints = keypoints.astype(np.float32)
    frames = len(keypoints) if file_frames is None else file_frames
    return Pose(keypoints, start, frames, width, height, fps, skeleton)


def _check_units(
    keypoints: np.ndarray, is_seen: np.ndarray, pixels: bool, start: int, where: object, skeleton: Skeleton
) -> None:
    """Raises InputError if some frames, or a part's joints, are in pixels and the others in fractions.

    `is_seen` bool [T, V] are the joints that count; `pixels`: what most of the clip is in.
    """
    distance = np.where(is_seen, np.abs(keypoints[..., :2]).max(axis=-1), np.nan)
    frames = np.flatnonzero(is_seen.sum(axis=1) >= FEWEST_JOINTS)
    samples = {f"frame {start + t}": distance[t] for t in frames}
    for part, joints in skeleton.part_joints.items():
        samples[f"the {part} hand" if part in HANDS else f"the {part}"] = distance[:, joints]
    for name, sample in samples.items():
        if not np.isnan(sample).all() and (np.nanmedian(sample) > PIXELS) != pixels:
            units = ("fractions", "pixels") if pixels else ("pixels", "fractions")
            problem = f"{name} is in {units[0]}, and most of the clip in {units[1]}"
            raise InputError(f"{where}: keypoints", problem, AGAIN)


def picture_size(video: VideoInfo | None, w_h: Any = None) -> tuple[int, int] | None:
    """The size of the picture that the pose was taken from: the video's, or w_h if the file gives a different one.

    Some files have w_h swapped; the video's size resolves this.
    """
    size = (video.width, video.height) if video else None
    try:
        width, height = (int(x) for x in w_h)
    except (TypeError, ValueError, OverflowError):
        return size
    if not 0 < min(width, height) <= max(width, height) <= MAX_SIDE:
        return size
    return size if size and sorted(size) == sorted((width, height)) else (width, height)


def check_signer(keypoints: np.ndarray, where: object, skeleton: Skeleton = WHOLEBODY) -> None:
    """Raises InputError if no person is found in any frame: every joint that the model uses has confidence 0."""
    if not (keypoints[:, skeleton.packed_joints, 2] > 0).any():
        raise InputError(f"{where}: keypoints", f"nobody is found in any of {len(keypoints)} frames", "leave it out")


def persons_of(points: object, scores: object, where: object) -> np.ndarray:
    """[persons, 133, 3] float32 of one frame, from (persons, 133, 2) and (persons, 133), arrays or nested lists.

    134 joints are in rtmlib's openpose-style order and are reordered. Raises InputError on anything else.
    """
    try:
        if any(isinstance(numbers, np.ndarray) and numbers.dtype.kind == "c" for numbers in (points, scores)):
            raise TypeError  # numpy would drop the imaginary part
        with np.errstate(over="ignore"):  # make_pose rejects values that become infinite
            points, scores = np.asarray(points, np.float32), np.asarray(scores, np.float32)
    except (TypeError, ValueError, OverflowError):
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


def signer_of(frames: list[np.ndarray], skeleton: Skeleton = WHOLEBODY) -> np.ndarray:
    """The signer's keypoints [T, 133, 3] of frames [persons, 133, 3] each; zeros in frames without the signer."""
    sure = any((persons[:, skeleton.packed_joints, 2] > SEEN).any() for persons in frames)
    boxes = [_boxes(persons[:, skeleton.packed_joints], SEEN if sure else 0) for persons in frames]
    keypoints = np.zeros((len(frames), len(skeleton.joints), 3), np.float32)
    for t, number in enumerate(follow_signer(boxes)):
        if number is not None:
            keypoints[t] = frames[t][number]
    return keypoints


def _boxes(persons: np.ndarray, seen: float) -> np.ndarray:
    """[persons, 5] boxes around the joints of confidence above `seen`, NaN without one; confidence is the mean."""
    boxes = np.full((len(persons), 5), np.nan)
    for person, box in zip(persons, boxes):
        joints = person[(person[:, 2] > seen) & np.isfinite(person).all(axis=1)]
        if len(joints):
            box[:2], box[2:4] = joints[:, :2].min(axis=0), joints[:, :2].max(axis=0)
            box[4] = joints[:, 2].sum() / len(person)
    return boxes
