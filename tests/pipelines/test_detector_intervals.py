"""Keypoints with a detector run on few frames equal those with a detector run on every frame."""

import numpy as np
import pytest
from video_files import write_video

from unisign_fast.pipelines.crops.video import VideoFile
from unisign_fast.pipelines.demo_corpus import make_clip
from unisign_fast.pipelines.demo_corpus.plan import plan_corpus

pytest.importorskip("rtmlib", reason="pose estimation needs the extra `poses`", exc_type=ImportError)
from pose_networks import BLUE, GREEN, black, dot, keypoints_of, person, walk

from unisign_fast.pipelines.pose_estimation.estimation import estimate_pose


class Counted:
    """A detector that counts its pictures."""

    def __init__(self, detector):
        self.detector, self.batch, self.pictures = detector, detector.batch, 0

    def __call__(self, pictures):
        self.pictures += len(pictures)
        return self.detector(pictures)


def both_ways(path, networks):
    """Pose files with the detector on few frames and on every frame, and the number of pictures in the first case."""
    detector = Counted(networks[0])
    few = estimate_pose(path, detector, networks[1])
    return few, estimate_pose(path, networks[0], networks[1], detect_every=1), detector.pictures


def demo_signer(tmp_path):
    """A clip of the demo corpus for the tests' networks: a blue signer on black, a dot on each wrist.

    Pictures, and the wrists [T, 2, 2] (right, left) in pixels.
    """
    (plan,) = (plan for plan in plan_corpus(60, seed=0) if plan.id == "sentence-00001")
    keypoints = make_clip(plan, tmp_path)
    with VideoFile(tmp_path / f"{plan.id}.mp4") as file:
        pictures = list(file.pictures())
    wrists = keypoints[:, [112, 91], :2] * (plan.camera.width, plan.camera.height)
    for t, picture in enumerate(pictures):
        signer = np.abs(picture.astype(int) - picture[0, 0]).max(axis=-1) > 40
        picture[:] = 0
        picture[..., BLUE] = 200 * signer
        for channel, (x, y) in zip((GREEN, BLUE), wrists[t]):
            dot(picture, channel, x, y)
    return pictures, wrists


def test_few_detections_give_the_demo_signers_keypoints(tmp_path, networks):
    pictures, wrists = demo_signer(tmp_path)
    few, every, calls = both_ways(write_video(tmp_path / "v.mp4", pictures), networks)
    size = pictures[0].shape[1::-1]
    (points, scores), (expected, expected_scores) = keypoints_of(few, size), keypoints_of(every, size)
    assert len(points) == len(pictures) > 50
    for channel, hand in ((GREEN, 0), (BLUE, 1)):
        mine = slice(channel, None, 3)
        assert np.abs(points[:, mine] - wrists[:, hand, None]).max() < 2
        assert np.abs(points[:, mine] - expected[:, mine]).max() < 2  # pixels of 512
        assert np.abs(scores[:, mine] - expected_scores[:, mine]).max() < 0.05
    assert calls <= 1 + len(pictures) // 25 + 1


@pytest.mark.parametrize("reach", [98, 146])  # to the edge of the crop, and beyond it
def test_the_detector_runs_where_the_signer_moves_out_of_the_box(tmp_path, networks, reach):
    """Between two detections, an arm reaches out of both boxes."""
    pictures, hands = [], []
    for t in range(26):
        picture = black()
        person(picture, 50, 20, 40, 80)
        hand = (62, 40)
        if 10 <= t < 13:
            picture[40:46, 90 : reach + 4, BLUE] = 200
            hand = (reach, 43)
        dot(picture, GREEN, *hand)
        pictures.append(picture)
        hands.append(hand)
    few, every, calls = both_ways(write_video(tmp_path / "v.mp4", pictures), networks)
    points, expected = (keypoints_of(pose, (160, 120))[0] for pose in (few, every))
    assert np.abs(points[:, GREEN::3] - np.array(hands)[:, None]).max() < 1
    np.testing.assert_allclose(points[10:13], expected[10:13], atol=1e-3)
    assert calls == 2 + 3


def test_the_detector_runs_on_every_frame_between_detections_that_disagree(tmp_path, networks):
    pictures, hands = walk(51, (320, 120))  # from one end of the picture to the other
    for t in range(26, 51):
        pictures[t][:] = 0
    few, every, calls = both_ways(write_video(tmp_path / "v.mp4", pictures), networks)
    points, scores = keypoints_of(few, (320, 120))
    expected, expected_scores = keypoints_of(every, (320, 120))
    assert (scores[26:] == 0).all() and (expected_scores[26:] == 0).all()
    assert np.abs(points[:26, BLUE::3] - hands[:26, None]).max() < 1
    assert np.abs(points[:26, BLUE::3] - expected[:26, BLUE::3]).max() < 1
    assert calls == 3 + 2 * 24


def test_the_detector_runs_where_the_pose_network_is_less_confident(tmp_path, networks):
    """The signer is missing in two frames; only the detector rejects what replaces them."""
    pictures = [black() for _ in range(26)]
    for t, picture in enumerate(pictures):
        if t in (4, 5):
            picture[30:40, 50:60, BLUE] = 110
        else:
            hand = person(picture, 50, 20, 40, 80)
    few, _, calls = both_ways(write_video(tmp_path / "v.mp4", pictures), networks)
    points, scores = keypoints_of(few, (160, 120))
    assert not scores[4:6].any() and not points[4:6].any()
    others = np.delete(np.arange(26), (4, 5))
    assert np.abs(points[others, BLUE::3] - hand).max() < 1
    assert calls == 2 + 2


def test_a_signer_who_is_there_for_a_moment(tmp_path, networks):
    pictures, hands = walk(20)
    few, _, calls = both_ways(write_video(tmp_path / "v.mp4", [black()] * 3 + pictures + [black()] * 3), networks)
    points, scores = keypoints_of(few, (160, 120))
    assert np.abs(points[3:-3, BLUE::3] - hands[:, None]).max() < 1
    assert not scores[:3].any() and not scores[-3:].any()
    assert calls == 2 + 26
