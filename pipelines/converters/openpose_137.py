"""OpenPose's output (openpose.py) with its own joints: 25 of the body (BODY_25), 21 of each hand, 70 of the face."""

from pathlib import Path

import numpy as np

from ..crops.video import VideoInfo
from ..errors import InputError
from ..skeletons.openpose import SKELETON
from .openpose import SUFFIXES, joints_of, read_folder
from .pose import Pose

__all__ = ["SKELETON", "SOURCE", "SUFFIXES", "read_pose"]
SOURCE = {
    "estimator": "OpenPose (BODY_25, hands, face)",
    "version": "not recorded in the files",
    "coordinates": "x / width, y / height, raw confidence",
}
_PARTS = (("pose", 25), ("hand_left", 21), ("hand_right", 21), ("face", 70))  # in the skeleton's order


def read_pose(path: Path, video: VideoInfo | None = None) -> Pose:
    """The signer of a folder of frames. Raises InputError naming the file, also for a missing frame."""
    return read_folder(path, video, _person, SKELETON)


def _person(person: dict, path: Path) -> np.ndarray:
    """[137, 3]"""
    if len(joints_of(person, "pose", path)) != 25:
        where, problem = f"{path}: pose_keypoints_2d", "does not have the 25 joints of BODY_25"
        raise InputError(where, problem, "run OpenPose with --model_pose BODY_25")
    return np.concatenate([joints_of(person, part, path, joints) for part, joints in _PARTS])
