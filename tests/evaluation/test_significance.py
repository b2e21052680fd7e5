"""Intervals and significance: sacrebleu's numbers for BLEU and chrF, and the same rules for every other metric."""

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from unisign_fast.evaluation.metrics import score
from unisign_fast.evaluation.significance import difference, interval

WORDS = "rain wind sun snow cloud storm north south tomorrow tonight".split()


def texts(seed: int, wrong: float) -> tuple[list[str], list[str]]:
    """Predictions with this share of wrong words, and their references, which are the same for every seed."""
    rng, same = np.random.default_rng(seed), np.random.default_rng(99)
    references = [same.choice(WORDS, same.integers(4, 12)).tolist() for _ in range(40)]
    predictions = [[rng.choice(WORDS) if rng.random() < wrong else word for word in line] for line in references]
    return [" ".join(line) for line in predictions], [" ".join(line) for line in references]


@pytest.fixture(scope="module")
def systems():
    (worse, references), (better, _) = texts(1, 0.5), texts(2, 0.35)
    return worse, better, references


METRICS = {"BLEU-4": BLEU(force=True), "BLEU-2": BLEU(max_ngram_order=2, force=True), "chrF": CHRF()}


@pytest.mark.parametrize("name", METRICS)
def test_bleu_and_chrf_are_sacrebleus(systems, name):
    worse, better, references = systems
    ours = [score("slt", system, references, "en").statistics[name] for system in (worse, better)]
    theirs = METRICS[name].corpus_score(better, [references], n_bootstrap=1000)
    assert ours[1].value == pytest.approx(theirs.score)
    low, high = interval(ours[1])
    assert (high - low) / 2 == pytest.approx(theirs._ci, abs=1e-4) and low < theirs._mean < high
    test = PairedTest([("worse", worse), ("better", better)], {name: METRICS[name]}, [references], test_type="ar")
    (label,) = test.metrics
    result = difference(*ours)
    assert result.p_value == pytest.approx(test()[1][label][1].p_value, abs=2e-3)
    assert result.value == pytest.approx(ours[1].value - ours[0].value)


@pytest.mark.parametrize(("task", "metric"), [("slt", "ROUGE-L"), ("cslr", "WER"), ("islr", "top-1 per class")])
def test_other_metrics_tell_chance_from_a_difference(task, metric):
    (worse, references), (better, _) = texts(1, 0.6), texts(2, 0.1)
    if task == "islr":
        worse, better, references = ([line.split()[0] for line in lines] for lines in (worse, better, references))
    first, second = (score(task, system, references, "en").statistics[metric] for system in (worse, better))
    low, high = interval(second)
    assert low <= second.value <= high and low < high
    result = difference(first, second)
    assert result.p_value < 0.05 and result.interval[0] * result.interval[1] > 0
    assert (result.value < 0) == (metric == "WER")
    same = difference(first, first)
    assert (same.value, same.interval, same.p_value) == (0, (0, 0), 1)


def test_a_difference_by_chance_is_not_significant():
    (one, references), (other, _) = texts(1, 0.5), texts(3, 0.5)
    first, second = (score("cslr", system, references, "en").statistics["WER"] for system in (one, other))
    result = difference(first, second)
    assert result.p_value > 0.1 and result.interval[0] < 0 < result.interval[1]


def test_word_error_rate_is_resampled_by_words_not_by_clips():
    """A long clip that is all wrong and a short one that is right: every resample is 0, 90 or 100 %."""
    scores = score("cslr", ["", "a"], [" ".join("bcdefghij"), "a"], "en")
    assert scores.intervals()["WER"] == (0, 100) and scores.values["WER"] == pytest.approx(90)


def test_the_same_file_gives_the_same_intervals(systems):
    worse, _, references = systems
    assert score("slt", worse, references, "en").plain() == score("slt", worse, references, "en").plain()
