"""The keypoint store gives back what was written, and notices what was lost."""

import json
import os

import numpy as np
import pytest

from pipelines.errors import InputError
from pipelines.keypoint_store import SHARD_FRAMES, KeypointStore, KeypointStoreWriter
from pipelines.manifest import Clip, read_manifest

SOURCE = {"estimator": "random numbers", "version": "1", "coordinates": "x / width, y / height"}
FIELDS = {"split": "train", "language": "zh", "text": "你好", "fps": 25.0, "width": 512, "height": 384}


def write_store(path, lengths=(3, 300, 1), zeros=False):
    rng = np.random.default_rng(0)
    clips = [np.zeros((n, 133, 3)) if zeros else rng.random((n, 133, 3)) * 1.2 for n in lengths]
    with KeypointStoreWriter(path, SOURCE) as writer:
        for i, keypoints in enumerate(clips):
            writer.add(keypoints, id=f"clip{i}", **FIELDS)
    return clips


def shard(path, number=0):
    return path / "keypoints.zarr" / "c" / str(number) / "0" / "0"


def refusal(action, *arguments):
    with pytest.raises(InputError) as caught:
        action(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_clips_come_back_in_float16(tmp_path):
    written = write_store(tmp_path / "store")
    store = KeypointStore.open(tmp_path / "store")
    assert [clip.frames for clip in store.clips] == [3, 300, 1]
    assert [clip.first_frame for clip in store.clips] == [0, 3, 303]
    assert store.keypoint_source == SOURCE
    for clip, keypoints in zip(store.clips, written, strict=True):
        read = store.keypoints(clip)
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, keypoints.astype(np.float16).astype(np.float32))
    store.verify()


def test_clips_cross_shard_borders_and_shards_are_their_chunks_in_order(tmp_path):
    lengths = (SHARD_FRAMES - 100, 250, SHARD_FRAMES + 700, 5)
    written = write_store(tmp_path / "store", lengths)
    store = KeypointStore.open(tmp_path / "store")
    for clip, keypoints in zip(store.clips, written, strict=True):
        np.testing.assert_array_equal(store.keypoints(clip), keypoints.astype(np.float16).astype(np.float32))
    frames = np.concatenate(written).astype(np.float16)
    for number in range(3):
        expected = frames[number * SHARD_FRAMES : (number + 1) * SHARD_FRAMES].tobytes()
        assert shard(tmp_path / "store", number).read_bytes()[: len(expected)] == expected


def test_all_fields_of_a_clip_come_back(tmp_path):
    more = {
        "gloss": "你 好", "source": "videos/a.mp4", "translations": {"en": "hello"}, "tags": {"signer": "3"},
        "video_start": 7, "video_frames": 20,
    }  # fmt: skip
    with KeypointStoreWriter(tmp_path / "store", SOURCE) as writer:
        added = writer.add(np.ones((2, 133, 3)), id="-a:b", **FIELDS, **more)
    store = KeypointStore.open(tmp_path / "store")
    assert store.clips == [added]
    for name, value in {"id": "-a:b", "first_frame": 0, "frames": 2, **FIELDS, **more}.items():
        assert getattr(added, name) == value
    assert store.video(added) == tmp_path / "store" / "videos" / "a.mp4"


def test_a_clip_without_video_says_so(tmp_path):
    write_store(tmp_path / "store")
    store = KeypointStore.open(tmp_path / "store")
    assert "clip clip0: source: the clip has no video" in refusal(store.video, store.clips[0])


@pytest.mark.parametrize("zeros", [False, True])  # zeros are what Zarr's usual fill value would pretend to be
def test_verify_notices_a_deleted_shard(tmp_path, zeros):
    write_store(tmp_path / "store", zeros=zeros)
    shard(tmp_path / "store").unlink()
    store = KeypointStore.open(tmp_path / "store")
    assert "clip clip0: frames 0 to 2 do not match their checksum" in refusal(store.verify)


@pytest.mark.parametrize("byte", [5 * 133 * 3 * 2, -9, -1])  # in the second clip, the shard's index, its checksum
def test_verify_notices_a_flipped_byte(tmp_path, byte):
    write_store(tmp_path / "store")
    content = bytearray(shard(tmp_path / "store").read_bytes())
    content[byte] ^= 1
    shard(tmp_path / "store").write_bytes(content)
    store = KeypointStore.open(tmp_path / "store")
    assert "keypoints.zarr: clip clip" in refusal(store.verify)
    if byte > 0:
        store.keypoints(store.clips[0])  # the other clips stay usable
        assert "clip clip1" in refusal(store.keypoints, store.clips[1])


def test_verify_notices_a_truncated_shard(tmp_path):
    write_store(tmp_path / "store")
    os.truncate(shard(tmp_path / "store"), 1000)
    assert "clip0: cannot be read" in refusal(KeypointStore.open(tmp_path / "store").verify)


