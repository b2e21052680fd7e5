"""MMPose's predictions -> Pose: the JSON file that MMPose 1.x saves for a video.

The demos (topdown_demo_with_mmdet.py --save-predictions) write {meta_info, instance_info: [{frame_id, instances}]} with
frame_id from 1, MMPoseInferencer (pred_out_dir) the list [{frame_id, instances}] with frame_id from 0; an instance is
{keypoints: 133 [x, y] in pixels, keypoint_scores: 133, ...} (split_instances in mmpose/structures/utils.py). All 133
joints are there.
"""

from pathlib import Path

import numpy as np

from ..crops.video import VideoInfo
from ..errors import InputError
from ..input_files import read_json
from .pose import AGAIN, Pose, make_pose, persons_of, signer_of

SUFFIXES = (".json",)
PREFIX = "results_"  # the demos' files are results_CLIP.json, the inferencer's CLIP.json
SOURCE = {
    "estimator": "MMPose, 133 whole-body keypoints",
    "version": "not recorded in the files",
    "coordinates": "x / width, y / height, raw confidence (may exceed 1)",
}


def read_pose(path: Path, video: VideoInfo | None = None) -> Pose:
    """The signer of a video's predictions. Raises InputError naming the file and frame, also for a missing frame."""
    content = read_json(path)
    rows = content.get("instance_info") if isinstance(content, dict) else content
    if not isinstance(rows, list) or not rows or not all(_is_frame(row) for row in rows):
        raise InputError(path, "holds no frames with frame_id and instances", "name MMPose's predictions of a video")
    first = rows[0]["frame_id"]
    for t, row in enumerate(rows):
        if first not in (0, 1) or row["frame_id"] != first + t:
            problem = f"frame {row['frame_id']} stands where frame {t} (counted from {first}) should"
            raise InputError(f"{path}: frame_id", problem, AGAIN)
    frames = [_persons(row["instances"], f"{path}: frame {row['frame_id']}") for row in rows]
    return make_pose(signer_of(frames), path, video)


def _is_frame(row: object) -> bool:
    return isinstance(row, dict) and {"frame_id", "instances"} <= row.keys()


def _persons(instances: object, where: str) -> np.ndarray:
    """[persons, 133, 3] of one frame."""
    if not isinstance(instances, list) or not all(isinstance(x, dict) for x in instances):
        raise InputError(f"{where}: instances", "is not a list of persons", AGAIN)
    return persons_of([x.get("keypoints") for x in instances], [x.get("keypoint_scores") for x in instances], where)
