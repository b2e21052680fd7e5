"""The keypoint store returns what was written, and detects lost data."""

import json
import os
import subprocess
import sys
import tracemalloc

import google_crc32c
import numpy as np
import pytest
import zarr
from conftest import ROOT
from numcodecs import zstd
from refusals import refusal

from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.store import row_array
from unisign_fast.pipelines.store.clip import Clip
from unisign_fast.pipelines.store.keypoint_store import CHUNK_FRAMES, SHARD_FRAMES, KeypointStore, KeypointStoreWriter
from unisign_fast.pipelines.store.merge import merge_stores

SOURCE = {"estimator": "random numbers", "version": "1", "coordinates": "x / width, y / height"}
NEW_FIELDS = ("checksum", "index_crc32c", "zarr_crc32c")
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


def without_checksums(header, **changed):
    """The header of a store of version 3, which had fewer checksums."""
    values = {name: value for name, value in json.loads(header).items() if name not in NEW_FIELDS}
    return json.dumps(values | {"version": 3} | changed)


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
    assert list(store.clips) == [added]
    for name, value in {"id": "-a:b", "first_frame": 0, "frames": 2, **FIELDS, **more}.items():
        assert getattr(added, name) == value
    assert store.video(added) == tmp_path / "store" / "videos" / "a.mp4"


def test_a_clip_without_video_says_so(tmp_path):
    write_store(tmp_path / "store")
    store = KeypointStore.open(tmp_path / "store")
    assert "clip clip0: source: the clip has no video" in refusal(store.video, store.clips[0])


@pytest.mark.parametrize("zeros", [False, True])  # zeros would be mistaken for Zarr's usual fill value
def test_verify_notices_a_deleted_shard(tmp_path, zeros):
    write_store(tmp_path / "store", zeros=zeros)
    shard(tmp_path / "store").unlink()
    store = KeypointStore.open(tmp_path / "store")
    assert "clip clip0: " in (message := refusal(store.verify)) and "c/0/0/0: cannot be read (No such file" in message


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
        assert "clip clip1: frames 3 to 302 do not match" in refusal(store.keypoints, store.clips[1])
    else:
        assert "shard index does not match its checksum" in refusal(store.verify)


def test_verify_notices_a_truncated_shard(tmp_path):
    write_store(tmp_path / "store")
    os.truncate(shard(tmp_path / "store"), 1000)
    assert "is damaged: its shard index" in refusal(KeypointStore.open(tmp_path / "store").verify)


def test_open_refuses_what_is_not_a_whole_store(tmp_path):
    assert "is not a store" in refusal(KeypointStore.open, tmp_path / "missing")
    assert "is not a store" in refusal(KeypointStore.open, tmp_path)
    path = tmp_path / "store"
    write_store(path)
    header, manifest = (path / "store.json").read_text(), (path / "manifest.jsonl").read_text()
    size = len(manifest.encode())
    damage = {
        "store.json": [
            ("{", "is not valid JSON"),
            ("[]", "store.json: format"),
            (json.dumps({**json.loads(header), "version": 99}), "store.json: version: is 99"),
            ("[" * 100_000, "nested 100000 deep"),
            (without_checksums(header, clips=-1), "store.json: clips: is -1"),
            (without_checksums(header, frames=1e3), "store.json: frames: is 1000.0"),
            (without_checksums(header, keypoint_source=[]), "store.json: keypoint_source: is not a dict of texts"),
            (without_checksums(header.replace('"frames"', '"fames"')), "store.json: frames: is missing"),
            (header.replace('"frames": 304', '"frames": 305'), "store.json: does not match its own checksum"),
            (header.replace("random numbers", "other numbers"), "store.json: does not match its own checksum"),
            (json.dumps({**json.loads(header), "version": 3}), "store.json: does not match its own checksum"),
        ],
        "manifest.jsonl": [(manifest[:-30], f"manifest.jsonl: has {size - 30} bytes, store.json says {size}")],
    }
    for name, cases in damage.items():
        for content, expected in cases:
            (path / name).write_text(content)
            assert expected in refusal(KeypointStore.open, path)
        (path / name).write_text(header if name == "store.json" else manifest)
    os.truncate(path / "manifest.index", 30)
    assert "manifest.index: has 30 bytes" in refusal(KeypointStore.open, path)
    (path / "manifest.index").unlink()
    assert "manifest.index: cannot be read (No such file" in refusal(KeypointStore.open, path)
    write_store(tmp_path / "other")
    (tmp_path / "other" / "keypoints.zarr" / "zarr.json").unlink()
    assert "is not a Zarr array" in refusal(KeypointStore.open, tmp_path / "other")


