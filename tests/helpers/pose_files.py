"""Writes keypoints in the formats of other projects, as they document them; joints are matched by name.

MMPose: mmpose/structures/utils.py (split_instances) and the demos; rtmlib: Wholebody's return values; OpenPose:
doc/02_output.md; .pose: the pose-format library itself.
"""

import json
import pickle
from pathlib import Path

import numpy as np
from pose_format import Pose
from pose_format.numpy import NumPyPoseBody
from pose_format.pose_header import PoseHeader, PoseHeaderComponent, PoseHeaderDimensions

WIDTH, HEIGHT, FRAMES, FPS = 64, 48, 8, 25

SIDES = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
COCO_BODY = ["nose", *(f"{side}_{name}" for name in SIDES for side in "lr")]
COCO_FEET = [f"{side}_{name}" for side in "lr" for name in ("big_toe", "small_toe", "heel")]
COCO = [*COCO_BODY, *COCO_FEET, *(f"face_{i}" for i in range(68)), *(f"{hand}_{i}" for hand in ("lh", "rh") for i in
        range(21))]  # fmt: skip
_ARMS = ["r_shoulder", "r_elbow", "r_wrist", "l_shoulder", "l_elbow", "l_wrist"]
_HEAD = ["r_eye", "l_eye", "r_ear", "l_ear"]
_RIGHT_LEG, _LEFT_LEG = ["r_hip", "r_knee", "r_ankle"], ["l_hip", "l_knee", "l_ankle"]
OPENPOSE_18 = ["nose", "neck", *_ARMS, *_RIGHT_LEG, *_LEFT_LEG, *_HEAD]
OPENPOSE_25 = ["nose", "neck", *_ARMS, "mid_hip", *_RIGHT_LEG, *_LEFT_LEG, *_HEAD, *COCO_FEET]
OPENPOSE_134 = [*OPENPOSE_18, *COCO[17:]]


def make_keypoints(seed=0, frames=FRAMES, centre=(0.5, 0.5), size=0.4):
    """[T, 133, 3]: fractions round a centre, confidences above 0.3."""
    rng = np.random.default_rng(seed)
    xy = np.array(centre) + size * (rng.random((frames, 133, 2)) - 0.5)
    return np.concatenate([xy, rng.uniform(0.4, 1.0, (frames, 133, 1))], axis=-1)


def in_pixels(keypoints):
    return keypoints * [WIDTH, HEIGHT, 1]


def named(keypoints, names):
    """The joints of one frame [133, 3] in the order of `names`, made-up ones for those that COCO does not have."""
    return np.stack([keypoints[COCO.index(name)] if name in COCO else [1.0, 2.0, 0.5] for name in names])


def write_mmpose(path: Path, persons: list, first=1):
    """`persons`: one list of [133, 3] per frame. From 1 the demos' form, from 0 MMPoseInferencer's."""
    rows = [
        {
            "frame_id": first + t,
            "instances": [
                {"keypoints": p[:, :2].tolist(), "keypoint_scores": p[:, 2].tolist(), "bbox": [[0, 0, 9, 9]]}
                for p in frame
            ],
        }
        for t, frame in enumerate(persons)
    ]
    content = {"meta_info": {"dataset_name": "coco_wholebody"}, "instance_info": rows} if first else rows
    path.write_text(json.dumps(content))


def write_openpose(folder: Path, persons: list, body=OPENPOSE_25, name="clip"):
    """`persons`: one list of [133, 3] per frame."""
    folder.mkdir(parents=True)
    for t, frame in enumerate(persons):
        people = [
            {
                "person_id": [-1],
                "pose_keypoints_2d": named(p, body).ravel().tolist(),
                "face_keypoints_2d": named(p, [*COCO[23:91], "pupil", "pupil"]).ravel().tolist(),
                "hand_left_keypoints_2d": named(p, COCO[91:112]).ravel().tolist(),
                "hand_right_keypoints_2d": named(p, COCO[112:]).ravel().tolist(),
            }
            for p in frame
        ]
        text = json.dumps({"version": 1.3, "people": people})
        (folder / f"{name}_{t:012}_keypoints.json").write_text(text)


