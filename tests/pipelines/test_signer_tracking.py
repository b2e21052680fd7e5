"""Which of several persons is tracked as the signer."""

import numpy as np

from unisign_fast.pipelines.signer_tracking import follow_signer, nearest_person

A, B = np.array([0, 0, 50, 100, 0.5]), np.array([60, 0, 100, 100, 0.9])
NOBODY = np.zeros((0, 5))


def test_a_person_is_one_track_though_detections_change_places():
    assert follow_signer([np.stack([A, B]), np.stack([B, A]), NOBODY, B[None], np.stack([B, A])]) == [1, 0, None, 0, 0]
    close = A + [15, 0, 15, 0, 0]  # near A, but A's track is A's
    assert follow_signer([A[None], np.stack([A, close]), np.stack([close, A])]) == [0, 0, 1]


def test_nobody():
    assert follow_signer([]) == []
    assert follow_signer([NOBODY, NOBODY]) == [None, None]
    assert follow_signer([np.full((2, 5), np.nan)] * 2) == [None, None]


def test_who_is_alone_is_the_signer_wherever():
    assert follow_signer([A[None], NOBODY, A[None] + [900, 0, 900, 0, 0]]) == [0, None, 0]


def test_weight_is_area_times_confidence_over_all_frames():
    small_and_sure, large = np.array([0, 0, 20, 20, 1.0]), np.array([100, 0, 200, 200, 0.1])
    assert follow_signer([np.stack([small_and_sure, large])] * 3) == [1, 1, 1]
    assert follow_signer([small_and_sure[None]] * 9 + [np.stack([small_and_sure, large])]) == [0] * 10


def test_the_nearest_person_in_reach():
    assert nearest_person(np.stack([B, A]), A[:4]) == 1
    assert nearest_person(B[None] + [500, 0, 500, 0, 0], A[:4]) is None
    assert nearest_person(NOBODY, A[:4]) is None
