"""Skeletons: which joints a pose has, which of them are used, in which four parts, and how they are connected.

The default is COCO-WholeBody's 133 joints, of which 69 are used, in the parts of Uni-Sign (section 3.2); joints and
edges are the published code's, which calls the face `face_all`. Others are in pipelines/skeletons/.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

PARTS = ("body", "left", "right", "face")  # also the order of the packed joints
HANDS = ("left", "right")
MAX_PART_JOINTS = 32  # limit of the kernels


@dataclass(frozen=True)
class Part:
    """A part of the body, which a graph convolution runs over."""

    joints: tuple[int, ...]  # indices into the skeleton's joints
    edges: tuple[tuple[int, int], ...]  # indices into the part's joints
    root: int | None = None  # index within the part: positions are normalised relative to it; the body has none
    anchor: int | None = None  # index within the body: its feature is added to the part's; the body has none


@dataclass(frozen=True, eq=False)
class Skeleton:
    """A set of joints: their names in the order of the keypoint arrays, and the `parts` body, left, right, face.

    Both hands have the same number of joints and the same edges, since they share an encoder. The body's extent is the
    signer's size; a hand's extent is its box.
    """

    name: str  # in store.json and config.json
    joints: tuple[str, ...]
    parts: Mapping[str, Part]
    fingertips: tuple[int, ...] = (4, 8, 12, 16, 20)  # within a hand

    def __post_init__(self):
        assert len(set(self.joints)) == len(self.joints), f"{self.name}: two joints have one name"
        assert tuple(self.parts) == PARTS, f"{self.name}: parts are {', '.join(self.parts)}, not {', '.join(PARTS)}"
        body = len(self.parts["body"].joints)
        for name, part in self.parts.items():
            size, where = len(part.joints), f"{self.name}: {name}"
            assert 1 <= size <= MAX_PART_JOINTS, f"{where} has {size} joints, not 1 to {MAX_PART_JOINTS}"
            assert len(set(part.joints)) == size, f"{where} has a joint twice"
            assert all(0 <= joint < len(self.joints) for joint in part.joints), f"{where} has an unknown joint"
            assert all(0 <= end < size for edge in part.edges for end in edge), f"{where} has an edge to another part"
            if name != "body":
                assert part.root is not None and 0 <= part.root < size, f"{where} needs a root"
                assert part.anchor is not None and 0 <= part.anchor < body, f"{where} needs an anchor in the body"
        left, right = (self.parts[hand] for hand in HANDS)
        assert len(left.joints) == len(right.joints) and left.edges == right.edges, f"{self.name}: hands differ"
        assert all(0 <= tip < len(left.joints) for tip in self.fingertips), f"{self.name}: a fingertip is not a joint"

    @cached_property
    def packed_joints(self) -> np.ndarray:
        """The indices of all joints in use, part by part, int64 [J]."""
        return np.concatenate([self.part_joints[part] for part in PARTS])

    @cached_property
    def part_joints(self) -> dict[str, np.ndarray]:
        """The indices of each part's joints, int64."""
        return {name: np.array(part.joints) for name, part in self.parts.items()}

    @cached_property
    def slices(self) -> dict[str, slice]:
        """The range of each part within the packed joints."""
        sizes = [len(self.parts[part].joints) for part in PARTS]
        ends = np.cumsum(sizes).tolist()
        return {part: slice(end - size, end) for part, size, end in zip(PARTS, sizes, ends, strict=True)}

    @cached_property
    def hand_columns(self) -> slice | np.ndarray:
        """The joints of both hands, the left first; a slice, which avoids a copy, if they are contiguous."""
        joints = np.concatenate([self.part_joints[hand] for hand in HANDS])
        first, end = int(joints[0]), int(joints[0]) + len(joints)
        return slice(first, end) if np.array_equal(joints, np.arange(first, end)) else joints

    @property
    def hand_size(self) -> int:
        """The number of a hand's joints."""
        return len(self.parts["left"].joints)

    def adjacency(self, part: str) -> np.ndarray:
        """A graph convolution's initial adjacency, float32 [K=2, V, V]: A[k, v, w] is the weight of joint v in w's sum.

        Edges are undirected and every joint is its own neighbour; each column is divided by its sum. A[0] holds the
        diagonal (hop 0), A[1] the rest (hop 1): ST-GCN's distance partition.
        """
        linked_VV = np.eye(len(self.parts[part].joints))
        for v, w in self.parts[part].edges:
            linked_VV[v, w] = linked_VV[w, v] = 1.0
        share_VV = linked_VV / linked_VV.sum(axis=0)
        own_VV = np.diag(np.diag(share_VV))
        return np.stack([own_VV, share_VV - own_VV]).astype(np.float32)


def hand_rows(crops_per_hand: tuple[int, int], hand: int) -> slice:
    """The rows of HANDS[hand] in an array of both hands' crops, the left hand's first."""
    left, right = crops_per_hand
    return slice(left, left + right) if hand else slice(left)


HAND_JOINTS = (
    "wrist",
    *(f"{finger}_{joint}" for finger in ("thumb", "index", "middle", "ring", "little") for joint in range(1, 5)),
)
HAND_EDGES = ((0, 1), (0, 5), (0, 9), (0, 13), (0, 17)) + tuple(
    (joint, joint + 1) for first in (1, 5, 9, 13, 17) for joint in range(first, first + 3)
)
FACE_EDGES = (  # between 18 of a face's 68 points: every second contour point, inner lips, nose tip
    *((joint, joint + 1) for joint in range(8)),  # the contour, ear to ear
    *((9 + i, 9 + (i + 1) % 8) for i in range(8)),  # the lips, closed
    *((17, joint) for joint in range(17)),
)
FACE_POINTS = (*range(0, 17, 2), *range(60, 68), 30)  # these 18

_BODY = """nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist
right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle left_big_toe left_small_toe left_heel
right_big_toe right_small_toe right_heel""".split()

WHOLEBODY = Skeleton(
    name="coco-wholebody-133",
    joints=(
        *_BODY,  # with the feet 23
        *(f"face_{point}" for point in range(68)),
        *(f"{hand}_hand_{joint}" for hand in HANDS for joint in HAND_JOINTS),
    ),
    parts={
        "body": Part(
            joints=(0, *range(3, 11)),  # nose, ears, shoulders, elbows, wrists
            edges=((0, 1), (0, 2), (0, 3), (0, 4), (3, 5), (5, 7), (4, 6), (6, 8)),
        ),
        "left": Part(tuple(range(91, 112)), HAND_EDGES, root=0, anchor=7),  # both wrists
        "right": Part(tuple(range(112, 133)), HAND_EDGES, root=0, anchor=8),
        "face": Part(tuple(23 + point for point in FACE_POINTS), FACE_EDGES, root=17, anchor=0),  # nose tip, nose
    },
)

# WHOLEBODY's values, for code that knows no other skeleton: estimators, formats mapped to it, the demo corpus.
JOINTS = len(WHOLEBODY.joints)
PART_JOINTS, PACKED_JOINTS, PART_SLICES = WHOLEBODY.part_joints, WHOLEBODY.packed_joints, WHOLEBODY.slices
LEFT_HAND, RIGHT_HAND = (PART_JOINTS[hand] for hand in HANDS)
ROOT_JOINT = {name: part.root for name, part in WHOLEBODY.parts.items() if part.root is not None}
ANCHOR_JOINT = {name: part.anchor for name, part in WHOLEBODY.parts.items() if part.anchor is not None}
PART_EDGES = {name: list(part.edges) for name, part in WHOLEBODY.parts.items()}
adjacency = WHOLEBODY.adjacency
