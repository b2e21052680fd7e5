"""Poses of other projects, videos and labels become a store; bad clips are named, counted and left out."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pose_files
import pytest
from pose_files import FPS, FRAMES, HEIGHT, WIDTH, in_pixels, make_keypoints
from refusals import refusal
from video_files import write_video

from unisign_fast.pipelines.converters import dot_pose
from unisign_fast.pipelines.converters.convert import convert
from unisign_fast.pipelines.converters.formats import POSE_FORMATS, pose_format
from unisign_fast.pipelines.store.keypoint_store import KeypointStore


def one_person(keypoints):
    return [frame[None] for frame in in_pixels(keypoints)]


DOT_POSE = ("pose", "holistic75")


def write_pose(format, path: Path, seed):
    """A clip of one person in a format, as `path` with the format's suffix."""
    persons = one_person(make_keypoints(seed))
    if format == "mmpose":
        pose_files.write_mmpose(path.with_suffix(".json"), persons)
    elif format.startswith("openpose"):
        pose_files.write_openpose(path, persons)
    elif format in DOT_POSE:
        data, confidence, _ = pose_files.make_holistic(seed)
        pose_files.write_dot_pose(path.with_suffix(".pose"), data, confidence)
    else:
        pose_files.write_rtmlib(path.with_suffix(".pkl"), persons)


