"""Poses, names and folders as they occur in practice: what `convert` accepts, and what it reports and leaves out."""

import pickle
import unicodedata
from pathlib import Path

import numpy as np
import pose_files
import pytest
from pose_files import make_keypoints
from refusals import refusal
from video_files import write_video

from unisign_fast.pipelines.batches.reader import ClipReader
from unisign_fast.pipelines.converters import mmpose, openpose, rtmlib, unisign
from unisign_fast.pipelines.converters.convert import convert
from unisign_fast.pipelines.converters.pose import make_pose, signer_of
from unisign_fast.pipelines.crops.video import VideoInfo
from unisign_fast.pipelines.file_names import NamedFiles
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.pipelines.store.keypoint_store import KeypointStore, KeypointStoreWriter

WIDTH, HEIGHT, FRAMES = 64, 48, 8
VIDEO = VideoInfo(WIDTH, HEIGHT, 25.0, FRAMES)
NOBODY = np.zeros((0, 133, 2), np.float32), np.zeros((0, 133), np.float32)


def write_clip(root: Path, name: str, keypoints, scores, **more) -> None:
    for folder in ("poses", "videos"):
        (root / folder).mkdir(exist_ok=True)
    content = {"keypoints": list(keypoints), "scores": list(scores), "w_h": [WIDTH, HEIGHT]} | more
    (root / "poses" / f"{name}.pkl").write_bytes(pickle.dumps(content))
    write_video(root / "videos" / f"{name}.mp4", [np.full((HEIGHT, WIDTH, 3), 20 * t, np.uint8) for t in range(FRAMES)])


def good(confidence: float = 0.9, scale: tuple[float, float] = (1, 1)):
    points = make_keypoints()[:, None, :, :2] * scale
    return points.astype(np.float32), np.full((FRAMES, 1, 133), confidence, np.float32)


def run(root: Path, names: list[str] | None = None, **options):
    labels = None
    if names is not None:
        labels = root / "labels.csv"
        labels.write_text("name,text,split\n" + "".join(f"{name},hello,train\n" for name in names), encoding="utf-8")
    bad = convert("unisign", root / "poses", root / "videos", labels, root / "store", max_bad_share=0.9, **options)
    return KeypointStore.open(root / "store"), bad


# --- no person, and pixels of low confidence


def test_a_clip_without_anybody_is_named_and_left_out(tmp_path):
    write_clip(tmp_path, "good", *good())
    write_clip(tmp_path, "nobody", [NOBODY[0]] * FRAMES, [NOBODY[1]] * FRAMES)
    write_clip(tmp_path, "unsure", *good(confidence=0))
    feet = good()[1]
    feet[..., np.r_[0:17, 23:133]] = 0  # joints that the model does not see
    write_clip(tmp_path, "feet", good()[0], feet)
    store, bad = run(tmp_path, ["good", "nobody", "unsure", "feet"])
    assert [clip.id for clip in store.clips] == ["good"]
    for name, error in zip(("nobody", "unsure", "feet"), bad, strict=True):
        assert f"{name}.pkl: keypoints: nobody is found in any of {FRAMES} frames" in str(error)


def test_a_part_of_a_recording_without_anybody_is_left_out(tmp_path):
    points, scores = good()
    scores[4:] = 0
    write_clip(tmp_path, "talk", points, scores)
    rows = "".join(f"talk\tt{i}\ttalk\tt{i}\t{i * 0.16}\t{(i + 1) * 0.16}\thello\n" for i in range(2))
    head = "VIDEO_ID\tSENTENCE_ID\tVIDEO_NAME\tSENTENCE_NAME\tSTART_REALIGNED\tEND_REALIGNED\tSENTENCE\n"
    (tmp_path / "how2sign_realigned_train.csv").write_text(head + rows)
    bad = convert(
        "unisign", tmp_path / "poses", tmp_path / "videos", tmp_path / "how2sign_realigned_train.csv",
        tmp_path / "store", max_bad_share=0.9,
    )  # fmt: skip
    assert [clip.frames for clip in KeypointStore.open(tmp_path / "store").clips] == [4]
    assert len(bad) == 1 and "clip t1: keypoints: nobody is found in any of 4 frames" in str(bad[0])


