"""The lag of an interpreter, estimated on simulated programmes whose lag is known."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT))

from benchmarks.interpreter_lag import FIXED, USUAL, Programme, interpreter_lag, simulate
from unisign_fast.pipelines.curation.audio import SAMPLE_RATE
from unisign_fast.pipelines.curation.lag import (
    GATE,
    RATE,
    Recording,
    estimate_lag,
    estimate_lags,
    hand_speed,
    speech_activity,
)
from unisign_fast.pipelines.curation.records import Lag, Sentence
from unisign_fast.pipelines.errors import InputError


@pytest.fixture(scope="module")
def steady() -> list[Programme]:
    return [simulate(seed, 120, lag) for seed, lag in enumerate((USUAL, Lag(4.2, 3.4), Lag(-0.6, -0.9)))]


@pytest.fixture(scope="module")
def wandering() -> list[Programme]:
    return [simulate(seed, 240, USUAL, wander=0.8, unsigned=0.15) for seed in range(3)]


def error(lag: Lag, programme: Programme) -> float:
    return max(abs(lag.start_seconds - programme.lag.start_seconds), abs(lag.end_seconds - programme.lag.end_seconds))


def test_a_steady_lag_is_found_to_a_quarter_of_a_second(steady):
    for programme in steady:
        lag = estimate_lag([programme.recording], Lag())
        assert error(lag, programme) < 0.25 and lag.confidence > GATE
        assert np.mean(programme.ious(lag)) > 0.85
    assert np.mean(steady[1].ious(FIXED)) < 0.75, "what a fixed lag gives"


def test_a_wandering_lag_is_followed(wandering):
    for programme in wandering:
        lag = estimate_lag([programme.recording], Lag())
        assert error(lag, programme) < 0.5 and lag.confidence > GATE
        followed, fixed = np.mean(programme.ious(lag)), np.mean(programme.ious(FIXED))
        assert followed > 0.85 and followed > fixed + 0.1
        constant = np.mean(programme.ious(Lag(lag.start_seconds, lag.end_seconds)))
        assert followed > constant + 0.05


def test_the_drift_is_in_seconds_of_the_programme(wandering):
    recording, later = wandering[0].recording, 100.0
    lag = estimate_lag([recording], Lag())
    moved = estimate_lag([Recording(recording.activity, recording.speed, start=later)], Lag())
    assert np.allclose(np.array(moved.drift[0]) - lag.drift[0], later) and moved.drift[1] == lag.drift[1]
    one = Sentence("", 60.0, 63.0, 1.0)
    assert np.allclose(moved.applied(replace(one, start=160.0, end=163.0)), np.array(lag.applied(one)) + later)


def test_a_wandering_lag_pooled_over_a_series(wandering):
    lag = estimate_lag([programme.recording for programme in wandering], Lag())
    assert abs(lag.start_seconds - 2.6) < 0.5 and abs(lag.end_seconds - 2.1) < 0.5 and lag.confidence > GATE


def test_unrelated_sound_gives_the_given_lag(wandering):
    given = Lag(1.25, 0.75)
    for a, b in zip(wandering, wandering[1:] + wandering[:1]):
        lag = estimate_lag([Recording(a.recording.activity, b.recording.speed)], given)
        assert (lag.start_seconds, lag.end_seconds) == (1.25, 0.75) and lag.confidence < GATE


def test_programmes_that_are_not_sure_take_the_lag_of_their_series(steady, wandering):
    mixed = Recording(steady[0].recording.activity, steady[2].recording.speed)
    lags = estimate_lags({"a": [steady[0].recording], "b": [mixed], "c": []}, Lag(9.0, 9.0))
    assert error(lags["a"], steady[0]) < 0.25
    assert lags["b"] == lags["c"] and lags["b"].start_seconds != 9.0
    assert lags["b"].drift == ((), ()) != lags["a"].drift
    alone = estimate_lags({"b": [mixed], "c": []}, Lag(9.0, 9.0))
    assert {(lag.start_seconds, lag.end_seconds) for lag in alone.values()} == {(9.0, 9.0)}


def test_signals_without_content_have_no_confidence():
    zeros, ones = np.zeros(3000, np.float32), np.ones(3000, np.float32)
    noise = np.random.default_rng(0).random(3000).astype(np.float32)
    for a, b in ((zeros, zeros), (ones, noise), (noise, zeros), (zeros[:0], zeros[:0]), (noise[:500], noise[:500])):
        lag = estimate_lag([Recording(a, b)], Lag(1.0, 2.0))
        assert (lag.start_seconds, lag.end_seconds) == (1.0, 2.0) and 0 <= lag.confidence < GATE


def test_speech_activity_is_loudness_between_floor_and_speech():
    rng = np.random.default_rng(0)
    samples = rng.normal(0, 1e-3, 10 * SAMPLE_RATE)
    samples[2 * SAMPLE_RATE : 7 * SAMPLE_RATE] += rng.normal(0, 0.1, 5 * SAMPLE_RATE)
    activity = speech_activity(samples.astype(np.float32))
    assert activity.shape == (10 * RATE,) and activity.dtype == np.float32
    assert (
        activity[2 * RATE : 7 * RATE].min() > 0.8 and max(activity[: 2 * RATE].max(), activity[7 * RATE :].max()) < 0.2
    )
    assert np.allclose(speech_activity(samples.astype(np.float32) / 50), activity, atol=0.05), "of any volume"
    assert speech_activity(np.zeros(SAMPLE_RATE, np.float32)).max() == 0 and len(speech_activity(samples[:10])) == 0


def test_hand_speed_is_in_shoulder_widths_a_second():
    keypoints = np.ones((50, 133, 3), np.float32) * (0.5, 0.5, 1.0)
    keypoints[:, 5, 0], keypoints[:, 6, 0] = 0.6, 0.4  # in a picture twice as wide as high: 0.4 heights
    keypoints[:, 91:112, 1] += np.arange(50)[:, None] * 0.004  # heights a frame, so 0.25 shoulder widths a second
    speed = hand_speed(keypoints, fps=25.0, aspect=2.0)
    assert speed.shape == (2 * RATE,) and np.allclose(speed[2:], 0.25, atol=1e-3)
    assert np.allclose(hand_speed(keypoints[::2], 12.5, 2.0)[4:], 0.25, atol=1e-3), "at any frame rate"
    keypoints[:, 91:112, 2] = 0.5
    assert np.allclose(hand_speed(keypoints, 25.0, 2.0)[2:], 0.125, atol=1e-3), "weighted by confidence"
    keypoints[..., 2] = 0
    assert not hand_speed(keypoints, 25.0, 2.0).any() and len(hand_speed(keypoints[:0], 25.0, 2.0)) == 0


def test_the_benchmark_prints_and_refuses(capsys):
    interpreter_lag(programmes=2, minutes=2.0)
    assert "start error, median" in capsys.readouterr().out
    with pytest.raises(InputError, match="--programmes, --minutes"):
        interpreter_lag(programmes=1)
