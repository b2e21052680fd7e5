"""Damage to any file of a keypoint store is detected, and the message names the file and the clip."""

import json
import os
import tracemalloc

import google_crc32c
import numpy as np
import pytest
from keypoint_stores import FIELDS, SOURCE, as_version_3, shard, without_checksums, write_store
from numcodecs import zstd
from refusals import refusal

from unisign_fast.pipelines.store.keypoint_store import CHUNK_FRAMES, SHARD_FRAMES, KeypointStore, KeypointStoreWriter


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


def test_a_shard_that_lost_its_middle(tmp_path):
    write_store(tmp_path / "store")
    content = shard(tmp_path / "store").read_bytes()
    shard(tmp_path / "store").write_bytes(content[:9000] + content[25000:])
    assert "bytes, and its index says otherwise" in refusal(KeypointStore.open(tmp_path / "store").verify)


def test_files_that_are_cut_short_while_in_use(tmp_path):
    write_store(tmp_path / "store")
    store = KeypointStore.open(tmp_path / "store")
    clips = list(store.clips)
    store.keypoints(clips[0])
    os.truncate(shard(tmp_path / "store"), 8192)
    os.truncate(tmp_path / "store" / "manifest.jsonl", 300)
    assert "ends before row 303" in refusal(store.keypoints, clips[1])
    assert "manifest.jsonl: ends before byte" in refusal(lambda: store.clips[2])


def test_open_refuses_incomplete_stores(tmp_path):
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


def test_a_missing_manifest_is_named(tmp_path):
    write_store(tmp_path / "store")
    (tmp_path / "store" / "manifest.jsonl").unlink()
    assert "manifest.jsonl: cannot be read (No such file" in refusal(KeypointStore.open, tmp_path / "store")


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


def test_a_damaged_text_is_one_bad_clip(tmp_path):
    write_store(tmp_path / "store")
    file = tmp_path / "store" / "manifest.jsonl"
    file.write_bytes(file.read_bytes().replace("你好".encode(), "你妈".encode(), 1))
    store = KeypointStore.open(tmp_path / "store")
    assert "line 1: does not match its checksum" in refusal(lambda: store.clips[0])
    assert [store.clips[n].id for n in (1, 2)] == ["clip1", "clip2"]


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
