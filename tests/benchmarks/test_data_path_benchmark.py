"""The data path's benchmark: both pipelines deliver the same data, and a corpus of any size opens."""

import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT))

from benchmarks import corpus_sizes, data_path
from unisign_fast.pipelines.batches.reader import ClipReader
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.pipelines.store.keypoint_store import KeypointStore


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return data_path.made_corpus(tmp_path_factory.mktemp("made") / "made", clips=2, frames=30, side=128)


def test_all_ways_are_measured_on_the_same_crops(corpus, monkeypatch):
    monkeypatch.setattr(data_path, "P_SAMP", (0.5,))
    rows = list(data_path.measure("made", *corpus, clips=2, rounds=2))
    assert [(row.p_samp, row.way) for row in rows] == [
        (0.0, "published"),
        (0.0, "store"),
        *((0.5, way) for way in data_path.WAYS),
    ]
    for row in rows:
        assert row.p20_ms <= row.p50_ms <= row.p80_ms and row.clips_per_s > 0
        assert row.times_faster == 1 if row.way == "published" else row.times_faster > 0
        assert (row.crops_per_clip > 10) == (row.p_samp > 0)


def test_a_way_that_delivers_something_else_is_not_timed(corpus, tmp_path):
    h264, _ = corpus
    reader = ClipReader([h264], DataSettings(p_samp=0.5, crops="video"), data_path.FakeTokenizer())
    data_path.write_pose(tmp_path / "0.pkl", h264.keypoints(h264.clips[0]))
    data_path.check(reader, tmp_path)
    data_path.write_pose(tmp_path / "0.pkl", h264.keypoints(h264.clips[1]))
    with pytest.raises(AssertionError, match="poses differ"):
        data_path.check(reader, tmp_path)


def test_a_sparse_corpus_is_a_store_of_its_size(tmp_path):
    corpus_sizes.sparse_corpus(tmp_path, 600)
    store = KeypointStore.open(tmp_path)
    assert len(store.clips) == 600 and store.clips.total_frames == 600 * 238
    for number in (0, 275, 276, 599):
        assert not store.keypoints(store.clips[number]).any()
    used = sum(file.stat().st_blocks * 512 for file in (tmp_path / "keypoints.zarr").rglob("*"))
    assert used < 1e6 < store.clips.total_frames * 133 * 3 * 2
    (row,) = corpus_sizes.measure_sizes(tmp_path / "sizes", (20,))
    assert row.clips == 20 and row.open_s < 1 and abs(row.memory_mib) < 20


def test_compression_costs_time(corpus, tmp_path):
    share, slower = corpus_sizes.compression(corpus[0], tmp_path)
    assert 0.2 < share < 1 and slower > 1


def test_the_picture_is_drawn(tmp_path):
    rows = [data_path.Row("made", p, way, 1.0, 2.0, 3.0, 1.0, 500.0, 4.0) for p in (0.1, 0.5) for way in data_path.WAYS]
    data_path.draw(rows, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000