def test_a_clip_of_which_less_than_half_is_in_the_video_is_named(tmp_path, capsys):
    write_clip(tmp_path, "talk", *good())  # 0.32 s
    rows = "".join(f"talk\tt{end}\ttalk\tt{end}\t0.16\t{end}\thello\n" for end in (0.32, 0.4, 20))
    head = "VIDEO_ID\tSENTENCE_ID\tVIDEO_NAME\tSENTENCE_NAME\tSTART_REALIGNED\tEND_REALIGNED\tSENTENCE\n"
    labels = tmp_path / "how2sign_realigned_train.csv"
    labels.write_text(head + rows)
    assert not convert("unisign", tmp_path / "poses", tmp_path / "videos", labels, tmp_path / "store")
    assert [clip.frames for clip in KeypointStore.open(tmp_path / "store").clips] == [4, 4, 4]
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: clip t20: end: less than half of 0.16 to 20.0 s is in ")


def test_no_reader_of_clips_takes_one_without_anybody(tmp_path):
    """Stores of earlier versions have such clips; neither training nor translation may use them."""
    source = {"estimator": "e", "version": "v", "coordinates": "c"}
    with KeypointStoreWriter(tmp_path / "store", source) as writer:
        for name, confidence in (("empty", 0.0), ("good", 0.9)):
            keypoints = make_keypoints()
            keypoints[..., 2] = confidence
            fields = {
                "split": "train",
                "language": "en",
                "text": "hello",
                "fps": 25.0,
                "width": WIDTH,
                "height": HEIGHT,
            }
            writer.add(keypoints, id=name, **fields)

    class Words:
        fingerprint = "words"

        def target_ids(self, text):
            return [1]

        def prompt_ids(self, language):
            return [2]

    reader = ClipReader([KeypointStore.open(tmp_path / "store")], DataSettings(p_samp=0), Words())
    loaded = reader.batch(reader.clips("train"), range(2), epoch=0, training=False)
    assert loaded.batch.clip_ids == ["good"]
    assert "clip empty: keypoints: nobody is found in any of 8 frames" in str(loaded.bad[0].error)


@pytest.mark.parametrize("confidence", [0.01, 0.25, 0.9])
def test_pixels_are_found_whatever_their_confidence(tmp_path, confidence):
    write_clip(tmp_path, "pixels", *good(confidence, (WIDTH, HEIGHT)))
    store, _ = run(tmp_path, ["pixels"])
    np.testing.assert_allclose(store.keypoints(store.clips[0])[..., :2], make_keypoints()[..., :2], atol=1e-3)


def test_the_signer_is_found_among_people_of_whom_nobody_is_sure():
    signer, other = make_keypoints(1, size=0.5), make_keypoints(2, centre=(0.9, 0.5), size=0.1)
    signer[..., 2] = other[..., 2] = 0.2
    persons = [np.stack([other[t], signer[t]]) for t in range(FRAMES)]
    np.testing.assert_allclose(signer_of(persons), signer, rtol=1e-6)


def test_pixels_of_a_video_that_changes_size_are_refused():
    video = VideoInfo(WIDTH, HEIGHT, 25.0, FRAMES, resized=True)
    assert make_pose(make_keypoints(), "f", video).file_frames == FRAMES
    message = "f: keypoints: are pixels, and the picture of its video changes size"
    assert message in refusal(make_pose, make_keypoints() * (WIDTH, HEIGHT, 1), "f", video)