@pytest.mark.parametrize(
    ("written", "altered", "expected"),
    [
        ("clip2", "clip0", "line 3: does not match its checksum"),
        ('"text": "你好"', '"text": "好你"', "line 1: does not match its checksum"),
        ('"first_frame": 3,', '"first_frame": 4,', "line 2: first_frame: is 4, the index says 3"),
        ('"frames": 1,', '"frames": 2,', "line 3: frames: is 2, the index says 1"),
        ('"fps": 25.0', '"fps": "25"', "line 1: fps: is '25'"),
        ('"tags"', '"tagz"', "line 1: is not a clip"),
        ('"train"', '"trein"', "line 1: split: is 'trein'"),
        ('{"id": "clip1"', '["id": "clip1"', "line 2: is not a clip"),
    ],
)
def test_verify_notices_an_altered_manifest(tmp_path, written, altered, expected):
    path = tmp_path / "store" / "manifest.jsonl"
    write_store(tmp_path / "store")
    path.write_text(path.read_text().replace(written, altered))
    assert expected in refusal(lambda: KeypointStore.open(tmp_path / "store").verify())


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
    write_store(tmp_path / "store")
    (tmp_path / "store" / "manifest.jsonl").unlink()
    assert "manifest.jsonl: cannot be read (No such file" in refusal(KeypointStore.open, tmp_path / "store")


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


