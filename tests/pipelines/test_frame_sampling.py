"""Both sampling rules: how many frames, which ones, how often."""

import numpy as np
import pytest

from unisign_fast.pipelines.clips.frame_sampling import RULES, sample_frames
from unisign_fast.pipelines.rng import stream

DRAWS = 4000


def share_of_draws(confidence: np.ndarray, p_samp: float, rule: str) -> np.ndarray:
    """How often each frame comes up, over many epochs."""
    drawn = [sample_frames(confidence, p_samp, rule, stream(0, epoch, "a", "left")) for epoch in range(DRAWS)]
    return np.bincount(np.concatenate(drawn), minlength=len(confidence)) / DRAWS


def frames_of(*confidences: float) -> np.ndarray:
    return np.repeat(np.float32(confidences)[:, None], 21, axis=1)


@pytest.mark.parametrize("rule", RULES)
def test_frames_come_in_order_and_once(rule):
    confidence = np.random.default_rng(0).uniform(0.2, 1.08, (200, 21)).astype(np.float32)
    for p_samp in (0.1, 0.5, 1):
        frames = sample_frames(confidence, p_samp, rule, stream(0, 0, "a", "left"))
        assert frames.dtype == np.int64 and (np.diff(frames) > 0).all() and 0 <= frames[0] and frames[-1] < 200


@pytest.mark.parametrize("rule", RULES)
def test_the_same_stream_gives_the_same_frames_and_hands_differ(rule):
    confidence = np.random.default_rng(0).uniform(0.3, 1, (200, 21))
    left, again, right = (
        sample_frames(confidence, 0.1, rule, stream(0, 0, "a", hand)).tolist() for hand in ("left", "left", "right")
    )
    assert left == again != right


@pytest.mark.parametrize("rule", RULES)
def test_zero_samples_nothing(rule):
    assert len(sample_frames(frames_of(*[0.5] * 50), 0, rule, stream(0, 0, "a", "left"))) == 0


def test_paper_draws_floor_of_the_share_with_replacement():
    rng = stream(0, 0, "a", "left")
    assert len(sample_frames(frames_of(*[0.5] * 9), 0.1, "paper", rng)) == 0
    assert len(sample_frames(frames_of(*[0.5] * 19), 0.1, "paper", rng)) == 1
    counts = [len(sample_frames(frames_of(0.5, 0.5), 1, "paper", stream(0, i, "a", "left"))) for i in range(DRAWS)]
    assert set(counts) == {1, 2}  # two draws out of two frames coincide half of the time
    assert np.mean(counts) == pytest.approx(1.5, abs=0.05)


def test_paper_weighs_by_one_minus_the_mean_confidence():
    shares = share_of_draws(frames_of(1, 0.9, 0.7, 0.4, 1.08), 0.2, "paper")  # weights 0, 0.1, 0.3, 0.6, 0
    np.testing.assert_allclose(shares, [0, 0.1, 0.3, 0.6, 0], atol=0.03)


def test_paper_clips_each_confidence_before_the_mean():
    confidence = frames_of(0.5, 1)
    confidence[1, :10], confidence[1, 10] = 2, 0  # mean 1.43 raw, 20 / 21 clipped: weight 1 / 21 against 1 / 2
    shares = share_of_draws(confidence, 0.5, "paper")
    assert shares[1] == pytest.approx((1 / 21) / (1 / 21 + 1 / 2), abs=0.02)


def test_paper_is_uniform_when_every_frame_is_sure():
    np.testing.assert_allclose(share_of_draws(frames_of(1, 1.05, 1, 1), 0.25, "paper"), 0.25, atol=0.03)


def test_published_draws_ceil_of_the_candidates_without_replacement():
    rng = stream(0, 0, "a", "left")
    confidence = frames_of(*[0.5] * 11, *[0.29] * 30)
    frames = sample_frames(confidence, 0.1, "published", rng)
    assert len(frames) == 2 and frames.max() < 11
    assert sample_frames(confidence, 1, "published", rng).tolist() == list(range(11))
    assert len(sample_frames(frames_of(*[0.29] * 30), 0.1, "published", rng)) == 0


def test_published_weighs_by_the_least_sure_fingertip():
    confidence = frames_of(0.9, 0.9, 0.9, 0.9, 0.9)
    confidence[1, 20], confidence[2, 4] = 0.6, 0.3  # weights 0.3 and 0.6, all others 1e-5
    confidence[3, 3] = 0  # not a fingertip
    np.testing.assert_allclose(share_of_draws(confidence, 0.1, "published"), [0, 1 / 3, 2 / 3, 0, 0], atol=0.03)
    np.testing.assert_allclose(share_of_draws(frames_of(0.9, 0.9), 0.1, "published"), 0.5, atol=0.03)