@pytest.mark.parametrize(
    "where, expected",
    [
        (np.s_[::4], "frame 0 is in pixels"),
        (np.s_[1:], "frame 0 is in fractions"),
        (np.s_[:, 112:], "the right hand is in"),
    ],
)
def test_pixels_beside_fractions_are_refused(where, expected):
    keypoints, video = make_keypoints(), VideoInfo(WIDTH, HEIGHT, 25.0, FRAMES)
    keypoints[where] *= (WIDTH, HEIGHT, 1)
    assert expected in refusal(make_pose, keypoints, "f", video)


def test_coordinates_around_zero_are_refused():
    normalised = (make_keypoints() - (0.5, 0.5, 0)) * (2, 2, 1)
    video = VideoInfo(WIDTH, HEIGHT, 25.0, FRAMES)
    assert "most lie outside it" in refusal(make_pose, normalised, "f", video)


# --- damaged and hostile files


HUGE = 10**200
BROKEN = {
    "a number, not a list": {"keypoints": np.array(1.0), "scores": np.array(1.0)},
    "ragged scores": {"scores": [np.zeros((1, 133))] * (FRAMES - 1) + [[[0.5] * 132]]},
    "huge numbers": {"keypoints": [[[[HUGE, 1]] * 133]] * FRAMES},
    "infinite numbers": {"keypoints": [[[[float("inf"), 1]] * 133]] * FRAMES},
    "texts": {"keypoints": [[[["a", "b"]] * 133]] * FRAMES},
    "no frames": {"keypoints": [], "scores": []},
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("reader", [unisign, rtmlib])
def test_broken_pickles_end_in_one_line(tmp_path, kind, reader):
    points, scores = good()
    content = {"keypoints": list(points), "scores": list(scores)} | BROKEN[kind]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    assert "a.pkl" in refusal(reader.read_pose, tmp_path / "a.pkl", VIDEO)


@pytest.mark.parametrize("w_h", [[float("inf"), 1], [2**60, 2**60], np.array(3), [-1, 5], "wide", [2**20, 1]])
def test_an_impossible_size_in_a_pose_file_is_passed_over(tmp_path, w_h):
    write_clip(tmp_path, "a", *good(scale=(WIDTH, HEIGHT)), w_h=w_h)
    pose = unisign.read_pose(tmp_path / "poses" / "a.pkl", VIDEO)
    np.testing.assert_allclose(pose.keypoints[..., :2], make_keypoints()[..., :2], atol=1e-6)


JSON = {
    "deep": "[" * 100000 + "]" * 100000,
    "a long number": '[{"frame_id": 0, "instances": [{"keypoints": [['
    + "9" * 5000
    + ', 1]], "keypoint_scores": [1]}]}]',
    "infinity": '[{"frame_id": 0, "instances": [{"keypoints": [[Infinity, 1]], "keypoint_scores": [1]}]}]',
    "a number": "3",
    "a text for a frame": '[{"frame_id": "0", "instances": []}]',
}


@pytest.mark.parametrize("kind", JSON)
@pytest.mark.parametrize("reader", [mmpose, rtmlib])
def test_broken_json_ends_in_one_line(tmp_path, kind, reader):
    (tmp_path / "a.json").write_text(JSON[kind])
    assert "a.json" in refusal(reader.read_pose, tmp_path / "a.json", VIDEO)


# --- OpenPose's folders


def test_a_folder_of_openpose_is_one_videos(tmp_path):
    pose_files.write_openpose(tmp_path / "clip", [[frame] for frame in make_keypoints()])
    expected = openpose.read_pose(tmp_path / "clip", VIDEO).keypoints
    for file in list((tmp_path / "clip").iterdir()):
        (file.parent / f"._{file.name}").write_bytes(b"\0\5\26\7")  # as macOS writes on foreign disks
    np.testing.assert_array_equal(openpose.read_pose(tmp_path / "clip", VIDEO).keypoints, expected)
    for file in list((tmp_path / "clip").glob("clip_*")):
        (file.parent / f"other{file.name[4:]}").write_text(file.read_text())
    message = "clip: holds the frames of 2 videos (clip, other, ...); put each video's files into a separate folder"
    assert message in refusal(openpose.read_pose, tmp_path / "clip", VIDEO)


BROKEN_PEOPLE = ["[]", '{"people": 3}', '{"people": [[]]}', "[" * 5000, '{"people": [{"pose_keypoints_2d": 1e999}]}']


@pytest.mark.parametrize("content", BROKEN_PEOPLE)
def test_broken_openpose_ends_in_one_line(tmp_path, content):
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "clip_0_keypoints.json").write_text(content)
    assert "clip_0_keypoints.json" in refusal(openpose.read_pose, tmp_path / "clip", VIDEO)
    assert "clip_0_keypoints.json: " in refusal(openpose.read_pose, tmp_path / "clip" / "clip_0_keypoints.json", VIDEO)


