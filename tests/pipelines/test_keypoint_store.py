"""The keypoint store returns what was written, and never loses or overwrites a finished store."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import zarr
from conftest import ROOT
from keypoint_stores import FIELDS, SOURCE, as_version_3, shard, write_store
from refusals import refusal

from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.store import row_array
from unisign_fast.pipelines.store.clip import Clip
from unisign_fast.pipelines.store.keypoint_store import SHARD_FRAMES, KeypointStore, KeypointStoreWriter
from unisign_fast.pipelines.store.merge import merge_stores


def test_clips_are_read_back_in_float16(tmp_path):
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


def test_all_fields_of_a_clip_are_read_back(tmp_path):
    more = {
        "gloss": "你 好", "source": "videos/a.mp4", "translations": {"en": "hello"}, "tags": {"signer": "3"},
        "video_start": 7, "video_frames": 20,
    }  # fmt: skip
    with KeypointStoreWriter(tmp_path / "store", SOURCE) as writer:
        added = writer.add(np.ones((2, 133, 3)), id="-a:b", **FIELDS, **more)
    store = KeypointStore.open(tmp_path / "store")
    assert list(store.clips) == [added]
    for name, value in {"id": "-a:b", "first_frame": 0, "frames": 2, **FIELDS, **more}.items():
        assert getattr(added, name) == value
    assert store.video(added) == tmp_path / "store" / "videos" / "a.mp4"


def test_a_clip_without_video_says_so(tmp_path):
    write_store(tmp_path / "store")
    store = KeypointStore.open(tmp_path / "store")
    assert "clip clip0: source: the clip has no video" in refusal(store.video, store.clips[0])


def test_a_failed_or_killed_writer_leaves_no_store_and_can_start_again(tmp_path):
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
    assert "is already a store" in refusal(KeypointStoreWriter, tmp_path / "store", SOURCE)
    KeypointStore.open(tmp_path / "store").verify()


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"split": "val"}, "clip a: split: is 'val'"),
        ({"language": "xx"}, "clip a: language: is 'xx'"),
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
def test_add_refuses_invalid_clips_and_continues(tmp_path, change, expected):
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


def test_a_store_that_is_appended_to(tmp_path):
    path = tmp_path / "store"
    written = write_store(path)
    with pytest.raises(KeyboardInterrupt), KeypointStoreWriter(path, SOURCE, append=True) as writer:
        writer.add(np.ones((SHARD_FRAMES, 133, 3)), id="lost", **FIELDS)
        raise KeyboardInterrupt
    killed = KeypointStoreWriter(path, SOURCE, append=True).__enter__()
    killed.add(np.ones((SHARD_FRAMES, 133, 3)), id="lost", **FIELDS)
    del killed  # its buffers go to the files
    store = KeypointStore.open(path)  # unfinished data does not count
    store.verify()
    assert [clip.id for clip in store.clips] == ["clip0", "clip1", "clip2"]
    with KeypointStoreWriter(path, SOURCE, append=True) as writer:
        assert "clip clip1: was added before" in refusal(lambda: writer.add(written[1], id="clip1", **FIELDS))
        writer.add(written[1][:7], id="new", **{**FIELDS, "split": "test"})
    store = KeypointStore.open(path)
    store.verify()
    assert [(clip.id, clip.first_frame) for clip in store.clips][2:] == [("clip2", 303), ("new", 304)]
    np.testing.assert_array_equal(store.packed_keypoints(store.clips[3]), written[1][:7].astype(np.float16))
    assert store.clips.numbers_in("test").tolist() == [3]
    with KeypointStoreWriter(path, SOURCE, append=True) as writer:
        pass
    assert len(KeypointStore.open(path).clips) == 4


def test_appending_refuses_keypoints_of_another_origin(tmp_path):
    write_store(tmp_path / "store")
    other = SOURCE | {"estimator": "another"}
    assert "store.json: keypoint_source: is" in refusal(
        lambda: KeypointStoreWriter(tmp_path / "store", other, append=True)
    )


def test_a_compressed_store_reads_the_same(tmp_path):
    rng = np.random.default_rng(0)
    clips = [rng.random((n, 133, 3)).astype(np.float16) for n in (3, 300)]
    clips[1][:, 50:] = 0
    with KeypointStoreWriter(tmp_path / "store", SOURCE, compress=True) as writer:
        for i, keypoints in enumerate(clips):
            writer.add(keypoints, id=str(i), **FIELDS)
    store = KeypointStore.open(tmp_path / "store")
    store.verify()
    for clip, keypoints in zip(store.clips, clips, strict=True):
        np.testing.assert_array_equal(store.packed_keypoints(clip), keypoints)
    assert shard(tmp_path / "store").stat().st_size < 0.9 * sum(keypoints.nbytes for keypoints in clips)
    os.truncate(shard(tmp_path / "store"), 1000)
    assert "does not match its checksum" in refusal(KeypointStore.open(tmp_path / "store").verify)


def test_stores_are_read_by_any_zarr_tool(tmp_path):
    written = write_store(tmp_path / "store")
    array = zarr.open_array(tmp_path / "store" / "keypoints.zarr", mode="r")
    np.testing.assert_array_equal(array[:], np.concatenate(written).astype(np.float16))


FULL_DISK = """
import resource, numpy as np
from unisign_fast.pipelines.errors import InputError
from keypoint_stores import FIELDS, SOURCE, KeypointStoreWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
try:
    with KeypointStoreWriter({path!r}, SOURCE, append={append}) as writer:
        for i in range(3):
            writer.add(np.ones((500, 133, 3)), id="new" + str(i), **FIELDS)
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize("append", [False, True])
def test_a_full_disk(tmp_path, append):
    """An actual error of the operating system (a limit on file sizes), in a separate process."""
    path = tmp_path / "store"
    if append:
        write_store(path)
    script = FULL_DISK.format(path=str(path), append=append)
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT / "tests/helpers")
    message = "store: cannot be written (File too large); free disk space or choose another folder"
    assert message in done.stdout, done.stderr
    if append:
        KeypointStore.open(path).verify()
    else:
        assert "is not a store" in refusal(KeypointStore.open, path) and not list(path.iterdir())


