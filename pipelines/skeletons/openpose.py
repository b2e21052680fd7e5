"""OpenPose: the 25 joints of BODY_25, 21 of each hand, 70 of the face."""

from ..skeleton import FACE_EDGES, FACE_POINTS, HAND_EDGES, HAND_JOINTS, HANDS, Part, Skeleton

BODY_JOINTS = tuple(
    """nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist mid_hip right_hip right_knee
    right_ankle left_hip left_knee left_ankle right_eye left_eye right_ear left_ear left_big_toe left_small_toe
    left_heel right_big_toe right_small_toe right_heel""".split()
)

SKELETON = Skeleton(
    name="openpose-137",
    joints=(
        *BODY_JOINTS,
        *(f"{hand}_hand_{joint}" for hand in HANDS for joint in HAND_JOINTS),
        *(f"face_{point}" for point in range(70)),
    ),
    parts={
        "body": Part(
            joints=(0, 18, 17, 1, 5, 2, 6, 3, 7, 4),  # nose, ears, neck, shoulders, elbows, wrists; left before right
            edges=((0, 1), (0, 2), (0, 3), (3, 4), (3, 5), (4, 6), (6, 8), (5, 7), (7, 9)),
        ),
        "left": Part(tuple(range(25, 46)), HAND_EDGES, root=0, anchor=8),
        "right": Part(tuple(range(46, 67)), HAND_EDGES, root=0, anchor=9),
        "face": Part(tuple(67 + point for point in FACE_POINTS), FACE_EDGES, root=17, anchor=0),
    },
)
