"""From a real store with real videos to packed batches: the clips read, and those refused."""

import json
from dataclasses import fields, replace
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import torch
import zarr
from clip_stores import (
    LENGTHS,
    RGB,
    SIDE,
    FakeTokenizer,
    batch_of,
    pose,
    read_one,
    reader,
    video_of,
    write_clips_of_many_lengths,
    write_store,
)
from msgspec.structs import replace as replaced

from unisign_fast.pipelines.batches.packed_batch import PackedBatch
from unisign_fast.pipelines.batches.reader import ClipReader
from unisign_fast.pipelines.clips.frame_sampling import choose_frames
from unisign_fast.pipelines.clips.keypoint_normalization import normalize_parts
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.pipelines.store.checked_files import write_header
from unisign_fast.pipelines.store.keypoint_store import KeypointStore
from unisign_fast.pipelines.store.manifest import ManifestWriter


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> KeypointStore:
    return write_clips_of_many_lengths(tmp_path_factory.mktemp("data"))


def test_a_clip_becomes_poses_texts_and_the_crops_of_its_frames(store):
    settings = replace(RGB, max_frames=20)
    r = reader(store, settings)
    batch = batch_of(r, [4], training=False)
    frames = choose_frames(30, 20, None)
    np.testing.assert_array_equal(batch.poses, normalize_parts(store.keypoints(store.clips[4])[frames]))
    assert (batch.clip_ids, batch.texts) == (["clip4"], ["t4"])
    assert (batch.prompt_ids.tolist(), batch.label_ids.tolist()) == ([[2, 1]], [[116, 52, 1]])
    left, right = batch.crops_per_hand
    assert 0 < left <= 10 and 0 < right <= 10 and batch.crops.shape == (left + right, 3, 16, 16)
    assert batch.crop_points.shape == (left + right, 21, 2) and batch.crop_points.dtype == torch.float32
    for rows in (slice(left), slice(left, None)):
        assert (batch.crop_frame[rows].diff() > 0).all()
    np.testing.assert_allclose(grey(batch), 4 * frames[batch.crop_frame], atol=2)  # crop_frame counts chosen frames


def grey(batch: PackedBatch) -> np.ndarray:
    return batch.crops.double().mean(dim=(1, 2, 3)).numpy()


def test_crop_points_tell_where_the_keypoints_are(store):
    r = reader(store)
    ref = r.clips("train")[0]
    sample = r.read(ref, epoch=0, training=False)
    left = sample.rows(0)
    hands = store.keypoints(ref.clip)[sample.crop_frame[left], 91:112, :2] * SIDE
    points = sample.crop_points[left]
    scale = np.ptp(hands, axis=1) / np.ptp(points, axis=1)
    assert np.ptp(scale) < 0.01 and abs(scale[0, 0] % 2) < 0.01  # one even box size for all hands of the clip
    centres = (points.min(axis=1) + points.max(axis=1)) / 2
    np.testing.assert_allclose(centres, 0.5, atol=1.01 / scale[0, 0])


@pytest.mark.parametrize("start", [0, 20])
def test_a_clip_may_be_a_part_of_its_video(tmp_path, start):
    source = video_of(tmp_path / "a.mp4", 40)
    batch = read_one(tmp_path / "part", {"source": source, "video_start": start, "video_frames": 40})
    np.testing.assert_allclose(grey(batch), 4 * (start + batch.crop_frame), atol=2)
    with pytest.raises(InputError, match="a.mp4: has 40 frames, but the pose of clip clip0 is for 35"):
        read_one(tmp_path / "other", {"source": source, "video_start": start, "video_frames": 35})


def test_pose_only_opens_no_video(tmp_path):
    missing = {"source": "missing.mp4"}
    batch = read_one(tmp_path, missing, DataSettings(p_samp=0))
    assert batch.crops.shape == (0, 3, 112, 112) and batch.crop_points.shape == (0, 21, 2)
    assert batch.crops_per_hand == (0, 0) and batch.crop_frame.dtype == torch.int64
    with pytest.raises(InputError, match=r"missing\.mp4: there is no such video"):
        read_one(tmp_path / "rgb", missing)


def test_choices_change_with_the_epoch_in_training_alone(store):
    r = reader(store, replace(RGB, max_frames=20))
    evaluated = [batch_of(r, [4], epoch, training=False) for epoch in (0, 1)]
    trained = [batch_of(r, [4], epoch) for epoch in (0, 0, 1)]
    for same in (evaluated, trained[:2]):
        assert torch.equal(same[0].crops, same[1].crops) and torch.equal(same[0].poses, same[1].poses)
    assert not torch.equal(trained[0].poses, trained[2].poses)
    assert not torch.equal(trained[0].crop_frame, trained[2].crop_frame)