# --- names


@pytest.mark.parametrize("label_form", ["NFC", "NFD"])
@pytest.mark.parametrize("pose_form", ["NFC", "NFD"])
def test_names_are_equal_under_normalisation(tmp_path, label_form, pose_form):
    other = "NFD" if pose_form == "NFC" else "NFC"
    name = "grün-Gebärde-が"
    write_clip(tmp_path, unicodedata.normalize(pose_form, name), *good())
    (video,) = (tmp_path / "videos").iterdir()
    video.rename(video.with_name(unicodedata.normalize(other, video.name)))
    store, bad = run(tmp_path, [unicodedata.normalize(label_form, name)])
    assert not bad and len(store.clips) == 1
    assert store.video(store.clips[0]).is_file()


def test_names_that_no_file_can_have_stop_nobody_else(tmp_path):
    write_clip(tmp_path, "good", *good())
    store, bad = run(tmp_path, ["good", "x" * 5000, "ü" * 300])
    assert [clip.id for clip in store.clips] == ["good"]
    assert all("has a name of more than 240 bytes" in str(error) for error in bad) and len(bad) == 2
    files = NamedFiles(tmp_path / "poses")
    assert files.find("good.pkl") and not any(map(files.find, ("x" * 5000, "ü" * 300, "a\0b", "nowhere")))


# --- without labels


def test_poses_without_labels_become_clips_without_text(tmp_path):
    for name in ("a", "b", "nobody"):
        write_clip(tmp_path, name, *(good() if name != "nobody" else good(confidence=0)))
    (tmp_path / "poses" / "._a.pkl").write_bytes(b"\0\5\26\7")
    store, bad = run(tmp_path)
    assert [(clip.id, clip.split, clip.text) for clip in store.clips] == [
        ("a", "unlabelled", ""),
        ("b", "unlabelled", ""),
    ]
    assert len(bad) == 1 and "nobody.pkl" in str(bad[0])
    store.verify()
    assert store.clips.numbers_in("unlabelled").tolist() == [0, 1]
    reader = ClipReader([store], DataSettings(p_samp=0), type("Tokenizer", (), {"fingerprint": "none"}))
    assert "no clip is 'train', 2 have no label" in refusal(reader.clips, "train")


def test_openpose_without_labels(tmp_path):
    pose_files.write_openpose(tmp_path / "poses" / "a", [[frame] for frame in make_keypoints()])
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "a.mp4", [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * FRAMES)
    assert not convert("openpose", tmp_path / "poses", tmp_path / "videos", None, tmp_path / "store")
    assert [clip.id for clip in KeypointStore.open(tmp_path / "store").clips] == ["a"]


def test_options_of_labels_need_labels(tmp_path):
    write_clip(tmp_path, "a", *good())
    assert "--split: is given without labels" in refusal(run, tmp_path, split="train")
    assert "--classes: is given without labels" in refusal(run, tmp_path, classes=3)
    (tmp_path / "none").mkdir()
    assert "holds no .json" in refusal(convert, "mmpose", tmp_path / "none", None, None, tmp_path / "store")
    assert not (tmp_path / "store").exists()
