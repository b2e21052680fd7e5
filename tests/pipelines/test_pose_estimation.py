"""Videos become pose files: to a pixel, of the right person, whole or not at all; bad videos are named and left out."""

import json
import os
import pickle
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from video_files import write_video

from unisign_fast.pipelines.converters.convert import convert
from unisign_fast.pipelines.converters.unisign import read_pose
from unisign_fast.pipelines.crops.video import VideoFile, read_video_info
from unisign_fast.pipelines.demo_corpus import make_clip
from unisign_fast.pipelines.demo_corpus.plan import plan_corpus
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.store.keypoint_store import KeypointStore

pytest.importorskip("rtmlib", reason="pose estimation needs the extra `poses`", exc_type=ImportError)
import rtmlib
from pose_networks import BLUE, GREEN, RED, black, dot, person, walk, write_detector, write_pose_network

from unisign_fast.pipelines.pose_estimation.estimation import estimate_pose
from unisign_fast.pipelines.pose_estimation.extraction import extract, find_work
from unisign_fast.pipelines.pose_estimation.networks import PersonDetector, PoseNetwork

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    return write_detector(folder / "detector.onnx"), write_pose_network(folder / "pose.onnx")


@pytest.fixture(scope="module")
def networks(files):
    return PersonDetector(files[0]), PoseNetwork(files[1], batch=4)


def keypoints_of(pose, size):
    """[T, 133, 2] pixels and [T, 133] confidences of a pose file's content."""
    return np.concatenate(pose["keypoints"]) * size, np.concatenate(pose["scores"])


@pytest.mark.parametrize("size", [(160, 120), (171, 121)])
def test_keypoints_are_right_to_a_pixel(tmp_path, networks, size):
    pictures, hands = walk(size=size)
    pose = estimate_pose(write_video(tmp_path / "v.mp4", pictures), *networks)
    points, scores = keypoints_of(pose, size)
    assert points.shape == (9, 133, 2) and scores.shape == (9, 133) and pose["w_h"] == list(size)
    assert np.abs(points[:, BLUE::3] - hands[:, None]).max() < 1
    assert np.abs(points[:, GREEN::3] - (hands + [5, 30])[:, None]).max() < 1
    assert scores[:, GREEN::3].min() > 0.8 and scores[:, RED::3].max() <= 0


def test_a_batch_answers_as_rtmlib_does_crop_by_crop(files, networks):
    pictures, _ = walk(frames=4)
    boxes = [np.array([30.5 + 3 * t, 20.25, 70, 100]) for t in range(4)]
    points, scores = networks[1]([networks[1].crop(picture, box) for picture, box in zip(pictures, boxes)])
    alone = rtmlib.RTMPose(str(files[1]), (288, 384))
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
    assert networks[0](pictures[0])[:, 4].argmax() == 1  # so it is the other that is the more confident there
    assert points[:, RED::3, 0].max() < 100  # the crop is never the other's


def test_a_frame_without_the_person_has_no_confidence(tmp_path, networks):
    pictures, hands = walk()
    pictures[4] = black()
    pose = estimate_pose(write_video(tmp_path / "v.mp4", pictures), *networks)
    points, scores = keypoints_of(pose, (160, 120))
    assert (points[4] == 0).all() and (scores[4] == 0).all()
    others = np.arange(9) != 4
    assert np.abs(points[others, BLUE::3] - hands[others, None]).max() < 1


# --- a detector in few frames


class Counted:
    """A detector, and how often it was asked."""

    def __init__(self, detector):
        self.detector, self.calls = detector, 0

    def __call__(self, picture):
        self.calls += 1
        return self.detector(picture)


def both_ways(path, networks):
    """Pose files by a detector in few frames and in every frame, and how often the first was asked."""
    detector = Counted(networks[0])
    few = estimate_pose(path, detector, networks[1])
    return few, estimate_pose(path, networks[0], networks[1], detect_every=1), detector.calls


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
def test_the_detector_is_asked_where_the_signer_moves_out_of_the_box(tmp_path, networks, reach):
    """An arm is stretched between two detections, beyond both boxes."""
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


def test_the_detector_is_asked_in_every_frame_between_detections_that_disagree(tmp_path, networks):
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