def test_open_refuses_what_is_not_a_whole_store(tmp_path):
    assert "is not a store" in refusal(KeypointStore.open, tmp_path / "missing")
    assert "is not a store" in refusal(KeypointStore.open, tmp_path)
    path = tmp_path / "store"
    write_store(path)
    header, manifest = (path / "store.json").read_text(), (path / "manifest.jsonl").read_text()
    damage = {
        "store.json": [
            ("{", "is not JSON"),
            ("[]", "store.json: format"),
            (json.dumps({**json.loads(header), "version": 99}), "store.json: version: is 99"),
            (header.replace('"frames"', '"fames"'), "store.json: frames: is missing"),
        ],
        "manifest.jsonl": [
            (manifest[: manifest.index("\n") + 1], "has 1 clips, store.json says 3"),
            (manifest[:-30], "line 3: is not a clip"),
            (manifest.replace('"first_frame": 3,', '"first_frame": 4,'), "clip clip1: first_frame: is 4, not 3"),
            (manifest.replace("clip1", "clip0"), "clip clip0: id: occurs twice"),
            (manifest.replace('"fps": 25.0', '"fps": "25"'), "line 1: fps: is '25'"),
            (manifest.replace('"frames": 1,', '"frames": 2,'), "the manifest wants float16 (305, 133, 3)"),
            (manifest.replace('"train"', '"val"', 1), "line 1: split: is 'val'"),
        ],
    }
    for name, cases in damage.items():
        good = (path / name).read_text()
        for content, expected in cases:
            (path / name).write_text(content)
            assert expected in refusal(KeypointStore.open, path)
        (path / name).write_text(good)
    (path / "keypoints.zarr" / "zarr.json").unlink()
    assert "is not a Zarr array" in refusal(KeypointStore.open, path)


def test_a_failed_or_killed_writer_leaves_no_store_and_can_begin_anew(tmp_path):
    path = tmp_path / "store"
    with pytest.raises(KeyboardInterrupt), KeypointStoreWriter(path, SOURCE) as writer:
        writer.add(np.ones((SHARD_FRAMES, 133, 3)), id="a", **FIELDS)
        raise KeyboardInterrupt
    assert not list(path.iterdir())
    killed = KeypointStoreWriter(path, SOURCE).__enter__()
    killed.add(np.ones((SHARD_FRAMES, 133, 3)), id="a", **FIELDS)
    assert shard(path).exists()
    refusal(KeypointStore.open, path)
    write_store(path)
    KeypointStore.open(path).verify()


def test_a_finished_store_is_never_overwritten(tmp_path):
    write_store(tmp_path / "store")
    assert "is a store already" in refusal(KeypointStoreWriter, tmp_path / "store", SOURCE)
    KeypointStore.open(tmp_path / "store").verify()


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"split": "val"}, "clip a: split: is 'val'"),
        ({"language": "de"}, "clip a: language: is 'de'"),
        ({"fps": 0.0}, "clip a: fps: is 0.0"),
        ({"fps": float("nan")}, "clip a: fps: is nan"),
        ({"video_frames": 1}, "clip a: video_frames: is 1; the clip ends at video frame 2"),
        ({"width": 0}, "clip a: width: is 0"),
        ({"text": None}, "clip a: text: is None"),
        ({"tags": {"signer": 3}}, "clip a: tags: is {'signer': 3}"),
        ({"id": "b"}, "clip b: was added before"),
        ({"keypoints": np.zeros((0, 133, 3))}, "clip a: frames: is 0"),
        ({"keypoints": np.full((2, 133, 3), np.nan)}, "clip a: keypoints: frame 0 is not finite"),
        ({"keypoints": np.full((2, 133, 3), 1e6)}, "clip a: keypoints: frame 0 is not finite in float16"),
    ],
)
def test_add_refuses_impossible_clips_and_goes_on(tmp_path, change, expected):
    clip = {"keypoints": np.ones((2, 133, 3)), "id": "a", **FIELDS, **change}
    with KeypointStoreWriter(tmp_path / "store", SOURCE) as writer:
        writer.add(np.ones((4, 133, 3)), id="b", **FIELDS)
        assert expected in refusal(lambda: writer.add(**clip))
        writer.add(np.ones((1, 133, 3)), id="c", **FIELDS)
    store = KeypointStore.open(tmp_path / "store")
    assert [(c.id, c.first_frame) for c in store.clips] == [("b", 0), ("c", 4)]
    store.verify()


def test_targets():
    clip = Clip("a", "train", "zh", "你好", "你 好", 0, 2, 25.0, 2, 2, "", 0, {"en": "hello"})
    assert clip.target("slt") == clip.target("slt", "zh") == clip.target("islr") == "你好"
    assert clip.target("slt", "en") == "hello"
    assert clip.target("cslr") == clip.target("cslr", "en") == "你 好"
    bare = Clip("a", "train", "zh", " ", "", 0, 2, 25.0, 2, 2, "", 0)
    assert "clip a: text: is empty, and slt needs it" in refusal(bare.target, "slt")
    assert "clip a: translations.en: is empty" in refusal(bare.target, "slt", "en")
    assert "clip a: gloss: is empty" in refusal(bare.target, "cslr")


def test_a_missing_manifest_is_named(tmp_path):
    assert "manifest.jsonl: cannot be read" in refusal(read_manifest, tmp_path / "manifest.jsonl")
