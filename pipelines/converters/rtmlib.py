"""Saved results of rtmlib's Wholebody, frame by frame: keypoints (persons, 133, 2) in pixels, scores (persons, 133).

rtmlib itself saves nothing, so several layouts are accepted: keypoints and scores of T frames each, as entries of an
.npz file, as a dict in a pickle, JSON or .npy file, or a list of such dicts with one frame each in those; an .npy array
(T, 133, 3) or (T, persons, 133, 3) of x, y, score. In the order of `to_openpose` there are 134 joints; the body is
reordered to COCO's order and the neck is dropped. All 133 joints are there. w_h gives the picture's size if it differs
from the video's.
"""

from pathlib import Path

import numpy as np

from ..crops.video import VideoInfo
from ..errors import InputError
from ..input_files import read_json
from .pose import Pose, make_pose, persons_of, signer_of
from .safe_pickle import load_numpy, load_pickle
from .unisign import frames_of

SUFFIXES = (".npz", ".npy", ".pkl", ".json")
SOURCE = {
    "estimator": "rtmlib Wholebody (RTMW or RTMPose), 133 whole-body keypoints",
    "version": "not recorded in the files",
    "coordinates": "x / width, y / height, raw confidence (may exceed 1)",
}


def read_pose(path: Path, video: VideoInfo | None = None) -> Pose:
    """The signer of a saved rtmlib result. Raises InputError naming the file and frame."""
    content = _load(path)
    if isinstance(content, np.ndarray):
        content = _unpacked(content, path)
    elif isinstance(content, (list, tuple)):
        pairs = [frames_of(frame, f"{path}: frame {t}") for t, frame in enumerate(content)]
        content = {"keypoints": [points for points, _ in pairs], "scores": [scores for _, scores in pairs]}
    points, scores = frames_of(content, path)
    assert isinstance(content, dict)
    if isinstance(points, np.ndarray) and points.ndim == 3:  # a single person, without the persons axis
        points, scores = points[:, None], [[row] for row in scores]
    frames = [persons_of(points[t], scores[t], f"{path}: frame {t}") for t in range(len(points))]
    return make_pose(signer_of(frames), path, video, content.get("w_h"))


def _load(path: Path) -> object:
    if path.suffix.lower() == ".pkl":
        return load_pickle(path)
    return read_json(path) if path.suffix.lower() == ".json" else load_numpy(path)


def _unpacked(array: np.ndarray, path: Path) -> dict[str, np.ndarray]:
    if array.dtype == object or array.ndim not in (3, 4) or array.shape[-1] != 3:
        problem = f"is an array {array.shape} of {array.dtype}"
        raise InputError(
            path, problem, "save x, y, score as (frames, persons, 133, 3), or keypoints and scores as .npz"
        )
    return {"keypoints": array[..., :2], "scores": array[..., 2]}
