"""Keypoints of videos: to a pixel, of the right person; from videos that are cut short, uneven or oddly labelled."""

import av
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from refusals import refusal
from video_files import cut_before, write_mp4, write_video

from unisign_fast.pipelines.crops.video import read_video_info

pytest.importorskip("rtmlib", reason="pose estimation needs the extra `poses`", exc_type=ImportError)
import rtmlib
from pose_networks import (
    BLUE,
    GREEN,
    RED,
    black,
    keypoints_of,
    noisy_walk,
    person,
    walk,
    write_detector,
    write_pose_network,
)

from unisign_fast.pipelines.pose_estimation.estimation import estimate_pose
from unisign_fast.pipelines.pose_estimation.networks import PersonDetector, PoseNetwork


@pytest.mark.parametrize("size", [(160, 120), (171, 121)])
def test_keypoints_are_right_to_a_pixel(tmp_path, networks, size):
    pictures, hands = walk(size=size)
    pose = estimate_pose(write_video(tmp_path / "v.mp4", pictures), *networks)
    points, scores = keypoints_of(pose, size)
    assert points.shape == (9, 133, 2) and scores.shape == (9, 133) and pose["w_h"] == list(size)
    assert np.abs(points[:, BLUE::3] - hands[:, None]).max() < 1
    assert np.abs(points[:, GREEN::3] - (hands + [5, 30])[:, None]).max() < 1
    assert scores[:, GREEN::3].min() > 0.8 and scores[:, RED::3].max() <= 0


def test_a_batch_answers_as_rtmlib_does_crop_by_crop(network_files, networks):
    pictures, _ = walk(frames=4)
    boxes = [np.array([30.5 + 3 * t, 20.25, 70, 100]) for t in range(4)]
    points, scores = networks[1]([networks[1].crop(picture, box) for picture, box in zip(pictures, boxes)])
    alone = rtmlib.RTMPose(str(network_files[1]), (288, 384))
    for t in range(4):
        expected, expected_scores = alone(pictures[t], [boxes[t]])
        np.testing.assert_allclose(points[t], expected[0], atol=1e-3)
        np.testing.assert_allclose(scores[t], expected_scores[0], rtol=1e-5)


def test_a_network_of_fixed_batch_runs_too(tmp_path, networks):
    fixed = PoseNetwork(write_pose_network(tmp_path / "one.onnx", batch=1))
    video = write_video(tmp_path / "v.mp4", walk()[0])
    one, many = (estimate_pose(video, networks[0], network) for network in (fixed, networks[1]))
    np.testing.assert_allclose(one["keypoints"], many["keypoints"], atol=1e-6)


# --- the signer


def test_the_larger_person_is_followed_though_the_other_is_more_confident_at_times(tmp_path, networks):
    pictures, hands = [], []
    for t in range(9):
        picture = black()
        person(picture, 110, 40, 30, 50, channel=RED)
        hands.append(person(picture, 10, 10, 60, 100, light=200))
        if t % 3 == 0:  # the larger one's hand is in the dark, and so is the detector's confidence
            picture[..., BLUE] = np.minimum(picture[..., BLUE], 180)
        pictures.append(picture)
    pose = estimate_pose(write_video(tmp_path / "v.mp4", pictures), *networks)
    points, _ = keypoints_of(pose, (160, 120))
    bright = np.arange(9) % 3 != 0
    assert np.abs(points[bright, BLUE::3] - np.array(hands)[bright, None]).max() < 1
    assert networks[0]([pictures[0]])[0][:, 4].argmax() == 1  # so it is the other that is the more confident there
    assert points[:, RED::3, 0].max() < 100  # the crop is never the other's


def test_a_frame_without_the_person_has_no_confidence(tmp_path, networks):
    pictures, hands = walk()
    pictures[4] = black()
    pose = estimate_pose(write_video(tmp_path / "v.mp4", pictures), *networks)
    points, scores = keypoints_of(pose, (160, 120))
    assert (points[4] == 0).all() and (scores[4] == 0).all()
    others = np.arange(9) != 4
    assert np.abs(points[others, BLUE::3] - hands[others, None]).max() < 1


def test_the_detector_finds_what_rtmlib_finds(shared):
    weights = shared / "detector" / "yolox_nano.onnx"
    detector = PersonDetector(weights)
    reference = rtmlib.YOLOX(str(weights), (416, 416), det_mode="multiclass", score_thr=0.3)
    for name in ("02233", "05107", "10646"):
        with av.open(str(shared / "wlasl" / "rgb_format" / f"{name}.mp4"), metadata_errors="ignore") as container:
            picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
        boxes, classes = reference(picture[..., ::-1])
        (result,) = detector([picture])
        assert result.shape == (1, 5) and result[0, 4] > 0.5
        np.testing.assert_allclose(result[:, :4], boxes[classes == 0], rtol=1e-4)


