"""Quality of clips with its thresholds, and duplicates."""

from dataclasses import replace

import numpy as np
import pytest

from unisign_fast.pipelines.curation.duplicates import duplicate_reasons, leaks, similar_texts
from unisign_fast.pipelines.curation.quality import (
    SCENE_CUT,
    Thresholds,
    language_share,
    measure_quality,
    picture_change,
    rejection_reasons,
)
from unisign_fast.pipelines.curation.records import Lag, Sentence
from unisign_fast.pipelines.demo_corpus.interpreter import interpret
from unisign_fast.pipelines.demo_corpus.keypoint_errors import estimate
from unisign_fast.pipelines.demo_corpus.renderer import Camera
from unisign_fast.pipelines.demo_corpus.signer import SIGNERS
from unisign_fast.pipelines.errors import InputError

FPS = 25.0
SPOKEN = Sentence("今天下雨了，你要茶吗？", 0.0, 4.0, 0.9)


@pytest.fixture(scope="module")
def signed() -> np.ndarray:
    """Keypoints [100, 133, 3] of four seconds of signing in a picture of 640x480."""
    rng = np.random.default_rng(3)
    performance = interpret([(0.2, 3.8)], 4.0, FPS, SIGNERS[0], rng).performance
    points, confidence = estimate(performance, SIGNERS[0], rng)
    points = Camera(640, 480, 25, 320, 220, 140).fractions(points)
    return np.concatenate([points, confidence[..., None]], axis=-1).astype(np.float32)


def measure(keypoints, persons=None, cuts=0, sentence=SPOKEN, language="zh"):
    persons = np.ones(len(keypoints), int) if persons is None else persons
    return measure_quality(keypoints, FPS, 640 / 480, persons, cuts, sentence, language)


def test_a_good_clip_is_kept(signed):
    quality = measure(signed)
    assert (quality.seconds, quality.signer_share, quality.single_share) == (4.0, 1.0, 1.0)
    assert quality.hands_share > 0.5 and quality.hand_speed > 0.3
    assert quality.characters_per_second == 11 / 4 and quality.language_share == 1.0
    assert rejection_reasons(quality, Thresholds()) == []


def test_each_fault_has_its_reason(signed):
    absent, still, hidden = signed.copy(), signed[:1].repeat(100, axis=0), signed.copy()
    absent[:20, :, 2] = 0
    hidden[:60, 112:, 2] = 0.2
    two = np.r_[np.ones(80), np.full(20, 2)]
    qualities = {
        "min_signer_share": measure(absent),
        "min_hand_speed": measure(still),
        "min_hands_share": measure(hidden),
        "min_single_share": measure(signed, two),
        "max_scene_cuts": measure(signed, cuts=1),
        "max_seconds": measure(np.tile(signed, (8, 1, 1)), sentence=replace(SPOKEN, text="雨" * 60)),
        "min_seconds": measure(signed[10:30], sentence=replace(SPOKEN, text="下雨了")),
        "min_characters_per_second": measure(signed, sentence=replace(SPOKEN, text="雨")),
        "max_characters_per_second": measure(signed, sentence=replace(SPOKEN, text="雨" * 130)),
        "min_language_share": measure(signed, sentence=replace(SPOKEN, text="it rains today")),
        "min_text_confidence": measure(signed, sentence=replace(SPOKEN, confidence=0.3)),
    }
    assert {reason: rejection_reasons(quality, Thresholds()) for reason, quality in qualities.items()} == {
        reason: [reason] for reason in qualities
    }
    assert rejection_reasons(qualities["max_scene_cuts"], Thresholds(max_scene_cuts=1)) == []


def test_thresholds_are_checked():
    for wrong in (-1.0, float("nan"), "3", True):
        with pytest.raises(InputError, match="thresholds: min_seconds: is "):
            Thresholds(min_seconds=wrong)


@pytest.mark.parametrize(
    "text, language, share",
    [
        ("Привет мир", "ru", 1.0),
        ("こんにちは世界", "ja", 1.0),
        ("Grüß", "de", 1.0),
        ("中a", "en", 0.5),
        ("12!", "en", 0.0),
    ],
)
def test_a_language_is_recognised_by_its_script(text, language, share):
    assert language_share(text, language) == share


def test_a_scene_cut_is_distinguished_from_moving_hands():
    rng = np.random.default_rng(0)
    studio = np.full((240, 200, 3), 90, np.uint8)
    moved = studio.copy()
    moved[100:160, 60:140] = 230
    other = rng.integers(0, 256, (240, 200, 3)).astype(np.uint8)
    assert picture_change(studio, moved) < SCENE_CUT / 2
    assert picture_change(studio, studio + 200) > SCENE_CUT and picture_change(other, studio) > SCENE_CUT / 2
    assert picture_change(studio[:5, :5], studio[:5, :5]) == 0, "a picture smaller than the blocks"


def test_lag_moves_a_sentence_and_not_before_the_programme():
    assert Lag(2.6, 2.1, 5.0).applied(Sentence("a", 1.0, 3.0, 1.0)) == (3.6, 5.1)
    assert Lag(-2.0, 0.0).applied(Sentence("a", 1.0, 3.0, 1.0)) == (0.0, 3.0)


def test_similar_texts_are_one_group():
    base = "The central bank raised its interest rate by a quarter of a percentage point on Tuesday"
    texts = [
        base,
        "Heavy rain is expected in the north tonight.",
        base.upper() + "!",
        base.replace("Tuesday", "Monday"),
        "",
        "",
    ]
    assert similar_texts(texts) == [0, 1, 0, 0, 4, 5]


def test_near_duplicates_are_found_and_others_are_not():
    rng = np.random.default_rng(1)
    words = np.array([a + b + c for a in "bdfgklm" for b in "aeiou" for c in "nrstz"])
    texts = [" ".join(rng.choice(words, 20)) for _ in range(100)]
    changed = [" ".join(text.split()[:-1]) for text in texts]
    groups = similar_texts(texts + changed)
    assert groups[:100] == list(range(100)), "no false one"
    assert sum(groups[100 + n] == n for n in range(100)) >= 95


def test_repeats_leave_the_split_that_can_spare_them():
    texts = [
        "天气预报今天下雨",
        "天气预报今天下雨。",
        "新闻联播到此结束",
        "新闻联播到此结束",
        "新闻联播到此结束",
        "再见了各位观众朋友们",
        "别的句子在这里呢",
    ]
    splits = ["train", "test", "train", "train", "train", "dev", "train"]
    keypoints = [1, 2, 3, 4, 5, 6, 6]
    assert leaks(texts, splits, keypoints) == [("text", [0, 1]), ("keypoints", [5, 6])]
    reasons = duplicate_reasons(texts, splits, keypoints, most_copies=2)
    assert reasons == {0: "text_in_other_split", 4: "too_many_copies", 6: "repeated_keypoints"}
    kept = [n for n in range(7) if n not in reasons]
    assert leaks(*([column[n] for n in kept] for column in (texts, splits, keypoints))) == []
