"""Videos outside any store, and cameras: keypoints are estimated, and the texts are those of the separate steps."""

import csv
from pathlib import Path

import numpy as np
import pytest
from translation_parts import MAX_FRAMES, SIDE, Run, lines, translate_command, translations, write_models
from video_files import write_video

from unisign_fast.inference.translator import Translator
from unisign_fast.pipelines.converters.convert import convert


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def run(capfd) -> Run:
    return translate_command(capfd)


@pytest.fixture(scope="module")
def pose_options(tmp_path_factory) -> list:
    pytest.importorskip("rtmlib", reason="pose estimation needs the extra `poses`", exc_type=ImportError)
    from pose_networks import write_detector, write_pose_network

    folder = tmp_path_factory.mktemp("networks")
    detector, network = write_detector(folder / "detector.onnx"), write_pose_network(folder / "pose.onnx")
    return ["--detector", detector, "--pose-model", network]


def test_videos_outside_stores_give_the_texts_of_the_separate_steps(run, models, pose_options, tmp_path, monkeypatch):
    """With an RGB model and another language; a video without a person is left out. The clip's name seeds the sampling
    of hands, so it is the same on both ways."""
    monkeypatch.chdir(tmp_path)
    from pose_networks import black, walk

    from unisign_fast.pipelines.pose_estimation.extraction import extract, find_work
    from unisign_fast.pipelines.pose_estimation.networks import PersonDetector, PoseNetwork

    video, empty = write_video(tmp_path / "walk.mp4", walk(24)[0]), write_video(tmp_path / "b.mp4", [black()] * 3)
    done = run("--model", models["rgb"], "--language", "fr", empty, video.name, *pose_options)
    (row,) = lines(done)
    assert f"left out: {empty}: no person is found" in done.error and done.error.endswith("left out: 1\n")
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([["name", "text"], [video.name, "?"]])
    networks = PersonDetector(pose_options[1]), PoseNetwork(pose_options[3])
    assert len(extract(find_work(tmp_path, tmp_path), *networks).bad) == 1
    given = "unisign", tmp_path, tmp_path, tmp_path / "labels.csv", tmp_path / "store"
    assert not convert(*given, language="fr", split="test")
    (expected,) = translations(Translator(models["rgb"]), tmp_path / "store")
    assert (row["text"], row["score"]) == (expected.text, pytest.approx(expected.score, abs=2e-3))
    assert (row["file"], row["start"], row["end"]) == (video.name, 0, 24 / 25)


def test_nobody_in_the_only_video(run, models, pose_options, tmp_path):
    from pose_networks import black

    video = write_video(tmp_path / "b.mp4", [black()] * 3)
    done = run("--model", models["pose"], "--language", "en", video, *pose_options)
    assert done.status == 2 and done.output == ""
    assert "no person is found" in done.error and "error: translate: nothing is translated, 1 left out" in done.error
    done = run("--model", models["pose"], video, *pose_options)
    assert done.status == 2 and "error: --language: neither model nor inputs determine" in done.error


@pytest.mark.parametrize("modality", ["pose", "rgb"])
def test_a_file_as_camera_ends_with_the_text_of_the_video(run, models, pose_options, tmp_path, modality):
    """The camera is read frame by frame; the last window is the whole video, with its hands as JPEG. The clip's name,
    which seeds the sampling of hands, differs, so an RGB model may end with another text."""
    from pose_networks import walk

    video = write_video(tmp_path / "walk.mp4", walk(2 * MAX_FRAMES)[0])
    common = "--model", models[modality], "--language", "en", *pose_options
    (expected,) = lines(run(*common, video))
    result = lines(run(*common, "--live", video))
    texts = [row["text"] for row in result]
    assert all(a != b for a, b in zip(texts, texts[1:])) and texts and expected["text"]
    if modality == "pose":
        assert texts[-1] == expected["text"] and result[-1]["score"] == pytest.approx(expected["score"], abs=0.05)
    assert result[-1]["file"] == str(video) and 0 <= result[-1]["start"] < result[-1]["end"]


def test_no_camera(run, models, pose_options):
    """Detected before model or networks are opened."""
    done = run("--model", "nobody/nothing", "--live", "97", "--detector", "none.onnx")
    assert done.status == 2 and done.output == ""
    assert done.error.splitlines()[-1].startswith("error: --live 97: no picture comes from such a camera; plug it in")


def test_missing_weights_are_named_with_their_place(run, models, pose_options, tmp_path, monkeypatch):
    video = write_video(tmp_path / "v.mp4", [np.zeros((SIDE, SIDE, 3), np.uint8)] * 3)
    nowhere = {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "no_proxy": "", "NO_PROXY": ""}
    for name, value in ({"TORCH_HOME": str(tmp_path / "cache")} | nowhere).items():
        monkeypatch.setenv(name, value)
    done = run("--model", "no/such", video)
    assert done.status == 2
    model, error = done.error.splitlines()[-2:]
    assert model.startswith("error: no/such: is not a folder"), "everything that is missing is named at once"
    assert f"put it into {tmp_path}/cache/hub/checkpoints" in error and "--detector" in error
