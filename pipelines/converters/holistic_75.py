"""`.pose` files of MediaPipe Holistic with its own joints, 33 of the body and 21 of each hand: see dot_pose.py."""

from pathlib import Path

from ..crops.video import VideoInfo
from ..skeletons.mediapipe_holistic import BODY_JOINTS, SKELETON
from .dot_pose import HAND, SUFFIXES, read_places
from .pose import Pose

__all__ = ["SKELETON", "SOURCE", "SUFFIXES", "read_pose"]
SOURCE = {
    "estimator": "MediaPipe Holistic",
    "version": "not recorded in the files",
    "coordinates": "x / width, y / height, visibility (body), found or not (hands)",
}
_POINTS = [
    *(("POSE_LANDMARKS", joint.upper()) for joint in BODY_JOINTS),
    *(("LEFT_HAND_LANDMARKS", point) for point in HAND),
    *(("RIGHT_HAND_LANDMARKS", point) for point in HAND),
]
PLACES = dict(enumerate(_POINTS))


def read_pose(path: Path, video: VideoInfo | None = None) -> Pose:
    """The signer of a .pose file, with its width, height and fps. Raises InputError naming what the file lacks."""
    return read_places(path, PLACES, SKELETON)