def test_tasks_and_languages(tmp_path):
    clip = {"gloss": "A B", "translations": {"zh": "你"}}
    assert read_one(tmp_path / "1", clip, DataSettings(p_samp=0, task="cslr")).texts == ["A B"]
    chinese = read_one(tmp_path / "2", clip, DataSettings(p_samp=0, language="zh"))
    assert chinese.texts == ["你"] and chinese.label_ids.tolist() == [[ord("你"), 1]]


def nan_store(folder: Path) -> KeypointStore:
    """A store whose checksum covers a keypoint that is not a number."""
    write_store(folder, [{}])
    array = zarr.open_array(folder / "keypoints.zarr", mode="r+")
    keypoints = array[:]
    keypoints[3, 5, 0] = np.nan
    array[:] = keypoints
    (clip,) = KeypointStore.open(folder).clips
    manifest = ManifestWriter(folder / "manifest.jsonl")
    manifest.append(replaced(clip, crc32c=google_crc32c.value(keypoints)))
    manifest.close()
    header = json.loads((folder / "store.json").read_text())
    changed = {"manifest_bytes": manifest.size, "index_crc32c": manifest.index_crc32c}
    write_header(folder / "store.json", header | changed)
    return KeypointStore.open(folder)


def test_keypoints_that_are_not_finite(tmp_path):
    r = reader(nan_store(tmp_path))
    with pytest.raises(InputError, match="clip clip0: keypoints: are not all finite"):
        r.read(r.clips("train")[0], epoch=0, training=True)


def test_text_that_is_missing(tmp_path):
    with pytest.raises(InputError, match="clip clip0: text: is empty"):
        read_one(tmp_path, {"text": " "})


@pytest.mark.parametrize(("frames", "good"), [(10, True), (7, False), (13, True), (14, False), (6, False)])
def test_pose_and_video_of_different_length(tmp_path, frames, good):
    """Files may declare up to three frames too many or too few, as long as every sampled frame decodes."""
    clip = {"source": video_of(tmp_path / "a.mp4", frames)}
    if good:
        read_one(tmp_path, clip, replace(RGB, p_samp=1.0))
    else:
        with pytest.raises(InputError, match=f"a.mp4: has {frames} frames"):
            read_one(tmp_path, clip, replace(RGB, p_samp=1.0))


def test_a_short_video_is_good_when_its_lost_frames_are_not_sampled(tmp_path):
    keypoints = pose(10)
    keypoints[7:, :, 2] = 1  # confident hands are never sampled
    batch = read_one(tmp_path, {"keypoints": keypoints, "source": video_of(tmp_path / "a.mp4", 7)})
    assert len(batch.crops) and batch.crop_frame.max() < 7


def test_keypoints_in_pixels_instead_of_fractions(tmp_path):
    keypoints = pose(10)
    keypoints[:, :, :2] *= SIDE
    with pytest.raises(InputError, match="clip clip0: keypoints: a hand would be .* give x and y as fractions"):
        read_one(tmp_path, {"keypoints": keypoints, "source": video_of(tmp_path / "a.mp4", 10)})


def test_a_split_without_clips(store):
    with pytest.raises(InputError, match="manifest.jsonl: split: no clip is 'dev'"):
        reader(store).clips("dev")


@pytest.mark.parametrize(
    ("setting", "value", "option"),
    [
        ("p_samp", 1.1, "--p-samp"),
        ("p_samp", -0.1, "--p-samp"),
        ("p_samp", float("nan"), "--p-samp"),
        ("task", "asr", "--task"),
        ("sampling", "best", "--sampling"),
        ("max_frames", 0, "--max-frames"),
        ("crop_size", 0, "--crop-size"),
        ("crop_size", 10**9, "--crop-size"),
        ("max_frames", 10**12, "--max-frames"),
    ],
)
def test_settings_that_are_not_possible(setting, value, option):
    with pytest.raises(InputError, match=f"^{option}: .* is not valid; "):
        DataSettings(**{setting: value})


