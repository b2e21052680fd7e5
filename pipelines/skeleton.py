"""The skeleton: which of the 133 whole-body joints are used, in which four parts, and how they are connected.

Joints are numbered from 0 in COCO-WholeBody order (17 body, 6 feet, 68 face, 21 left hand, 21 right hand). Of these 69
are used, in the parts of Uni-Sign (section 3.2); joints and edges are the published code's, which calls the face
`face_all`.
"""

import numpy as np

JOINTS = 133
PARTS = ("body", "left", "right", "face")  # also the order of the 69 packed joints
HANDS = ("left", "right")

LEFT_HAND = np.arange(91, 112)
RIGHT_HAND = np.arange(112, 133)
PART_JOINTS: dict[str, np.ndarray] = {
    "body": np.array([0, *range(3, 11)]),  # nose, ears, shoulders, elbows, wrists
    "left": LEFT_HAND,
    "right": RIGHT_HAND,
    "face": np.array([*range(23, 40, 2), *range(83, 91), 53]),  # every second contour point, inner lips, nose tip
}
PACKED_JOINTS = np.concatenate([PART_JOINTS[part] for part in PARTS])  # [69]

_ENDS = np.cumsum([len(PART_JOINTS[part]) for part in PARTS]).tolist()
PART_SLICES: dict[str, slice] = {
    part: slice(end - len(PART_JOINTS[part]), end) for part, end in zip(PARTS, _ENDS, strict=True)
}

ROOT_JOINT = {"left": 0, "right": 0, "face": 17}  # within the part: wrist, wrist, nose tip; the body has none
ANCHOR_JOINT = {"left": 7, "right": 8, "face": 0}  # within the body: left wrist, right wrist, nose

_FINGERS = [(0, 1), (0, 5), (0, 9), (0, 13), (0, 17)] + [
    (joint, joint + 1) for first in (1, 5, 9, 13, 17) for joint in range(first, first + 3)
]
PART_EDGES: dict[str, list[tuple[int, int]]] = {
    "body": [(0, 1), (0, 2), (0, 3), (0, 4), (3, 5), (5, 7), (4, 6), (6, 8)],
    "left": _FINGERS,
    "right": _FINGERS,
    "face": [(joint, joint + 1) for joint in range(8)]  # the contour, ear to ear
    + [(9 + i, 9 + (i + 1) % 8) for i in range(8)]  # the lips, closed
    + [(17, joint) for joint in range(17)],
}


def hand_rows(crops_per_hand: tuple[int, int], hand: int) -> slice:
    """The rows of HANDS[hand] in arrays of both hands' crops, in which the left hand's come first."""
    left, right = crops_per_hand
    return slice(left, left + right) if hand else slice(left)


def adjacency(part: str) -> np.ndarray:
    """The adjacency a graph convolution starts from, float32 [K=2, V, V]: A[k, v, w] weighs what w takes from v.

    Edges are undirected and every joint is its own neighbour; each column is divided by its sum. A[0] holds the
    diagonal (hop 0), A[1] the rest (hop 1): ST-GCN's distance partition.
    """
    joints = len(PART_JOINTS[part])
    linked_VV = np.eye(joints)
    for v, w in PART_EDGES[part]:
        linked_VV[v, w] = linked_VV[w, v] = 1.0
    share_VV = linked_VV / linked_VV.sum(axis=0)
    own_VV = np.diag(np.diag(share_VV))
    return np.stack([own_VV, share_VV - own_VV]).astype(np.float32)