@pytest.mark.parametrize("batch", [1, "batch"])
def test_a_batch_of_pictures_has_the_persons_of_each(tmp_path, batch):
    """Pictures of several sizes, one of them without a person, in several runs of the network."""
    detector = PersonDetector(write_detector(tmp_path / "detector.onnx", batch=batch), batch=3)
    assert detector.batch == (1 if batch == 1 else 3)
    pictures = [black(), *walk(frames=4)[0], *walk(frames=3, size=(200, 150))[0]]
    person(pictures[2], 100, 30, 20, 60, RED)
    together = detector(pictures)
    assert [len(persons) for persons in together] == [0, 1, 2, 1, 1, 1, 1, 1]
    for picture, persons in zip(pictures, together):
        np.testing.assert_allclose(persons, detector([picture])[0], rtol=1e-6)
    assert detector([]) == []


def test_real_weights_answer_a_batch_as_each_picture(shared, tmp_path):
    """yolox_nano with a batch of any size; suppression is outside. A file that only claims to take one runs too."""
    model = onnx.load(shared / "detector" / "yolox_nano.onnx")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, tmp_path / "claims.onnx")
    shapes = {node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
    for constant in model.graph.initializer:
        if constant.name in shapes:
            shape = numpy_helper.to_array(constant)
            constant.CopyFrom(numpy_helper.from_array(np.array([0, *shape[1:]]), constant.name))  # 0: as it was
    onnx.save(model, tmp_path / "any.onnx")
    many, one = PersonDetector(tmp_path / "any.onnx"), PersonDetector(shared / "detector" / "yolox_nano.onnx")
    assert (many.batch, one.batch, PersonDetector(tmp_path / "claims.onnx").batch) == (8, 1, 1)
    pictures = []
    for name in ("02233", "05107", "10646"):
        with av.open(str(shared / "wlasl" / "rgb_format" / f"{name}.mp4"), metadata_errors="ignore") as container:
            pictures.append(next(container.decode(video=0)).to_ndarray(format="rgb24"))
    for batched, alone in zip(many(pictures), one(pictures), strict=True):
        assert len(alone) == 1
        np.testing.assert_allclose(batched, alone, rtol=1e-4)


def test_batches_change_no_poses(tmp_path, network_files, networks):
    """A signer who walks, disappears and comes back, so that detections of both passes come in batches."""
    pictures, _ = walk(frames=40)
    pictures[12:15] = [black()] * 3
    video = write_video(tmp_path / "v.mp4", pictures)
    batched = PersonDetector(write_detector(tmp_path / "any.onnx", batch="batch"))
    one, many = (estimate_pose(video, detector, networks[1]) for detector in (networks[0], batched))
    np.testing.assert_allclose(one["keypoints"], many["keypoints"], atol=1e-6)
    np.testing.assert_allclose(one["scores"], many["scores"], atol=1e-6)


# --- whatever videos come


@pytest.mark.parametrize("kept, good", [(12, False), (26, False), (28, True)])
def test_a_truncated_video_is_refused_unless_hardly_anything_is_lost(tmp_path, networks, kept, good):
    video = write_mp4(tmp_path / "v.mp4", noisy_walk()[0])
    cut_before(video, kept)
    if good:
        pose = estimate_pose(video, *networks)
        assert len(pose["keypoints"]) == read_video_info(video).frames == kept
    else:
        assert f"decodes only to frame {kept} of 30" in refusal(estimate_pose, video, *networks)


def test_variable_frame_rate(tmp_path, networks):
    pictures, hands = walk(12)
    times = np.cumsum([0, 40, 40, 200, 10, 10, 40, 40, 500, 40, 40, 40]).tolist()
    video = write_mp4(tmp_path / "v.mp4", pictures, fps=1000, times=times)
    points, _ = keypoints_of(estimate_pose(video, *networks), (160, 120))
    assert np.abs(points[:, BLUE::3] - hands[:, None]).max() < 2.5  # colour is at half the resolution here


def test_metadata_that_is_not_utf8(tmp_path, networks):
    video = tmp_path / "v.mp4"
    write_mp4(video, walk()[0])
    content = video.read_bytes()
    assert content.count(b"Lavf") == 1
    video.write_bytes(content.replace(b"Lavf", b"\xff\xfe\xffv"))
    with pytest.raises(UnicodeDecodeError):
        av.open(str(video))
    assert len(estimate_pose(video, *networks)["keypoints"]) == 9
