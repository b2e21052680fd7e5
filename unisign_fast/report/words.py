"""Isolated recognition word by word: which words are confused with which, and which are recognised worst."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from unisign_fast.report.ranking import Comparison

MAX_CONFUSED = 20  # words of the confusion matrix
MAX_WORST = 15  # words of the list


class MatrixRow(NamedTuple):
    """A reference word of the confusion matrix."""

    word: str
    counts: list[int]  # predictions, by the matrix's words; the last counts all others
    clips: int


@dataclass(frozen=True)
class ConfusionMatrix:
    """The words with the most errors, as references (rows) and as predictions (columns)."""

    words: list[str]  # of rows and columns, in alphabetical order
    rows: list[MatrixRow]
    words_left_out: int


class WorstWord(NamedTuple):
    """A word by its share of correct clips."""

    word: str
    clips: int
    correct: int
    confused_with: str  # the most frequent wrong prediction, "" without one
    times: int


def confusion_matrix(compared: Sequence[Comparison]) -> ConfusionMatrix:
    """The confusion matrix of at most MAX_CONFUSED reference words, those in the most errors."""
    pairs = _pairs(compared)
    clips, errors = Counter[str](), Counter[str]()
    for (reference, prediction), count in pairs.items():
        clips[reference] += count
        if prediction != reference:
            errors[reference] += count
            errors[prediction] += count
    ranked = sorted(clips, key=lambda word: (-errors[word], -clips[word], word))
    words = sorted(ranked[:MAX_CONFUSED])
    rows = []
    for word in words:
        counts = [pairs[word, other] for other in words]
        rows.append(MatrixRow(word, [*counts, clips[word] - sum(counts)], clips[word]))
    return ConfusionMatrix(words, rows, len(clips) - len(words))


def worst_words(compared: Sequence[Comparison]) -> list[WorstWord]:
    """At most MAX_WORST words that were not always recognised, lowest share of correct clips first."""
    by_reference: dict[str, Counter[str]] = {}
    for (reference, prediction), count in _pairs(compared).items():
        by_reference.setdefault(reference, Counter())[prediction] += count
    words = []
    for word, predictions in by_reference.items():
        wrong = Counter({other: n for other, n in predictions.items() if other != word})
        (confused_with, times), *_ = [*sorted(wrong.items(), key=lambda pair: (-pair[1], pair[0])), ("", 0)]
        words.append(WorstWord(word, predictions.total(), predictions[word], confused_with, times))
    wrong_words = [word for word in words if word.correct < word.clips]
    return sorted(wrong_words, key=lambda w: (w.correct / w.clips, -w.clips, w.word))[:MAX_WORST]


def _pairs(compared: Sequence[Comparison]) -> Counter[tuple[str, str]]:
    return Counter((clip.reference_text, clip.prediction_text) for clip in compared)
