"""OpenPose's output -> Pose: a folder per clip with one file per frame, NAME_000000000012_keypoints.json.

Each file is {version, people: [{pose_keypoints_2d, face_keypoints_2d, hand_left_keypoints_2d,
hand_right_keypoints_2d}]}, lists of x, y, confidence (OpenPose's doc/02_output.md), in pixels, or in fractions
(--keypoint_scale 3).

Body: BODY_25, or COCO with its 18 joints, which has no feet (joints 17-22 get confidence 0; Uni-Sign does not use
them). Neck, mid hip and pupils are dropped. MPI_15 (no ears), BODY_135 and runs without --face or --hand lack joints
that Uni-Sign uses, and are refused. BODY_25B has as many joints as BODY_25 in another order and cannot be told apart:
do not convert it.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..crops.video import VideoInfo
from ..errors import InputError
from ..input_files import read_json
from ..skeleton import JOINTS, LEFT_HAND, RIGHT_HAND, WHOLEBODY, Skeleton
from .pose import AGAIN, Pose, make_pose, signer_of

SUFFIXES = ("",)  # folders
SOURCE = {
    "estimator": "OpenPose (BODY_25 or COCO body, face, hands), reordered as 133 whole-body keypoints",
    "version": "not recorded in the files",
    "coordinates": "x / width, y / height, raw confidence",
}
# For each body model, by its number of joints: the indices of COCO-WholeBody's joints 0, 1, ... in it.
BODY = {
    25: [0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11, 19, 20, 21, 22, 23, 24],
    18: [0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10],
}
FACE = np.arange(23, 91)
FILE = re.compile(r"(?!\._)(.*?)_?(\d{1,15})_keypoints\.json")  # video, frame; macOS writes a ._* file beside each


def read_pose(path: Path, video: VideoInfo | None = None) -> Pose:
    """The signer of a folder of frames. Raises InputError naming the file, also for a missing frame."""
    return read_folder(path, video, _person, WHOLEBODY)


def read_folder(
    path: Path, video: VideoInfo | None, read_person: Callable[[dict, Path], np.ndarray], skeleton: Skeleton
) -> Pose:
    """Like `read_pose`; `read_person` returns the joints of a skeleton, [V, 3], for a person in a file."""
    try:
        matches = [(FILE.fullmatch(file.name), file) for file in path.iterdir()]
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "name a folder of OpenPose's files") from None
    videos = sorted({match[1] for match, _ in matches if match})
    if not videos:
        raise InputError(path, "holds no *_keypoints.json", "name the folder that OpenPose wrote with --write_json")
    if len(videos) > 1:
        problem = f"holds the frames of {len(videos)} videos ({videos[0]}, {videos[1]}, ...)"
        raise InputError(path, problem, "put each video's files into a separate folder")
    files = {int(match[2]): file for match, file in matches if match}
    for frame in range(len(files)):
        if frame not in files:
            raise InputError(path, f"frame {frame} of {max(files) + 1} is missing", "copy the folder again")
    persons = [_persons(files[frame], read_person, len(skeleton.joints)) for frame in range(len(files))]
    keypoints = signer_of(persons, skeleton)
    if keypoints[..., :2].min() < -0.5 and keypoints[..., :2].max() <= 1:
        raise InputError(path, "has coordinates from -1 to 1", "run OpenPose with --keypoint_scale 0 or 3")
    return make_pose(keypoints, path, video, skeleton=skeleton)


def _persons(path: Path, read_person: Callable[[dict, Path], np.ndarray], joints: int) -> np.ndarray:
    """[persons, joints, 3] of one frame's file."""
    try:
        content: Any = read_json(path)
        persons = [read_person(person, path) for person in content["people"]]
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
        raise InputError(path, "holds no people as OpenPose writes them", AGAIN) from None
    return np.stack(persons) if persons else np.zeros((0, joints, 3), np.float32)


def _person(person: dict, path: Path) -> np.ndarray:
    """[133, 3]; what the layout lacks stays 0."""
    body = joints_of(person, "pose", path)
    order = BODY.get(len(body))
    if order is None:
        problem = f"has {len(body)} joints, neither BODY_25 nor COCO's 18, and may lack some that Uni-Sign needs"
        raise InputError(f"{path}: pose_keypoints_2d", problem, "run OpenPose with --model_pose BODY_25")
    keypoints = np.zeros((JOINTS, 3), np.float32)
    keypoints[: len(order)] = body[order]
    for part, places, joints in (("face", FACE, 70), ("hand_left", LEFT_HAND, 21), ("hand_right", RIGHT_HAND, 21)):
        points = joints_of(person, part, path, joints)
        keypoints[places] = points[: len(places)]
    return keypoints


def joints_of(person: dict, part: str, path: Path, joints: int | None = None) -> np.ndarray:
    """[joints, 3] of a part; None: as many as there are. Raises InputError if it has another number."""
    with np.errstate(over="ignore"):  # make_pose refuses infinite numbers
        numbers = np.asarray(person.get(f"{part}_keypoints_2d", []), np.float32)
    if numbers.ndim != 1 or len(numbers) % 3:
        raise InputError(f"{path}: {part}_keypoints_2d", "is not a list of x, y, confidence", AGAIN)
    points = numbers.reshape(-1, 3)
    if joints is not None and len(points) != joints:
        problem = f"has {len(points)} joints, not {joints}"
        raise InputError(f"{path}: {part}_keypoints_2d", problem, "run OpenPose with --face and --hand")
    return points