@pytest.mark.parametrize("sized", [True, False], ids=["the frame tells its size", "the frame does not"])
def test_a_compressed_chunk_cannot_expand_beyond_its_rows(tmp_path, sized):
    with KeypointStoreWriter(tmp_path / "store", SOURCE, compress=True) as writer:
        writer.add(np.ones((3, 133, 3)), id="a", **FIELDS)
    file = shard(tmp_path / "store")
    content = file.read_bytes()
    index, chunk = content[-4 - 16 * SHARD_FRAMES // CHUNK_FRAMES : -4], CHUNK_FRAMES * 133 * 3 * 2
    size = int.from_bytes(index[8:16], "little")
    assert len(zstd.decompress(content[:size])) == chunk
    if sized:
        bomb = zstd.compress(bytes(2**28), 1)
    else:  # blocks of 128 KiB of one byte
        blocks = [(last | 1 << 1 | 2**17 << 3).to_bytes(3, "little") + b"\0" for last in [0] * 2**11 + [1]]
        bomb = bytes.fromhex("28b52ffd0058") + b"".join(blocks)
    index = bytes(8) + len(bomb).to_bytes(8, "little") + index[16:]
    file.write_bytes(bomb + index + google_crc32c.value(index).to_bytes(4, "little"))
    store = KeypointStore.open(tmp_path / "store")
    tracemalloc.start()
    try:
        assert "has a damaged chunk" in refusal(lambda: store.packed_keypoints(store.clips[0]))
        assert tracemalloc.get_traced_memory()[1] < 2 * chunk + 2**20
    finally:
        tracemalloc.stop()


def test_stores_are_read_by_any_zarr_tool(tmp_path):
    written = write_store(tmp_path / "store")
    array = zarr.open_array(tmp_path / "store" / "keypoints.zarr", mode="r")
    np.testing.assert_array_equal(array[:], np.concatenate(written).astype(np.float16))


FULL_DISK = """
import resource, numpy as np
from unisign_fast.pipelines.errors import InputError
from test_keypoint_store import FIELDS, SOURCE, KeypointStoreWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
try:
    with KeypointStoreWriter({path!r}, SOURCE, append={append}) as writer:
        for i in range(3):
            writer.add(np.ones((500, 133, 3)), id="new" + str(i), **FIELDS)
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize("append", [False, True])
def test_a_disk_that_takes_no_more(tmp_path, append):
    """A real error of the operating system (a limit on file sizes), in a separate process."""
    path = tmp_path / "store"
    if append:
        write_store(path)
    script = FULL_DISK.format(path=str(path), append=append)
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT / "tests/pipelines"
    )
    assert "store: cannot be written (File too large); free disk space or choose another folder" in result.stdout, (
        result.stderr
    )
    if append:
        KeypointStore.open(path).verify()
    else:
        assert "is not a store" in refusal(KeypointStore.open, path) and not list(path.iterdir())


def as_version_3(path):
    """The store as it was written before it had checksums of the index, of zarr.json and of store.json."""
    index = np.fromfile(path / "manifest.index", np.dtype([("old", "V25"), ("check", "<u4")]))
    index["old"].tofile(path / "manifest.index")
    (path / "store.json").write_text(without_checksums((path / "store.json").read_text()))


def test_a_store_of_version_3_goes_on(tmp_path):
    path = tmp_path / "store"
    written = write_store(path)
    as_version_3(path)
    with KeypointStoreWriter(path, SOURCE, append=True) as writer:
        writer.add(written[0], id="new", **FIELDS)
    assert json.loads((path / "store.json").read_text())["version"] == 3
    store = KeypointStore.open(path)
    store.verify()
    assert [clip.id for clip in store.clips] == ["clip0", "clip1", "clip2", "new"]


@pytest.mark.parametrize(
    "byte, value, expected",
    [(24, 2, "split: is train, the index says test"), (9, 7, "entry 1: is damaged"), (24, 9, "entry 1")],
)
def test_a_damaged_index_without_checksum(tmp_path, byte, value, expected):
    write_store(tmp_path / "store")
    as_version_3(tmp_path / "store")
    content = bytearray((tmp_path / "store" / "manifest.index").read_bytes())
    content[byte] = value
    (tmp_path / "store" / "manifest.index").write_bytes(content)
    assert expected in refusal(lambda: KeypointStore.open(tmp_path / "store").verify())


def test_a_clip_that_moved_from_train_to_test(tmp_path):
    write_store(tmp_path / "store")
    content = bytearray((tmp_path / "store" / "manifest.index").read_bytes())
    content[24] = 2  # the first clip's split
    (tmp_path / "store" / "manifest.index").write_bytes(content)
    store = KeypointStore.open(tmp_path / "store")
    assert [store.clips.numbers_in(split).tolist() for split in ("train", "test")] == [[0, 1, 2], [0]]
    assert "manifest.index: entry 1: is damaged" in refusal(lambda: store.clips[0])
    assert "manifest.index: entry 1: is damaged" in refusal(store.verify)
    store.keypoints(store.clips[1])


def test_a_damaged_text_is_one_bad_clip(tmp_path):
    write_store(tmp_path / "store")
    file = tmp_path / "store" / "manifest.jsonl"
    file.write_bytes(file.read_bytes().replace("你好".encode(), "你妈".encode(), 1))
    store = KeypointStore.open(tmp_path / "store")
    assert "line 1: does not match its checksum" in refusal(lambda: store.clips[0])
    assert [store.clips[n].id for n in (1, 2)] == ["clip1", "clip2"]


def test_files_that_are_cut_short_while_in_use(tmp_path):
    write_store(tmp_path / "store")
    store = KeypointStore.open(tmp_path / "store")
    clips = list(store.clips)
    store.keypoints(clips[0])
    os.truncate(shard(tmp_path / "store"), 8192)
    os.truncate(tmp_path / "store" / "manifest.jsonl", 300)
    assert "ends before row 303" in refusal(store.keypoints, clips[1])
    assert "manifest.jsonl: ends before byte" in refusal(lambda: store.clips[2])


def test_a_shard_that_lost_its_middle(tmp_path):
    write_store(tmp_path / "store")
    content = shard(tmp_path / "store").read_bytes()
    shard(tmp_path / "store").write_bytes(content[:9000] + content[25000:])
    assert "bytes, and its index says otherwise" in refusal(KeypointStore.open(tmp_path / "store").verify)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    "change",
    [{"shape": [None, 133, 3]}, {"codecs": 5}, {"chunk_grid": {}}, {"fill_value": {}}, {"data_type": "float32"},
     {"codecs": [{"name": "vlen-utf8", "configuration": {}}]}, {"shape": None}, {"zarr_format": 2}],
)  # fmt: skip
def test_damaged_metadata_of_the_array(tmp_path, change, old):
    write_store(tmp_path / "store")
    if old:
        as_version_3(tmp_path / "store")
    file = tmp_path / "store" / "keypoints.zarr" / "zarr.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert "keypoints.zarr: is" in refusal(KeypointStore.open, tmp_path / "store")


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