def test_a_store_of_version_3_can_be_appended_to(tmp_path):
    path = tmp_path / "store"
    written = write_store(path)
    as_version_3(path)
    with KeypointStoreWriter(path, SOURCE, append=True) as writer:
        writer.add(written[0], id="new", **FIELDS)
    assert json.loads((path / "store.json").read_text())["version"] == 3
    store = KeypointStore.open(path)
    store.verify()
    assert [clip.id for clip in store.clips] == ["clip0", "clip1", "clip2", "new"]


def test_more_shards_than_may_be_open(tmp_path, monkeypatch):
    monkeypatch.setattr(row_array, "OPEN_SHARDS", 1)
    written = write_store(tmp_path / "store", (SHARD_FRAMES, 3))
    store = KeypointStore.open(tmp_path / "store")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        for clip, keypoints in zip(store.clips, written, strict=True):
            np.testing.assert_array_equal(store.packed_keypoints(clip), keypoints.astype(np.float16))
    assert len(os.listdir("/proc/self/fd")) == before + 1


def test_a_clip_may_show_a_box_of_its_video(tmp_path):
    fields = {"split": "train", "language": "en", "text": "t", "fps": 25, "source": "v.mp4"}
    with KeypointStoreWriter(tmp_path / "a", SOURCE) as writer:
        writer.add(np.ones((2, 133, 3)), id="a", width=30, height=20, box=(10, 0, 40, 20), **fields)
        writer.add(np.ones((2, 133, 3)), id="b", width=30, height=20, **fields)
        for box in ((10, 0, 40), (10, 0, 40, 21), (-1, 0, 29, 20)):
            with pytest.raises(InputError, match="clip c: box"):
                writer.add(np.ones((2, 133, 3)), id="c", width=30, height=20, box=box, **fields)
    store = merge_stores([KeypointStore.open(tmp_path / "a")], tmp_path / "merged")
    assert [clip.box for clip in store.clips] == [(10, 0, 40, 20), ()]
    lines = (tmp_path / "a" / "manifest.jsonl").read_text().splitlines()
    assert ["box" in line for line in lines] == [True, False]  # earlier versions read a clip without one
