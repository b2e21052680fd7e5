"""`.pose` files of MediaPipe Holistic (the binary format of the pose-format library, versions 0.0 to 0.2) -> Pose.

Reads the components POSE_LANDMARKS (33 points), FACE_LANDMARKS (the mesh of 468 or 478), LEFT_HAND_LANDMARKS and
RIGHT_HAND_LANDMARKS (21 each); x and y are pixels of the width and height in the header. The face's 68 points are taken
from the mesh at the vertices that pose-format's own pose_converter pairs with OpenPose's face. The small toes (joints
18, 21) are not in Holistic and get confidence 0; Uni-Sign does not use them. Confidence is MediaPipe's visibility for
the body, and 1 or 0 (found or not) for face and hands. A file that lacks a component or vertex that the 69 joints of
Uni-Sign need, or of another layout (OpenPose's 135 and 137, ...), is refused.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from pose_format import Pose as DotPose

from ..crops.video import VideoInfo
from ..errors import InputError
from ..skeleton import LEFT_HAND, RIGHT_HAND, WHOLEBODY, Skeleton
from .pose import Pose, make_pose, signer_of

SUFFIXES = (".pose",)
SOURCE = {
    "estimator": "MediaPipe Holistic, reordered as 133 whole-body keypoints",
    "version": "not recorded in the files",
    "coordinates": "x / width, y / height, visibility (body), found or not (face, hands)",
}
_BODY = {0: "NOSE"} | {
    joint + right: f"{side}_{name}"
    for joint, name in [
        (1, "EYE"), (3, "EAR"), (5, "SHOULDER"), (7, "ELBOW"), (9, "WRIST"), (11, "HIP"), (13, "KNEE"), (15, "ANKLE"),
    ]
    for right, side in enumerate(("LEFT", "RIGHT"))
}  # fmt: skip
_FEET = {17: "LEFT_FOOT_INDEX", 19: "LEFT_HEEL", 20: "RIGHT_FOOT_INDEX", 22: "RIGHT_HEEL"}
_FACE = [
    *(127, 234, 93, 132, 58, 172, 136, 149, 152, 378, 365, 397, 288, 361, 323, 454, 356),  # contour, from the right ear
    *(70, 63, 105, 66, 107, 336, 296, 334, 293, 300),  # eyebrows
    *(168, 197, 5, 4, 219, 237, 1, 457, 439),  # nose: bridge to tip, then beneath
    *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),  # eyes
    *(61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91),  # outer lips
    *(78, 81, 13, 311, 308, 402, 14, 178),  # inner lips
]
_FINGERS = [f"{name}_{joint}" for name in ("INDEX_FINGER", "MIDDLE_FINGER", "RING_FINGER", "PINKY") for joint in
            ("MCP", "PIP", "DIP", "TIP")]  # fmt: skip
HAND = ["WRIST", "THUMB_CMC", "THUMB_MCP", "THUMB_IP", "THUMB_TIP", *_FINGERS]
PLACES: dict[int, tuple[str, str]] = {  # joint -> component and point
    **{joint: ("POSE_LANDMARKS", point) for joint, point in (_BODY | _FEET).items()},
    **{23 + i: ("FACE_LANDMARKS", str(vertex)) for i, vertex in enumerate(_FACE)},
    **{joint: ("LEFT_HAND_LANDMARKS", point) for joint, point in zip(LEFT_HAND.tolist(), HAND, strict=True)},
    **{joint: ("RIGHT_HAND_LANDMARKS", point) for joint, point in zip(RIGHT_HAND.tolist(), HAND, strict=True)},
}


def read_pose(path: Path, video: VideoInfo | None = None) -> Pose:
    """The signer of a .pose file, with its width, height and fps. Raises InputError naming what the file lacks."""
    return read_places(path, PLACES, WHOLEBODY)


def read_places(path: Path, places: Mapping[int, tuple[str, str]], skeleton: Skeleton) -> Pose:
    """Like `read_pose`; `places` maps each joint of a skeleton to its component and point."""
    try:
        content = DotPose.read(path.read_bytes())
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "name an existing file") from None
    except Exception as error:  # on damaged bytes the library may raise any exception
        problem = f"is not a complete .pose file ({type(error).__name__}: {error})"
        raise InputError(path, problem, "copy the file again") from None
    columns = _columns(content.header.components, path, places, skeleton)
    xy = content.body.data.filled(0)[..., :2]  # [T, persons, points, 2]
    persons = np.zeros((*xy.shape[:2], len(skeleton.joints), 3), np.float32)
    joints = list(columns)
    persons[:, :, joints, :2] = xy[:, :, list(columns.values())]
    persons[:, :, joints, 2] = content.body.confidence[:, :, list(columns.values())]
    size = content.header.dimensions
    if size.width == 0 or size.height == 0:
        raise InputError(path, "gives no width and height", "write it again with the video's dimensions")
    # This format always has pixels, however small the values.
    with np.errstate(invalid="ignore"):  # make_pose refuses infinite numbers
        persons[..., :2] /= (size.width, size.height)
    pose = make_pose(signer_of(list(persons), skeleton), path, None, fps=float(content.body.fps), skeleton=skeleton)
    return replace(pose, width=size.width, height=size.height)


def _columns(components: list, path: Path, places: Mapping[int, tuple[str, str]], skeleton: Skeleton) -> dict[int, int]:
    """Joint -> index of its point among all points of the file."""
    points = [(component.name, point) for component in components for point in component.points]
    there = {point: place for place, point in enumerate(points)}
    columns = {joint: there[point] for joint, point in places.items() if point in there}
    lacking = [places[joint] for joint in skeleton.packed_joints.tolist() if joint not in columns]
    if lacking:
        names = ", ".join(component.name for component in components)
        problem = f"lacks {len(lacking)} joints, the first {' '.join(lacking[0])} (it has {names})"
        raise InputError(path, problem, "give files of MediaPipe Holistic with body, face mesh and both hands")
    return columns
