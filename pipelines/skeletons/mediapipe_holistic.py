"""MediaPipe Holistic without its face mesh: 33 joints of the body, 21 of each hand.

The face is made of the body's eyes, ears, mouth and nose.
"""

from ..skeleton import HAND_EDGES, HAND_JOINTS, HANDS, Part, Skeleton

BODY_JOINTS = tuple(
    """nose left_eye_inner left_eye left_eye_outer right_eye_inner right_eye right_eye_outer left_ear right_ear
    mouth_left mouth_right left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist left_pinky
    right_pinky left_index right_index left_thumb right_thumb left_hip right_hip left_knee right_knee left_ankle
    right_ankle left_heel right_heel left_foot_index right_foot_index""".split()
)

SKELETON = Skeleton(
    name="mediapipe-holistic-75",
    joints=(*BODY_JOINTS, *(f"{hand}_hand_{joint}" for hand in HANDS for joint in HAND_JOINTS)),
    parts={
        "body": Part(
            joints=(0, 7, 8, *range(11, 17)),  # nose, ears, shoulders, elbows, wrists
            edges=((0, 1), (0, 2), (0, 3), (0, 4), (3, 5), (5, 7), (4, 6), (6, 8)),
        ),
        "left": Part(tuple(range(33, 54)), HAND_EDGES, root=0, anchor=7),
        "right": Part(tuple(range(54, 75)), HAND_EDGES, root=0, anchor=8),
        "face": Part(
            joints=tuple(range(11)),
            edges=((1, 2), (2, 3), (3, 7), (4, 5), (5, 6), (6, 8), (9, 10), *((0, joint) for joint in range(1, 11))),
            root=0,
            anchor=0,
        ),
    },
)