def test_the_detector_is_asked_where_the_network_is_less_sure(tmp_path, networks):
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


def test_a_network_that_fails_on_one_video_stops_no_other(tmp_path, networks):
    write_video(tmp_path / "a.mp4", walk()[0])
    write_video(tmp_path / "b.mp4", walk(size=(100, 100))[0])

    def detector(picture):
        if picture.shape[1] == 100:
            raise RuntimeError("out of memory\nand more")
        return networks[0](picture)

    result = extract(find_work(tmp_path, tmp_path / "poses"), detector, networks[1])
    assert [str(error) for error in result.bad] == [
        f"{tmp_path}/b.mp4: its poses cannot be estimated (RuntimeError: out of memory); leave it out"
    ]
    assert (tmp_path / "poses" / "a.pkl").exists() and result.frames == 9 and result.rate > 0


def test_the_detector_finds_what_rtmlib_finds(shared):
    weights = shared / "detector" / "yolox_nano.onnx"
    detector = PersonDetector(weights)
    reference = rtmlib.YOLOX(str(weights), (416, 416), det_mode="multiclass", score_thr=0.3)
    for name in ("02233", "05107", "10646"):
        with av.open(str(shared / "wlasl" / "rgb_format" / f"{name}.mp4"), metadata_errors="ignore") as container:
            picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
        boxes, classes = reference(picture[..., ::-1])
        result = detector(picture)
        assert result.shape == (1, 5) and result[0, 4] > 0.5
        np.testing.assert_allclose(result[:, :4], boxes[classes == 0], rtol=1e-4)


def test_real_clips_become_poses(shared, tmp_path, files):
    names = ["02233", "15753"]  # the headers declare a frame more than there is
    for name in names:
        (tmp_path / f"{name}.mp4").symlink_to(shared / "wlasl" / "rgb_format" / f"{name}.mp4")
    detector = PersonDetector(shared / "detector" / "yolox_nano.onnx")
    assert not extract(find_work(tmp_path, tmp_path / "poses"), detector, PoseNetwork(files[1])).bad
    for name in names:
        pose, frames = read_pose(tmp_path / "poses" / f"{name}.pkl"), read_video_info(tmp_path / f"{name}.mp4").frames
        assert pose.keypoints.shape == (frames, 133, 3)
        seen = pose.keypoints[pose.keypoints[..., 2] > 0]
        assert len(seen) and ((seen[:, :2] > -0.5) & (seen[:, :2] < 1.5)).all()


def test_pose_files_become_a_store(tmp_path, networks):
    pictures, hands = walk()
    write_video(tmp_path / "a.mp4", pictures)
    assert not extract(find_work(tmp_path, tmp_path / "poses"), *networks).bad
    (tmp_path / "labels.json").write_text(json.dumps([{"video": "a.mp4", "pose": "a.pkl", "text": "hello"}]))
    given = "unisign", tmp_path / "poses", tmp_path, tmp_path / "labels.json", tmp_path / "store"
    assert not convert(*given, language="en", split="train")
    store = KeypointStore.open(tmp_path / "store")
    points = store.keypoints(store.clips[0])[:, BLUE::3, :2] * (160, 120)
    assert np.abs(points - hands[:, None]).max() < 1


# --- whatever videos come


