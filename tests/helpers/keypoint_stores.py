"""Keypoint stores of random keypoints, and their files."""

import json

import numpy as np

from unisign_fast.pipelines.store.keypoint_store import KeypointStoreWriter

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


def as_version_3(path):
    """The store as it was written before it had checksums of the index, of zarr.json and of store.json."""
    index = np.fromfile(path / "manifest.index", np.dtype([("old", "V25"), ("check", "<u4")]))
    index["old"].tofile(path / "manifest.index")
    (path / "store.json").write_text(without_checksums((path / "store.json").read_text()))