def break_pose(format, folder):
    path = next(folder.glob("c1*"))
    if path.is_dir():
        shutil.rmtree(path)
        path.mkdir()
    else:
        os.truncate(path, path.stat().st_size // 2)
    return path.name


def write_corpus(root, format):
    for name in ("poses", "videos"):
        (root / name).mkdir()
    for i in range(4):
        write_pose(format, root / "poses" / f"c{i}", i)
        write_video(
            root / "videos" / f"c{i}.mp4", [np.full((HEIGHT, WIDTH, 3), 9 * t, np.uint8) for t in range(FRAMES)]
        )
    rows = [{"video": f"c{i}.mp4", "text": "茶"} for i in (0, 1, 2, 3, 0)]
    (root / "labels.json").write_text(json.dumps(rows))
    return root / "poses", root / "videos", root / "labels.json", root / "store"


def test_texts_in_another_script_than_the_languages_are_warned_of(tmp_path, capfd):
    poses, videos, labels, out = write_corpus(tmp_path, "unisign")
    labels.write_text(labels.read_text().replace("\\u8336", "чай"))
    convert("unisign", poses, videos, labels, out, split="train", max_bad_share=0.5)
    warning = "warning: texts in en: 100% of the letters are not in the script of English; most are CYRILLIC; "
    assert warning in capfd.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize("format", POSE_FORMATS)
def test_a_corpus_with_a_broken_clip_and_a_name_twice(tmp_path, capfd, format):
    poses, videos, labels, out = write_corpus(tmp_path, format)
    broken = break_pose(format, poses)
    bad = convert(format, poses, videos, labels, out, split="train", max_bad_share=0.5)
    store = KeypointStore.open(out)
    store.verify()
    assert [clip.id for clip in store.clips] == ["c0", "c2", "c3"] and store.clips[0].language == "zh"
    assert [broken in str(error) for error in bad] == [True, False] and "c0: was added before" in str(bad[1])
    assert capfd.readouterr().err.count("left out: ") == 2
    assert store.keypoint_source == pose_format(format).SOURCE
    if format not in (*DOT_POSE, "openpose137"):
        np.testing.assert_allclose(store.keypoints(store.clips[1]), make_keypoints(2), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("folder", ["", "train/"])
def test_mmpose_demos_put_results_before_the_name(tmp_path, folder):
    poses, videos, labels, out = write_corpus(tmp_path, "mmpose")
    (poses / folder).mkdir(exist_ok=True)
    for path in poses.glob("*.json"):
        path.rename(poses / folder / f"results_{path.name}")
    convert("mmpose", poses, videos, labels, out, split="train", max_bad_share=0.2)
    assert [clip.id for clip in KeypointStore.open(out).clips] == ["c0", "c1", "c2", "c3"]
    if not folder:
        convert("mmpose", poses, videos, None, tmp_path / "unlabelled")
        assert [clip.id for clip in KeypointStore.open(tmp_path / "unlabelled").clips] == ["c0", "c1", "c2", "c3"]
    message = refusal(convert, "unisign", poses, videos, labels, tmp_path / "other", split="train", max_bad_share=0.2)
    assert "2 of 5 clips are already bad" in message  # other formats' files have the clip's name


def test_only_dot_pose_can_do_without_videos(tmp_path):
    poses, _, labels, out = write_corpus(tmp_path, "pose")
    convert("pose", poses, None, labels, out, split="train", max_bad_share=0.5)
    clip = KeypointStore.open(out).clips[0]
    assert (clip.width, clip.height, clip.fps, clip.source) == (WIDTH, HEIGHT, FPS, "")
    pose_files.write_mmpose(tmp_path / "poses" / "c0.json", one_person(make_keypoints()))
    labels.write_text(json.dumps([{"video": "c0", "text": "a"}]))
    message = refusal(convert, "mmpose", poses, None, labels, tmp_path / "other", split="train")
    assert "c0.json: keypoints: are pixels, and nothing says of how large a picture; give the videos" in message


def table(*rows):
    header = "VIDEO_NAME,SENTENCE_NAME,START_REALIGNED,END_REALIGNED,SENTENCE"
    return "\n".join([header, *(",".join(map(str, row)) for row in rows)])


@pytest.mark.parametrize("videos", [True, False])
def test_clips_that_are_parts_of_a_recording(tmp_path, videos):
    poses, folder, _, out = write_corpus(tmp_path, "pose")
    labels = tmp_path / "how2sign_realigned_val.csv"
    rows = [("c2", "-c2_0", 0, 0.12, "One."), ("c2", "-c2_1", 0.12, 9, "Two."), ("c2", "-c2_2", 9, 10, "Never.")]
    labels.write_text(table(*rows))
    bad = convert("pose", poses, folder if videos else None, labels, out, max_bad_share=0.5)
    store = KeypointStore.open(out)
    one, two = store.clips
    assert (one.frames, one.video_start, two.frames, two.video_start) == (3, 0, 5, 3)
    assert (one.id, one.split, one.language, one.video_frames) == ("-c2_0", "dev", "en", FRAMES)
    whole = dot_pose.read_pose(poses / "c2.pose").keypoints
    np.testing.assert_allclose(store.keypoints(two), whole[3:], rtol=1e-3, atol=1e-6)
    assert len(bad) == 1 and "has no frame from 9.0 to 10.0 s" in str(bad[0])


def test_the_pose_of_a_clip_and_the_video_of_the_recording(tmp_path):
    poses, videos, _, out = write_corpus(tmp_path, "mmpose")
    pose_files.write_mmpose(poses / "c2_0.json", one_person(make_keypoints(frames=4)))
    labels = tmp_path / "how2sign_realigned_test.csv"
    labels.write_text(table(("c2", "c2_0", 0.08, 0.24, "One.")))
    convert("mmpose", poses, videos, labels, out)
    (clip,) = KeypointStore.open(out).clips
    assert (clip.frames, clip.video_start, clip.video_frames) == (4, 2, FRAMES)
    write_video(videos / "c3_0.mp4", [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * 4)
    labels.write_text(table(("c3", "c3_0", 0.08, 0.24, "One.")))
    message = refusal(convert, "mmpose", poses, videos, labels, tmp_path / "other")
    assert "c3.json: covers the whole recording, but its video only the clip" in message
    labels.write_text(table(("c9", "c9_0", 0.08, 0.24, "One.")))
    message = refusal(convert, "mmpose", poses, videos, labels, tmp_path / "other")
    assert "c9_0.mp4: is missing (nor with .webm, " in message and "), nor is its recording c9" in message