def test_a_batch_holds_all_left_hands_before_all_right_ones(store):
    r = reader(store)
    clips = r.clips("train")
    samples = [r.read(clips[i], epoch=0, training=True) for i in range(3)]
    batch = batch_of(r, [0, 1, 2])
    assert batch.clip_ids == ["clip0", "clip1", "clip2"] and batch.texts == ["t0", "t1", "t2"]
    assert batch.lengths == LENGTHS[:3] and batch.poses.shape == (41, 69, 3)
    left, right = batch.crops_per_hand
    assert (left, right) == tuple(sum(sample.crops_per_hand[hand] for sample in samples) for hand in range(2))
    assert batch.crops.shape == (left + right, 3, 16, 16) and batch.crop_points.shape == (left + right, 21, 2)
    frame_of_row = np.concatenate([np.arange(length) for length in batch.lengths])  # each video starts at grey 0
    np.testing.assert_allclose(grey(batch), 4 * frame_of_row[batch.crop_frame.numpy()], atol=2)
    for rows in (slice(left), slice(left, None)):
        assert (batch.crop_frame[rows].diff() > 0).all()
    middle = samples[1]
    mine = slice(samples[0].crops_per_hand[0], samples[0].crops_per_hand[0] + middle.crops_per_hand[0])
    np.testing.assert_array_equal(batch.crop_frame[mine], LENGTHS[0] + middle.crop_frame[middle.rows(0)])
    np.testing.assert_array_equal(batch.crop_points[mine], middle.crop_points[middle.rows(0)])


def test_tokens_are_padded_right(tmp_path):
    r = reader(write_store(tmp_path, [{"text": "a", "language": "zh"}, {"text": "bcd"}]), DataSettings(p_samp=0))
    r.tokenizer.prompt_ids = lambda language: [5, 6, 1] if language == "zh" else [5, 1]
    batch = batch_of(r, [0, 1])
    assert batch.label_ids.tolist() == [[97, 1, -100, -100], [98, 99, 100, 1]]
    assert batch.prompt_ids.tolist() == [[5, 6, 1], [5, 1, 0]]


def test_an_empty_batch_has_the_types_of_a_full_one(store):
    r = reader(store)
    full, empty = batch_of(r, [0]), batch_of(r, [])
    assert empty.lengths == [] and empty.crops_per_hand == (0, 0)
    for field in fields(PackedBatch):
        mine, other = getattr(empty, field.name), getattr(full, field.name)
        if isinstance(mine, torch.Tensor):
            assert mine.dtype == other.dtype and mine.ndim == other.ndim and len(mine) == 0
    assert empty.crops.shape == (0, 3, 16, 16)


def test_clips_of_several_stores_share_a_batch(tmp_path, store):
    other = write_store(tmp_path / "other", [{"id": "other", "source": video_of(tmp_path / "a.mp4", 10)}])
    r = ClipReader([other, store], RGB, FakeTokenizer())
    assert len(r.clips("train")) == 1 + len(LENGTHS)
    batch = batch_of(r, [3, 0])
    assert batch.clip_ids == ["clip2", "other"] and batch.lengths == [20, 10]
    frame_of_row = np.concatenate([np.arange(20), np.arange(10)])
    np.testing.assert_allclose(grey(batch), 4 * frame_of_row[batch.crop_frame.numpy()], atol=2)


def test_targets_are_tokenised_once(tmp_path):
    class OnceCodec(FakeTokenizer):
        calls = 0

        def target_ids(self, text: str) -> list[int]:
            OnceCodec.calls += 1
            return super().target_ids(text)

    store = write_store(tmp_path / "store", [{"text": "abc"}, {"text": " "}, {"text": "de"}, {"split": "test"}])
    first, again = (ClipReader([store], DataSettings(p_samp=0), OnceCodec()).clips("train") for _ in range(2))
    assert OnceCodec.calls == 2
    for clips in (first, again):
        assert clips.tokens.tolist() == [4, 0, 3] and clips[0].label_ids == [97, 98, 99, 1]
        assert clips.subset([2])[0].label_ids == [100, 101, 1] and clips.subset([2]).tokens.tolist() == [3]
    for settings in (DataSettings(p_samp=0, task="cslr"), DataSettings(p_samp=0, language="zh")):
        assert not ClipReader([store], settings, OnceCodec()).clips("train").tokens.any()
    assert OnceCodec.calls == 2  # no clip has glosses or a translation
    OnceCodec.fingerprint = "another"
    ClipReader([store], DataSettings(p_samp=0), OnceCodec()).clips("train")
    assert OnceCodec.calls == 4
    for file in (store.path / "targets").iterdir():  # a different file with valid zip checksums is not trusted
        arrays = dict(np.load(file))
        np.savez(file, **arrays | {"ids": np.zeros_like(arrays["ids"])})
    assert ClipReader([store], DataSettings(p_samp=0), OnceCodec()).clips("train")[0].label_ids == [97, 98, 99, 1]
    assert OnceCodec.calls == 6
