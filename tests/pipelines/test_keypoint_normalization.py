"""Frame choice and normalisation: small clips with numbers worked out by hand."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import unisign_fast
from unisign_fast.pipelines.clips.frame_sampling import choose_frames
from unisign_fast.pipelines.clips.keypoint_normalization import normalize_parts
from unisign_fast.pipelines.rng import stream
from unisign_fast.pipelines.skeleton import JOINTS, PACKED_JOINTS, PART_SLICES, RIGHT_HAND


def clip(frames: int, points: dict[tuple[int, int], tuple[float, float, float]]) -> np.ndarray:
    """Keypoints that are zero except at (frame, joint): (x, y, confidence)."""
    keypoints = np.zeros((frames, 133, 3), np.float32)
    for place, values in points.items():
        keypoints[place] = values
    return keypoints


# Two frames whose confident body points span x 0.25..0.75 and y 0.5..0.625: scale 0.5, box from (0.25, 0.3125).
BODY = {(0, 0): (0.25, 0.5, 1), (0, 5): (0.75, 0.5, 0.5), (1, 9): (0.5, 0.625, 0.75), (1, 10): (0.5, 0.5, 0.4)}


@pytest.mark.parametrize("size", [1, 1e-6, 6e4])  # of float16's numbers: usual, subnormal, largest
def test_float16_is_read_as_if_it_were_cast(size):
    stored = np.random.default_rng(0).uniform(-1, 1, (7, 133, 3))
    stored[..., :2] *= size
    stored = stored.astype(np.float16)
    for wide in (np.float32, np.float64):
        expected = normalize_parts(stored.astype(wide))
        assert len(np.unique(expected)) > 100
        np.testing.assert_array_equal(normalize_parts(stored).view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_numbers_that_are_not_finite_are_refused_where_they_are_used(bad, dtype):
    keypoints = np.full((3, JOINTS, 3), -65504, dtype)  # float16's largest
    keypoints[2, 1] = bad  # an eye, which the model does not see
    normalize_parts(keypoints)
    keypoints[2, RIGHT_HAND[-1], 2] = bad
    with pytest.raises(ValueError, match="not all finite"):
        normalize_parts(keypoints)


def test_body_fills_the_box_of_the_whole_clip():
    packed = normalize_parts(clip(2, BODY))
    assert packed.shape == (2, 69, 3) and packed.dtype == np.float32
    expected = np.zeros((2, 9, 3), np.float32)
    expected[0, 0], expected[0, 3] = (-1, -0.25, 1), (1, -0.25, 0.5)
    expected[1, 7], expected[1, 8] = (0, 0.25, 0.75), (0, -0.25, 0.4)
    np.testing.assert_array_equal(packed[:, PART_SLICES["body"]], expected)


def test_hands_and_face_are_relative_to_their_root_of_the_same_frame():
    keypoints = clip(2, BODY)
    keypoints[:, 91] = [(0.5, 0.5, 0.1), (0.25, 0.5, 0.1)]  # the root's confidence does not matter
    keypoints[:, 95] = [(0.625, 0.4375, 0.9), (0.625, 0.4375, 0.9)]
    keypoints[0, 53], keypoints[0, 23] = (0.5, 0.25, 0.9), (0.375, 0.25, 0.9)
    packed = normalize_parts(keypoints)
    left, face = packed[:, PART_SLICES["left"]], packed[:, PART_SLICES["face"]]
    np.testing.assert_array_equal(left[:, 4], np.float32([(0.25, -0.125, 0.9), (0.75, -0.125, 0.9)]))
    np.testing.assert_array_equal(left[:, 0], 0)
    np.testing.assert_array_equal(face[0, [0, 17]], np.float32([(-0.25, 0, 0.9), (0, 0, 0.9)]))


def test_values_are_clipped_and_uncertain_joints_are_zero():
    at_threshold = np.float32(0.3)
    points = BODY | {(0, 3): (5, -5, at_threshold), (0, 96): (3, -3, 1.08), (0, 97): (0.5, 0.5, at_threshold)}
    packed = normalize_parts(clip(2, points))
    np.testing.assert_array_equal(packed[0, PART_SLICES["body"]][1], 0)  # nor did it count for the box
    np.testing.assert_array_equal(packed[0, PART_SLICES["body"]][0], (-1, -0.25, 1))
    np.testing.assert_array_equal(packed[0, PART_SLICES["left"]][5], (1, -1, 1))
    np.testing.assert_array_equal(packed[0, PART_SLICES["left"]][6], 0)
    below = np.nextafter(at_threshold, np.float32(1))
    assert normalize_parts(clip(2, points | {(0, 97): (0.5, 0.5, below)}))[0, PART_SLICES["left"]][6].any()


def test_a_clip_without_scale_is_zero():
    three = {place: values for place, values in BODY.items() if place != (1, 10)}
    hand = {(0, 95): (0.5, 0.5, 1)}
    assert normalize_parts(clip(2, BODY | hand)).any()
    assert not normalize_parts(clip(2, three | hand)).any()
    assert not normalize_parts(clip(2, dict.fromkeys(BODY, (0.5, 0.5, 1)) | hand)).any()


def test_only_the_69_joints_matter():
    rng = np.random.default_rng(0)
    keypoints = rng.uniform(0, 1, (5, 133, 3)).astype(np.float32)
    changed = rng.uniform(0, 1, (5, 133, 3)).astype(np.float32)
    changed[:, PACKED_JOINTS] = keypoints[:, PACKED_JOINTS]
    np.testing.assert_array_equal(normalize_parts(keypoints), normalize_parts(changed))


def test_short_clips_keep_all_frames():
    for rng in (None, stream(0, 0, "a", "frames")):
        np.testing.assert_array_equal(choose_frames(5, 5, rng), np.arange(5))


def test_evaluation_takes_evenly_spaced_frames():
    assert choose_frames(10, 5, None).tolist() == [1, 3, 5, 7, 9]
    assert choose_frames(7, 3, None).tolist() == [1, 3, 5]
    steps = np.diff(choose_frames(1000, 256, None))
    assert steps.min() == 3 and steps.max() == 4


def test_training_takes_a_random_choice_in_order():
    chosen = [choose_frames(300, 256, stream(0, epoch, "a", "frames")) for epoch in (0, 0, 1)]
    for frames in chosen:
        assert len(frames) == 256 and frames.min() >= 0 and frames.max() < 300 and (np.diff(frames) > 0).all()
    np.testing.assert_array_equal(chosen[0], chosen[1])
    assert not np.array_equal(chosen[0], chosen[2])
    counts = np.bincount(np.concatenate([choose_frames(4, 2, stream(0, i, "a", "frames")) for i in range(2000)]))
    assert np.abs(counts / 2000 - 0.5).max() < 0.05


@pytest.mark.parametrize("home", ["writable", "read-only"])
def test_works_where_the_package_cannot_be_written(tmp_path: Path, home: str):
    """A file in place of the cache folder stops root too, which permissions would not."""
    copy = tmp_path / "site" / "unisign_fast"
    shutil.copytree(Path(unisign_fast.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "pipelines" / "clips" / "__pycache__").touch()
    (tmp_path / "file").touch()
    (tmp_path / "home").mkdir()
    places = {"HOME": str(tmp_path / ("home" if home == "writable" else "file")), "PYTHONPATH": str(copy.parent)}
    hidden = ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")
    command = (
        "import numpy, unisign_fast.pipelines.clips.keypoint_normalization as p; print(p.__file__);"
        "keypoints = numpy.random.default_rng(0).random((3, 133, 3));"
        "print(p.normalize_parts(keypoints).any())"
    )
    result = subprocess.run(
        [sys.executable, "-c", command],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name not in hidden} | places,
        capture_output=True,
        text=True,
    )
    assert result.stdout.split() == [str(copy / "pipelines" / "clips" / "keypoint_normalization.py"), "True"], (
        result.stderr
    )
    assert bool(list((tmp_path / "home").rglob("*.nbi"))) == (home == "writable")