RTMLIB = {
    "npz": lambda path, k, s: np.savez(path, keypoints=np.stack(k), scores=np.stack(s)),
    "npz of objects": lambda path, k, s: np.savez(path, keypoints=objects(k), scores=objects(s)),
    "npy": lambda path, k, s: np.save(path, np.concatenate([np.stack(k), np.stack(s)[..., None]], -1)),
    "npy of a dict": lambda path, k, s: np.save(path, {"keypoints": k, "scores": s}),
    "pkl": lambda path, k, s: path.write_bytes(pickle.dumps({"keypoints": k, "scores": s})),
    "pkl of frames": lambda path, k, s: path.write_bytes(
        pickle.dumps([{"keypoints": x, "scores": y} for x, y in zip(k, s)])
    ),
    "json": lambda path, k, s: path.write_text(
        json.dumps({"keypoints": [x.tolist() for x in k], "scores": [x.tolist() for x in s]})
    ),
}


def objects(arrays):
    """An array of arrays, which numpy saves as a pickle."""
    result = np.empty(len(arrays), object)
    for i, array in enumerate(arrays):
        result[i] = array
    return result


def write_rtmlib(path: Path, persons: list, form=None):
    """`persons`: one array [persons, joints, 3] per frame; `form` is a key of RTMLIB, the suffix's own by default."""
    keypoints, scores = [p[..., :2] for p in persons], [p[..., 2] for p in persons]
    RTMLIB[form or path.suffix[1:]](path, keypoints, scores)


_FINGERS = ["WRIST", *(f"THUMB_{x}" for x in ("CMC", "MCP", "IP", "TIP"))]
HAND = _FINGERS + [f"{f}_{x}" for f in ("INDEX_FINGER", "MIDDLE_FINGER", "RING_FINGER", "PINKY") for x in
                   ("MCP", "PIP", "DIP", "TIP")]  # fmt: skip
HOLISTIC_BODY = [
    "NOSE", "LEFT_EYE_INNER", "LEFT_EYE", "LEFT_EYE_OUTER", "RIGHT_EYE_INNER", "RIGHT_EYE", "RIGHT_EYE_OUTER",
    "LEFT_EAR", "RIGHT_EAR", "MOUTH_LEFT", "MOUTH_RIGHT", "LEFT_SHOULDER", "RIGHT_SHOULDER", "LEFT_ELBOW",
    "RIGHT_ELBOW", "LEFT_WRIST", "RIGHT_WRIST", "LEFT_PINKY", "RIGHT_PINKY", "LEFT_INDEX", "RIGHT_INDEX", "LEFT_THUMB",
    "RIGHT_THUMB", "LEFT_HIP", "RIGHT_HIP", "LEFT_KNEE", "RIGHT_KNEE", "LEFT_ANKLE", "RIGHT_ANKLE", "LEFT_HEEL",
    "RIGHT_HEEL", "LEFT_FOOT_INDEX", "RIGHT_FOOT_INDEX",
]  # fmt: skip
HOLISTIC = {
    "POSE_LANDMARKS": HOLISTIC_BODY,
    "FACE_LANDMARKS": [str(i) for i in range(468)],
    "LEFT_HAND_LANDMARKS": HAND,
    "RIGHT_HAND_LANDMARKS": HAND,
    "POSE_WORLD_LANDMARKS": HOLISTIC_BODY,
}


def write_dot_pose(path: Path, data, confidence, parts=HOLISTIC, size=(WIDTH, HEIGHT), fps=FPS):
    """data [T, persons, points, 3] and confidence [T, persons, points], the points those of `parts` in their order."""
    components = [PoseHeaderComponent(name, points, [], [], "XYZC") for name, points in parts.items()]
    header = PoseHeader(0.2, PoseHeaderDimensions(*size, 0), components)
    with open(path, "wb") as file:
        Pose(header, NumPyPoseBody(fps, data.astype(np.float32), confidence.astype(np.float32))).write(file)


def make_holistic(seed=0, persons=1):
    """data [T, persons, 576, 3] in pixels, confidence, and the points' names."""
    rng = np.random.default_rng(seed)
    points = [(part, point) for part, names in HOLISTIC.items() for point in names]
    data = rng.uniform(0.3, 0.7, (FRAMES, persons, len(points), 3)) * [WIDTH, HEIGHT, 1]
    return data, rng.uniform(0.4, 1, data.shape[:3]), points
