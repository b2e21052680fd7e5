"""Augmentation of keypoints: what each transform does, that it is seeded, and that hand crops stay right."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clip_stores import (
    RGB,
    SIDE,
    FakeTokenizer,
    assert_same_steps,
    batch_loader,
    batch_of,
    reader,
    write_clips_of_many_lengths,
)

from unisign_fast.pipelines.batches.reader import ClipReader
from unisign_fast.pipelines.clips.augmentation import TRANSFORMS, Frames, augment, read_augmentation
from unisign_fast.pipelines.clips.keypoint_normalization import normalize_parts
from unisign_fast.pipelines.crops.boxes import crop_points
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.pipelines.skeleton import PACKED_JOINTS, PART_JOINTS
from unisign_fast.pipelines.store.keypoint_store import KeypointStore
from unisign_fast.training.cli import parse
from unisign_fast.training.recipes import default_settings
from unisign_fast.training.run_record import recipe_fingerprint
from unisign_fast.training.settings import run_settings

ALL = ("time_warp=0.5", "rotation=15", "scale=0.2", "noise=0.02", "joint_dropout=0.1")
ASPECT = 16 / 9


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> KeypointStore:
    return write_clips_of_many_lengths(tmp_path_factory.mktemp("data"))


def clip(frames: int = 40) -> Frames:
    """Random joints; in frame 3 the left hand is missing."""
    keypoints = np.random.default_rng(0).uniform(0.2, 0.8, (frames, 133, 3)).astype(np.float32)
    keypoints[3, 91:112] = 0
    return Frames(keypoints, np.arange(frames), ASPECT, PART_JOINTS["body"])


def applied(before: Frames, *options: str) -> Frames:
    return augment(before, read_augmentation(options), lambda purpose: np.random.default_rng([len(purpose), 1]))


def pixels(frames: Frames) -> np.ndarray:
    return frames.keypoints[..., :2] * (ASPECT, 1)


def test_rotation_turns_the_picture_by_one_angle():
    before = clip()
    after = applied(before, "rotation=20")
    before, after = (x._replace(keypoints=x.keypoints[4:]) for x in (before, after))  # without the missing hand
    sides = [np.diff(pixels(x), axis=1) for x in (before, after)]
    np.testing.assert_allclose(*(np.linalg.norm(side, axis=-1) for side in sides), atol=1e-5)
    angles = np.angle((sides[1] @ (1, 1j)) / (sides[0] @ (1, 1j)), deg=True)
    assert 1 < abs(np.median(angles)) <= 20
    np.testing.assert_allclose(np.median(angles), angles[:3], atol=0.1)


def test_scale_stretches_width_and_height_by_different_factors():
    before = clip()
    after = applied(before, "scale=0.3")
    factors = np.ptp(after.keypoints[..., :2], axis=(0, 1)) / np.ptp(before.keypoints[..., :2], axis=(0, 1))
    assert (1 / 1.3 <= factors).all() and (factors <= 1.3).all() and abs(factors[0] - factors[1]) > 0.01


def test_a_common_scale_would_be_cancelled():
    before = clip().keypoints
    larger = before.copy()
    larger[..., :2] *= 1.25
    np.testing.assert_allclose(normalize_parts(before), normalize_parts(larger), atol=1e-5)


def test_noise_is_in_units_of_the_body():
    before = clip()
    before.keypoints[..., :2] *= 0.5  # the body's box has a side of 0.3
    moved = (applied(before, "noise=0.1").keypoints - before.keypoints)[..., :2]
    np.testing.assert_allclose(moved.std(axis=(0, 1)), 0.03, rtol=0.05)
    np.testing.assert_allclose(moved.mean(axis=(0, 1)), 0, atol=0.002)


@pytest.mark.parametrize("frames", [1, 2, 3, 40])
def test_time_warp_repeats_and_leaves_out_whole_frames(frames):
    before = clip(frames=40)
    before = before._replace(keypoints=before.keypoints[:frames], numbers=before.numbers[:frames] + 7)
    after = applied(before, "time_warp=1")
    steps = np.diff(after.numbers)
    assert len(after.numbers) == frames and (steps >= 0).all() and (steps <= 4).all()
    assert after.numbers[0] == 7 and after.numbers[-1] == 6 + frames
    assert frames < 40 or (steps == 0).any() and (steps > 1).any()
    np.testing.assert_array_equal(after.keypoints, before.keypoints[after.numbers - 7])


def test_joint_dropout_removes_confidence_alone():
    before = clip()
    after = applied(before, "joint_dropout=0.2")
    np.testing.assert_array_equal(after.keypoints[..., :2], before.keypoints[..., :2])
    lost = after.keypoints[..., 2] != before.keypoints[..., 2]
    assert (after.keypoints[lost, 2] == 0).all() and abs(lost.mean() - 0.2) < 0.02


@pytest.mark.parametrize("option", ["rotation=180", "scale=1", "noise=1"])
def test_confidence_is_kept_and_missing_joints_stay_missing(option):
    before = clip()
    after = applied(before, option)
    np.testing.assert_array_equal(after.keypoints[..., 2], before.keypoints[..., 2])
    packed = normalize_parts(after.keypoints)
    missing = before.keypoints[:, PACKED_JOINTS, 2] <= 0.3
    assert missing.any() and not packed[missing].any() and packed[~missing].any(axis=-1).all()


def test_transforms_change_no_array_in_place():
    before = clip()
    kept = before.keypoints.copy()
    for option in ALL:
        applied(before, option)
    np.testing.assert_array_equal(before.keypoints, kept)
    assert {option.split("=")[0] for option in ALL} == set(TRANSFORMS)


def test_off_by_default_and_in_evaluation(store):
    plain, augmented = reader(store), reader(store, replace(RGB, augment=ALL))
    assert DataSettings().augment == ()
    assert torch.equal(batch_of(plain, [4], training=False).poses, batch_of(augmented, [4], training=False).poses)
    assert not torch.equal(batch_of(plain, [4]).poses, batch_of(augmented, [4]).poses)


def test_every_clip_and_epoch_has_its_own_draws(store):
    settings = replace(RGB, p_samp=0, augment=("rotation=90",))
    first, again = (batch_of(reader(store, settings), [2, 4]) for _ in range(2))
    assert torch.equal(first.poses, again.poses)
    another_seed = ClipReader([store], settings, FakeTokenizer(), seed=1)
    for other in (batch_of(reader(store, settings), [2, 4], epoch=1), batch_of(another_seed, [2, 4])):
        for one, another in zip(first.poses.split(first.lengths), other.poses.split(other.lengths), strict=True):
            assert not torch.equal(one, another)
    assert torch.equal(batch_of(reader(store, settings), [4]).poses, first.poses[20:])


def test_a_transform_draws_the_same_beside_others(store):
    """Fewer transforms are an ablation, not another random experiment."""
    alone, both = (applied(clip(), *options) for options in (["time_warp=1"], ["noise=0.1", "time_warp=1"]))
    np.testing.assert_array_equal(alone.numbers, both.numbers)


@pytest.mark.parametrize("start", [(0, 2), (1, 1)])
def test_resuming_and_workers_change_nothing(store, start):
    settings = replace(RGB, augment=ALL)
    whole = list(batch_loader(reader(store, settings)).steps(epochs=2))
    resumed = list(batch_loader(reader(store, settings), workers=3).steps(2, *start))
    assert_same_steps(resumed, [step for step in whole if (step.epoch, step.step) >= start])


def test_ranks_change_nothing(store):
    settings = replace(RGB, augment=ALL)
    clip_poses = [{}, {}]
    for poses, ranks in zip(clip_poses, (1, 2)):
        for rank in range(ranks):
            for step in batch_loader(reader(store, settings), rank=rank, ranks=ranks).steps(epochs=1):
                for batch in step.batches:
                    poses |= zip(batch.clip_ids, batch.poses.split(batch.lengths))
    assert len(clip_poses[0]) == len(clip_poses[1]) == 11
    assert all(torch.equal(poses, clip_poses[1][id]) for id, poses in clip_poses[0].items())


def test_crops_show_the_frames_shown_and_their_joints_where_the_picture_has_them(store):
    settings = replace(RGB, augment=("time_warp=1", "rotation=180"), max_frames=20)
    r = reader(store, settings)
    sample = r.read(r.clips("train")[4], epoch=0, training=True)
    batch = batch_of(r, [4])
    shown = sample.hands.frames
    grey = batch.crops.double().mean(dim=(1, 2, 3)).numpy()
    np.testing.assert_allclose(grey, 4 * shown, atol=2)  # picture i is grey with value 4 i
    joints = [(91, 112)] * sample.crops_per_hand[0] + [(112, 133)] * sample.crops_per_hand[1]
    stored = store.keypoints(store.clips[4])
    hands_px = np.stack([stored[t, slice(*span), :2] for t, span in zip(shown, joints)]) * np.float64(SIDE)
    np.testing.assert_allclose(batch.crop_points, crop_points(hands_px, sample.hands.boxes), atol=1e-6)

    without = reader(store, replace(settings, augment=("time_warp=1",)))
    rows = without.read(without.clips("train")[4], epoch=0, training=True)
    unturned = normalize_parts(stored)  # of all frames: the scale is another, which joints are missing is the same
    np.testing.assert_array_equal(rows.crop_frame, sample.crop_frame)
    np.testing.assert_array_equal(rows.hands.frames, shown)
    np.testing.assert_array_equal(sample.poses[sample.crop_frame, :, 2], unturned[shown][..., 2])


def test_augmentation_is_recorded_and_runs_without_it_resume():
    settings = parse("training", (1,), ["--augment", "rotation=10", "noise=0.01"])
    assert settings.data.augment == ("rotation=10", "noise=0.01")
    recorded = settings.as_json()
    assert recorded["data"]["augment"] == ["rotation=10", "noise=0.01"]
    assert run_settings(Path("settings.json"), recorded, default_settings("demo", "paper", 1)) == settings
    tokenizer = SimpleNamespace(fingerprint="t")
    assert recipe_fingerprint(settings, tokenizer, [])["augment"] == ["rotation=10", "noise=0.01"]
    assert "augment" not in recipe_fingerprint(parse("training", (1,), []), tokenizer, [])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["blur=1"], "'blur=1' is not known; use time_warp=..., rotation=..., "),
        (["rotation"], "'rotation' is not valid; give a number above 0, at most 180"),
        (["rotation=a"], "'rotation=a' is not valid"),
        (["rotation=181"], "'rotation=181' is not valid"),
        (["noise=nan"], "'noise=nan' is not valid"),
        (["noise=0.1", "noise=0.2"], "noise is given twice"),
    ],
)
def test_options_that_cannot_be(options, problem):
    with pytest.raises(InputError) as error:
        DataSettings(augment=tuple(options))
    assert str(error.value).startswith(f"--augment: {problem}")