def write_mp4(path, pictures, fps=25, movflags="faststart", times=None):
    """Like video_files.write_video, but in 4:2:0 and with the index in front, so that the file can be cut."""
    height, width, _ = pictures[0].shape
    with av.open(str(path), "w", options={"movflags": movflags}) as container:
        video = container.add_stream("libx264", rate=fps, options={"crf": "10", "g": "5", "bf": "0"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        for t, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[t], Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode())
    return path


def noisy_walk(frames=30):
    """So that every frame has bytes to lose."""
    rng = np.random.default_rng(0)
    pictures, hands = walk(frames)
    for picture in pictures:
        picture[..., GREEN] = np.maximum(picture[..., GREEN], rng.integers(0, 60, picture.shape[:2], np.uint8))
    return pictures, hands


def cut_before(path, frame):
    """Ends the file where this frame's bytes begin."""
    with av.open(str(path)) as container:
        os.truncate(path, [p.pos for p in container.demux(video=0) if p.size][frame])


def refusal(action, *arguments, **options):
    with pytest.raises(InputError) as caught:
        action(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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


# --- a folder of videos, the command


def run_poses(*arguments, **environment):
    command = [sys.executable, str(ROOT / "launch" / "prepare.py"), "poses", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def options(tmp_path, files):
    return ["--videos", tmp_path, "--out", tmp_path / "poses", "--detector", files[0], "--pose-model", files[1]]


def test_the_command_reports_bad_videos_and_writes_the_rest_once(tmp_path, files):
    (tmp_path / "sub").mkdir()
    write_video(tmp_path / "good.mp4", walk()[0])
    write_video(tmp_path / "sub" / "good.mp4", walk()[0])
    write_video(tmp_path / "nobody.mp4", [black()] * 5)
    cut_before(write_mp4(tmp_path / "short.mp4", noisy_walk()[0]), 12)
    (tmp_path / "text.mp4").write_text("no video at all\n" * 100)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "poses").mkdir()
    (tmp_path / "poses" / "good.pkl.part").write_bytes(b"what a killed run left")
    done = run_poses(*options(tmp_path, files))
    assert done.returncode == 0, done.stderr
    assert "2 poses written, 0 there already, 4 videos left out" in done.stdout
    assert re.search(r"^18 frames in [0-9.]+ s: [0-9.]+ frames/s$", done.stdout, re.MULTILINE)
    lines = [line for line in done.stderr.splitlines() if line.startswith("left out: ")]
    for name, reason in {
        "nobody.mp4": "no person is found in its 5 frames",
        "short.mp4": "decodes only to frame 12 of 30",
        "text.mp4": "does not open as a video",
        "empty.mp4": "does not open as a video",
    }.items():
        assert [reason in line for line in lines if name in line] == [True], done.stderr
    poses = sorted((tmp_path / "poses").rglob("*.*"))
    assert poses == [tmp_path / "poses" / "good.pkl", tmp_path / "poses" / "sub" / "good.pkl"]
    assert read_pose(poses[0]).keypoints.shape == (9, 133, 3)
    assert pickle.loads(poses[0].read_bytes())["estimator"] == "pose.onnx"
    before = [path.stat().st_mtime_ns for path in poses]
    again = run_poses(*options(tmp_path, files))
    assert "0 poses written, 2 there already, 4 videos left out" in again.stdout
    assert [path.stat().st_mtime_ns for path in poses] == before


def test_wrong_arguments(tmp_path, files):
    assert "--videos: " in refusal(find_work, tmp_path / "missing", tmp_path / "poses")
    assert "holds no video" in refusal(find_work, tmp_path, tmp_path / "poses")
    for name in ("a.mp4", "a.avi"):
        (tmp_path / name).touch()
    assert "a.mp4: and" in refusal(find_work, tmp_path, tmp_path / "poses")
    assert "--workers: is 0" in refusal(extract, [], None, None, workers=0)
    assert "missing.onnx: is missing" in refusal(PoseNetwork, tmp_path / "missing.onnx")
    assert "is not an ONNX network" in refusal(PoseNetwork, tmp_path / "a.mp4")
    assert "is not a YOLOX detector" in refusal(PersonDetector, files[1])
    body_only = write_pose_network(tmp_path / "body.onnx", joints=17)
    assert "is no whole-body SimCC network: it answers [(1, 17, 576)" in refusal(PoseNetwork, body_only)


def test_a_device_that_is_not_there(files):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime knows CUDA")
    assert "device cuda: is not known" in refusal(PoseNetwork, files[1], device="cuda")


def test_offline_it_is_said_what_to_put_where(tmp_path):
    write_video(tmp_path / "v.mp4", walk(2)[0])
    nowhere = {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "no_proxy": "", "NO_PROXY": ""}
    done = run_poses("--videos", tmp_path, "--out", tmp_path / "poses", TORCH_HOME=str(tmp_path / "cache"), **nowhere)
    assert done.returncode == 2
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: https://download.openmmlab.com/") and "yolox_m" in error
    assert f"put it into {tmp_path}/cache/hub/checkpoints" in error and "--detector" in error
