"""Errors in the user's input are one line, wherever they are raised."""

import pickle

from unisign_fast.pipelines.errors import InputError


def test_an_error_survives_the_way_from_a_worker_process():
    error = InputError("store: clip 3: keypoints", "have no frame", "extract the pose again")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and (again.where, again.problem, again.remedy) == (
        "store: clip 3: keypoints",
        "have no frame",
        "extract the pose again",
    )
