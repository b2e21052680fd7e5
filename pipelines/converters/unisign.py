"""The poses published with Uni-Sign: one pickle per clip, {keypoints: T arrays (persons, 133, 2), scores: T arrays
(persons, 133)}, sometimes with w_h, start and end. Also accepted, since published files contain them: nested lists,
pixels instead of fractions, swapped w_h, several persons or none in a frame, scores above 1, rtmlib's openpose-style
order of 134 joints. Person 0 is the signer, as in the published code. All 133 joints are there.
"""

from pathlib import Path

import numpy as np

from ..crops.video import VideoInfo
from ..errors import InputError
from ..skeleton import JOINTS
from .pose import AGAIN, Pose, make_pose, persons_of
from .safe_pickle import load_pickle

SUFFIXES = (".pkl",)
SOURCE = {
    "estimator": "RTMPose-x, 133 whole-body keypoints",
    "version": "the poses published with Uni-Sign",
    "coordinates": "x / width, y / height, raw confidence (may exceed 1)",
}


def read_pose(path: Path, video: VideoInfo | None = None) -> Pose:
    """The frames start..end of a pose file, or all of them if it gives no range. A frame without persons is all zeros.
    Raises InputError naming the file and field.
    """
    content = load_pickle(path)
    points, scores = frames_of(content, path)
    assert isinstance(content, dict)
    start, end = content.get("start", 0), content.get("end", len(points))
    if not all(isinstance(x, (int, np.integer)) for x in (start, end)) or not 0 <= start < end <= len(points):
        problem = f"the range {start} to {end} does not lie in the {len(points)} frames"
        raise InputError(f"{path}: start, end", problem, AGAIN)
    frames = [persons_of(points[t], scores[t], f"{path}: frame {t}") for t in range(start, end)]
    keypoints = np.stack([persons[0] if len(persons) else np.zeros((JOINTS, 3), np.float32) for persons in frames])
    return make_pose(keypoints, path, video, content.get("w_h"), int(start), len(points))


def frames_of(content: object, where: object) -> tuple[list | np.ndarray, list | np.ndarray]:
    """The keypoints and scores of a dict, one entry per frame. Raises InputError if it has none."""
    if not isinstance(content, dict) or not {"keypoints", "scores"} <= content.keys():
        raise InputError(where, "holds no dict with keypoints and scores", "choose the --format that the file has")
    points, scores = content["keypoints"], content["scores"]
    lists = all(isinstance(x, (list, tuple)) or isinstance(x, np.ndarray) and x.ndim for x in (points, scores))
    if not lists or len(points) != len(scores):
        raise InputError(f"{where}: scores", "does not have one entry per frame of keypoints", AGAIN)
    return points, scores
