"""Published poses and videos become a store; bad clips are named, counted and left out."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from refusals import refusal

from unisign_fast.pipelines.converters.convert import convert
from unisign_fast.pipelines.converters.labels.entry import without_suffix
from unisign_fast.pipelines.converters.unisign import read_pose
from unisign_fast.pipelines.crops.video import read_video_info
from unisign_fast.pipelines.store.keypoint_store import KeypointStore

ROOT = Path(__file__).resolve().parents[2]
FRAMES = 8


def write_video(path, frames=FRAMES, size=(64, 48), fps=30):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for i in range(frames):
            picture = np.full((size[1], size[0], 3), i * 20, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def make_pose(frames=FRAMES, persons=1, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "keypoints": [rng.random((persons, 133, 2)) for _ in range(frames)],
        "scores": [rng.random((persons, 133)).astype(np.float32) * 1.1 for _ in range(frames)],
        "w_h": [48, 64],  # swapped, as some files have it
    }


class Corpus:
    """A folder of poses, videos and a label list, all good until a test changes one."""

    def __init__(self, root, clips=3):
        self.poses, self.videos, self.labels = root / "poses", root / "videos", root / "labels.json"
        self.out = root / "store"
        self.poses.mkdir()
        self.videos.mkdir()
        self.rows = [{"video": f"c{i}.mp4", "pose": f"c{i}.pkl", "text": f"text {i}"} for i in range(clips)]
        for i in range(clips):
            self.write_pose(i, make_pose(seed=i))
            write_video(self.videos / f"c{i}.mp4")

    def write_pose(self, number, pose):
        (self.poses / f"c{number}.pkl").write_bytes(pickle.dumps(pose))

    def convert(self, split="train", **options):
        if not self.labels.exists():
            self.labels.write_text(json.dumps(self.rows), encoding="utf-8")
        bad = convert("unisign", self.poses, self.videos, self.labels, self.out, split=split, **options)
        store = KeypointStore.open(self.out)
        store.verify()
        return store, bad


@pytest.fixture
def corpus(tmp_path):
    return Corpus(tmp_path)


def test_a_corpus_becomes_a_store(corpus):
    store, bad = corpus.convert()
    assert not bad
    assert [clip.id for clip in store.clips] == ["c0", "c1", "c2"]
    for i, clip in enumerate(store.clips):
        assert (clip.text, clip.gloss, clip.language, clip.split) == (f"text {i}", "", "en", "train")
        assert (clip.width, clip.height, clip.fps, clip.frames, clip.video_start) == (64, 48, 30.0, FRAMES, 0)
        assert store.video(clip) == corpus.videos / f"c{i}.mp4"
        pose = make_pose(seed=i)
        expected = np.concatenate([np.stack(pose["keypoints"]), np.stack(pose["scores"])[..., None]], -1)[:, 0]
        assert expected[..., 2].max() > 1  # raw confidences
        np.testing.assert_allclose(store.keypoints(clip), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", [list, tuple])
def test_nested_lists_several_persons_and_nobody(tmp_path, kind):
    pose = make_pose(frames=4, persons=3)
    expected = np.stack([np.concatenate([k[0], s[0, :, None]], -1) for k, s in zip(pose["keypoints"], pose["scores"])])
    pose["keypoints"], pose["scores"] = (kind(x.tolist() for x in pose[name]) for name in ("keypoints", "scores"))
    pose["keypoints"], pose["scores"] = list(pose["keypoints"]), list(pose["scores"])
    pose["keypoints"][2] = pose["scores"][2] = []
    expected[2] = 0
    path = tmp_path / "pose.pkl"
    path.write_bytes(pickle.dumps(pose))
    np.testing.assert_allclose(read_pose(path).keypoints, expected, rtol=1e-6)


def test_start_and_end_give_the_range(corpus):
    corpus.write_pose(1, make_pose(seed=1) | {"start": 2, "end": 6})
    store, _ = corpus.convert()
    clip = store.clips[1]
    assert (clip.frames, clip.video_start, clip.video_frames) == (4, 2, FRAMES)
    expected = np.stack(make_pose(seed=1)["keypoints"])[2:6, 0]
    np.testing.assert_allclose(store.keypoints(clip)[..., :2], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("w_h", [None, [64, 48], [48, 64], [128, 96]])
def test_pixels_become_fractions_of_the_video_or_of_another_picture_that_w_h_names(corpus, w_h):
    fractions = np.stack(make_pose(seed=1)["keypoints"])[:, 0]
    size = w_h if w_h == [128, 96] else [64, 48]
    pose = make_pose(seed=1) | {"keypoints": [p * size for p in make_pose(seed=1)["keypoints"]], "w_h": w_h}
    corpus.write_pose(1, pose)
    store, bad = corpus.convert()
    assert not bad
    np.testing.assert_allclose(store.keypoints(store.clips[1])[..., :2], fractions, rtol=1e-3, atol=1e-4)


def test_without_videos_a_pickle_does_not_say_enough(tmp_path):
    corpus = Corpus(tmp_path, clips=1)
    corpus.videos = None
    assert "c0.pkl: does not say width, height and frames per second; give the videos" in refusal(corpus.convert)


@pytest.mark.parametrize("surplus, good", [(-1, False), (0, True), (1, True), (3, True), (4, False)])
def test_pose_and_video_of_different_length(tmp_path, surplus, good):
    corpus = Corpus(tmp_path, clips=1)
    corpus.write_pose(0, make_pose(frames=FRAMES + surplus))
    if good:
        store, _ = corpus.convert()
        assert store.clips[0].frames == FRAMES
    else:
        problem = f"c0.pkl: keypoints: has {FRAMES + surplus} frames, but its video has {FRAMES}"
        assert problem in refusal(corpus.convert)
        assert not (corpus.out / "store.json").exists()


def test_a_video_may_be_called_in_capitals(tmp_path):
    """Suffixes in upper case, as cameras write them; labels may have them, too."""
    corpus = Corpus(tmp_path, clips=1)
    video = corpus.videos / "c0.mp4"
    video.rename(video.with_suffix(".MP4"))
    store, bad = corpus.convert()
    assert not bad and store.video(store.clips[0]).name == "c0.MP4"
    assert without_suffix("A.1.MP4") == "A.1"


def test_poses_and_videos_may_lie_in_a_folder_per_split(corpus):
    for folder in (corpus.poses, corpus.videos):
        (folder / "dev").mkdir()
        for file in folder.glob("c*"):
            file.rename(folder / "dev" / file.name)
    store, _ = corpus.convert(split="dev")
    assert store.video(store.clips[0]) == corpus.videos / "dev" / "c0.mp4"


# --- bad clips


def truncate_pose(corpus):
    file = corpus.poses / "c1.pkl"
    os.truncate(file, file.stat().st_size // 2)


def truncate_video(corpus):
    file = corpus.videos / "c1.mp4"
    os.truncate(file, file.stat().st_size // 2)


def spoil_pose(**changes):
    return lambda corpus: corpus.write_pose(1, make_pose() | changes)


def nan_frame():
    points = make_pose()["keypoints"]
    points[5][0, 7, 1] = np.nan
    return points


BAD_CLIPS = {
    "c1.pkl: is missing": lambda corpus: (corpus.poses / "c1.pkl").unlink(),
    "c1.mp4: is missing": lambda corpus: (corpus.videos / "c1.mp4").unlink(),
    "c1.pkl: is not a complete pickle": truncate_pose,
    "c1.pkl: names": lambda corpus: (corpus.poses / "c1.pkl").write_bytes(pickle.dumps(os.system)),
    "c1.pkl: holds no dict": lambda corpus: corpus.write_pose(1, [1, 2]),
    "c1.pkl: keypoints: frame 5 has NaN": spoil_pose(keypoints=nan_frame()),
    "c1.pkl: keypoints: are neither pixels": spoil_pose(keypoints=[p / 1000 for p in make_pose()["keypoints"]]),
    "c1.pkl: scores: does not have one entry per frame": spoil_pose(scores=make_pose()["scores"][1:]),
    "c1.pkl: frame 0: keypoints (133, 2) are not": spoil_pose(keypoints=[p[0] for p in make_pose()["keypoints"]]),
    "c1.pkl: frame 0: is not an array": spoil_pose(scores=[["high"]] * FRAMES),
    "c1.pkl: start, end: the range 4 to 9 does not": spoil_pose(start=4, end=9),
    "labels.json: entry 1: text: is empty": lambda corpus: corpus.rows[1].update(text=" "),
    "c1.mp4: does not open as a video": truncate_video,
    "clip c0: was added before": lambda corpus: corpus.rows[1].update(corpus.rows[0]),
}


@pytest.mark.parametrize("expected", BAD_CLIPS)
def test_a_bad_clip_is_named_and_left_out(corpus, capfd, expected):
    BAD_CLIPS[expected](corpus)
    store, bad = corpus.convert(max_bad_share=0.34)
    assert [clip.id for clip in store.clips] == ["c0", "c2"]
    assert len(bad) == 1 and expected in str(bad[0])
    assert capfd.readouterr().err == f"left out: {bad[0]}\n"


def test_too_many_bad_clips_stop_the_conversion(corpus):
    truncate_pose(corpus)
    assert "1 of 3 clips are already bad, and --max-bad-share is 0.05" in refusal(corpus.convert)
    assert not (corpus.out / "store.json").exists()
    corpus.write_pose(1, make_pose())
    corpus.convert()


def test_a_corpus_of_only_bad_clips_writes_no_store(corpus):
    for file in corpus.poses.iterdir():
        file.unlink()
    assert "3 of 3 clips are already bad" in refusal(corpus.convert, max_bad_share=1)


def test_wrong_arguments(corpus):
    assert "--max-bad-share: is 2" in refusal(corpus.convert, max_bad_share=2)
    corpus.poses = corpus.poses / "missing"
    assert "--poses: " in refusal(corpus.convert)


# --- the command


def run_prepare(*arguments):
    command = [sys.executable, str(ROOT / "launch" / "prepare.py"), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_the_command_writes_a_store_and_refuses_to_write_it_again(corpus):
    corpus.labels.write_text(json.dumps(corpus.rows))
    options = ["--poses", corpus.poses, "--videos", corpus.videos, "--labels", corpus.labels, "--out", corpus.out]
    done = run_prepare(
        "convert", "--format", "unisign", *options, "--language", "en", "--split", "dev", "--local_rank=0"
    )
    assert done.returncode == 0, done.stderr
    assert "3 clips (train 0, dev 3, test 0), 24 frames" in done.stdout and "left out: 0" in done.stdout
    assert {clip.language for clip in KeypointStore.open(corpus.out).clips} == {"en"}
    again = run_prepare("convert", "--format", "unisign", *options)
    assert again.returncode == 2
    assert again.stderr.startswith(f"error: {corpus.out}: is already a store; ") and again.stderr.count("\n") == 1


# --- real files


def test_a_released_csl_news_clip(shared, tmp_path):
    folder = shared / "csl_news"
    labels = folder / "CSL_News_Labels.json"
    out = tmp_path / "store"
    assert not convert("unisign", folder / "pose_format", folder / "rgb_format", labels, out, split="train")
    store = KeypointStore.open(out)
    store.verify()
    (clip,) = store.clips
    assert (
        clip.language == "zh"
        and clip.id == "Common-Concerns_20200730_0-87_468436"
        and clip.text == "每天十八点为您直播的共同关注。"
    )
    assert (clip.frames, clip.width, clip.height, clip.fps) == (87, 204, 170, 30.0)
    keypoints = store.keypoints(clip)
    with open(folder / "pose_format" / f"{clip.id}.pkl", "rb") as file:
        pose = pickle.load(file)
    assert np.abs(keypoints[..., :2] - np.concatenate(pose["keypoints"])).max() < 0.125 / 170
    np.testing.assert_allclose(keypoints[..., 2], np.concatenate(pose["scores"]), rtol=1e-3)


def test_the_frame_count_is_what_a_decoder_returns(shared):
    for path in sorted((shared / "wlasl" / "rgb_format").glob("*.mp4")):
        with av.open(str(path)) as container:
            frames = sum(1 for _ in container.decode(video=0))
        assert read_video_info(path).frames == frames, path.name
