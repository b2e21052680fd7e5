"""The parts and their adjacency, against numbers worked out by hand."""

import numpy as np
import pytest

from unisign_fast.pipelines.skeleton import (
    ANCHOR_JOINT,
    PACKED_JOINTS,
    PART_EDGES,
    PART_JOINTS,
    PART_SLICES,
    PARTS,
    adjacency,
)


def test_parts_are_the_published_joints_in_the_published_order():
    assert PARTS == ("body", "left", "right", "face")
    assert PART_JOINTS["body"].tolist() == [0, 3, 4, 5, 6, 7, 8, 9, 10]
    assert PART_JOINTS["left"].tolist() == list(range(91, 112))
    assert PART_JOINTS["right"].tolist() == list(range(112, 133))
    face = [23, 25, 27, 29, 31, 33, 35, 37, 39, 83, 84, 85, 86, 87, 88, 89, 90, 53]
    assert PART_JOINTS["face"].tolist() == face


def test_slices_cut_the_packed_joints_into_the_parts():
    assert len(PACKED_JOINTS) == len(set(PACKED_JOINTS.tolist())) == 69
    for part in PARTS:
        assert PACKED_JOINTS[PART_SLICES[part]].tolist() == PART_JOINTS[part].tolist()


def test_anchors_are_the_wrists_and_the_nose():
    left_wrist, right_wrist, nose = 9, 10, 0
    anchors = {part: PART_JOINTS["body"][joint] for part, joint in ANCHOR_JOINT.items()}
    assert anchors == {"left": left_wrist, "right": right_wrist, "face": nose}


@pytest.mark.parametrize(
    ("part", "joints", "edges"), [("body", 9, 8), ("left", 21, 20), ("right", 21, 20), ("face", 18, 33)]
)
def test_adjacency_shares_every_joint_among_itself_and_its_neighbours(part, joints, edges):
    own, others = adjacency(part)
    assert own.shape == (joints, joints) and own.dtype == np.float32
    assert np.count_nonzero(own) == joints and np.count_nonzero(others) == 2 * edges == 2 * len(PART_EDGES[part])
    assert np.array_equal(others > 0, others.T > 0) and not np.diag(others).any()
    np.testing.assert_allclose((own + others).sum(axis=0), 1, rtol=1e-6)


def test_adjacency_divides_columns_not_rows():
    own, others = adjacency("body")  # the nose has four neighbours, an ear one
    assert own[0, 0] == np.float32(1 / 5) and own[1, 1] == np.float32(1 / 2)
    assert others[1, 0] == np.float32(1 / 5) and others[0, 1] == np.float32(1 / 2)
    assert others[5, 7] == np.float32(1 / 2) and others[7, 5] == np.float32(1 / 3)


def test_hand_and_face_edges():
    _, hand = adjacency("left")
    assert np.flatnonzero(hand[:, 0]).tolist() == [1, 5, 9, 13, 17]
    assert np.flatnonzero(hand[:, 7]).tolist() == [6, 8] and np.flatnonzero(hand[:, 8]).tolist() == [7]
    _, face = adjacency("face")
    assert np.flatnonzero(face[:, 8]).tolist() == [7, 17]  # the contour is open
    assert np.flatnonzero(face[:, 16]).tolist() == [9, 15, 17]  # the lips are closed
    assert np.flatnonzero(face[:, 17]).tolist() == list(range(17))
