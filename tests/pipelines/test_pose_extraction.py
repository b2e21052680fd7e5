"""A folder of videos becomes pose files: whole or not at all; bad videos are named and left out."""

import json
import os
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from refusals import refusal
from video_files import cut_before, write_mp4, write_video

from unisign_fast.pipelines.converters.convert import convert
from unisign_fast.pipelines.converters.unisign import read_pose
from unisign_fast.pipelines.crops.video import read_video_info
from unisign_fast.pipelines.store.keypoint_store import KeypointStore

pytest.importorskip("rtmlib", reason="pose estimation needs the extra `poses`", exc_type=ImportError)
from pose_networks import BLUE, black, noisy_walk, walk, write_pose_network

from unisign_fast.pipelines.pose_estimation.extraction import extract, find_work
from unisign_fast.pipelines.pose_estimation.networks import PersonDetector, PoseNetwork


def test_a_network_that_fails_on_one_video_stops_no_other(tmp_path, networks):
    write_video(tmp_path / "a.mp4", walk()[0])
    write_video(tmp_path / "b.mp4", walk(size=(100, 100))[0])

    class Failing:
        batch = 1

        def __call__(self, pictures):
            if pictures and pictures[0].shape[1] == 100:
                raise RuntimeError("out of memory\nand more")
            return networks[0](pictures)

    result = extract(find_work(tmp_path, tmp_path / "poses"), Failing(), networks[1])
    assert [str(error) for error in result.bad] == [
        f"{tmp_path}/b.mp4: its poses cannot be estimated (RuntimeError: out of memory); leave it out"
    ]
    assert (tmp_path / "poses" / "a.pkl").exists() and result.frames == 9 and result.rate > 0


def test_real_clips_become_poses(shared, tmp_path, network_files):
    names = ["02233", "15753"]  # the headers declare a frame more than there is
    for name in names:
        (tmp_path / f"{name}.mp4").symlink_to(shared / "wlasl" / "rgb_format" / f"{name}.mp4")
    detector = PersonDetector(shared / "detector" / "yolox_nano.onnx")
    assert not extract(find_work(tmp_path, tmp_path / "poses"), detector, PoseNetwork(network_files[1])).bad
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


# --- a folder of videos, the command


def run_poses(*arguments, **environment):
    command = [sys.executable, str(ROOT / "launch" / "prepare.py"), "poses", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def options(tmp_path, network_files):
    return [
        "--videos",
        tmp_path,
        "--out",
        tmp_path / "poses",
        "--detector",
        network_files[0],
        "--pose-model",
        network_files[1],
    ]


def test_the_command_reports_bad_videos_and_writes_the_rest_once(tmp_path, network_files):
    (tmp_path / "sub").mkdir()
    write_video(tmp_path / "good.mp4", walk()[0])
    write_video(tmp_path / "sub" / "good.mp4", walk()[0])
    write_video(tmp_path / "nobody.mp4", [black()] * 5)
    cut_before(write_mp4(tmp_path / "short.mp4", noisy_walk()[0]), 12)
    (tmp_path / "text.mp4").write_text("no video at all\n" * 100)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "poses").mkdir()
    (tmp_path / "poses" / "good.pkl.part").write_bytes(b"what a killed run left")
    done = run_poses(*options(tmp_path, network_files))
    assert done.returncode == 0, done.stderr
    assert "2 poses written, 0 already there, 4 videos left out" in done.stdout
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
    again = run_poses(*options(tmp_path, network_files))
    assert "0 poses written, 2 already there, 4 videos left out" in again.stdout
    assert [path.stat().st_mtime_ns for path in poses] == before


def test_wrong_arguments(tmp_path, network_files):
    assert "--videos: " in refusal(find_work, tmp_path / "missing", tmp_path / "poses")
    assert "holds no video" in refusal(find_work, tmp_path, tmp_path / "poses")
    for name in ("a.mp4", "a.avi"):
        (tmp_path / name).touch()
    assert "a.mp4: and" in refusal(find_work, tmp_path, tmp_path / "poses")
    assert "--workers: is 0" in refusal(extract, [], None, None, workers=0)
    assert "missing.onnx: is missing" in refusal(PoseNetwork, tmp_path / "missing.onnx")
    assert "is not an ONNX network" in refusal(PoseNetwork, tmp_path / "a.mp4")
    assert "is not a YOLOX detector" in refusal(PersonDetector, network_files[1])
    body_only = write_pose_network(tmp_path / "body.onnx", joints=17)
    assert "is not a whole-body SimCC network: it returns [(1, 17, 576)" in refusal(PoseNetwork, body_only)


def test_a_device_that_is_not_there(network_files):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime knows CUDA")
    assert "device cuda: is not known" in refusal(PoseNetwork, network_files[1], device="cuda")


def test_cuda_is_loaded_from_packages_before_a_session_is_made(network_files, monkeypatch):
    """onnxruntime finds CUDA's libraries by itself only if the system has them, or torch has loaded them."""
    import onnxruntime

    calls = []
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: calls.append("preload"))
    monkeypatch.setattr("rtmlib.RTMPose", lambda *args, **more: calls.append("session") or Session)
    assert "device cuda: does not work here" in refusal(PoseNetwork, network_files[1], device="cuda")
    assert calls == ["preload", "session"]


class Session:
    """A network that onnxruntime has put on the CPU."""

    class session:
        @staticmethod
        def get_providers() -> list[str]:
            return ["CPUExecutionProvider"]


def test_offline_the_message_names_the_files_and_their_places(tmp_path):
    write_video(tmp_path / "v.mp4", walk(2)[0])
    nowhere = {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "no_proxy": "", "NO_PROXY": ""}
    done = run_poses("--videos", tmp_path, "--out", tmp_path / "poses", TORCH_HOME=str(tmp_path / "cache"), **nowhere)
    assert done.returncode == 2
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: https://download.openmmlab.com/") and "yolox_m" in error
    assert "rtmw-dw-x-l" in error.split(": the weights")[0]  # one trip to another machine is enough
    assert f"put it into {tmp_path}/cache/hub/checkpoints" in error
    assert error.endswith("or give ONNX files with --detector and --pose-model")
    done = run_poses(
        *("--videos", tmp_path, "--out", tmp_path / "poses", "--detector", tmp_path / "v.mp4"),
        **nowhere,
        TORCH_HOME=str(tmp_path / "cache"),
    )
    error = done.stderr.splitlines()[-1]
    assert "yolox" not in error and error.endswith("or give ONNX files with --pose-model")
