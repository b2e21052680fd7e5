"""Compares each prediction with its reference (quality, differing words) and selects the worst and the best."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import NamedTuple

from unisign_fast.evaluation.metrics import edit_counts, sentence_bleu
from unisign_fast.evaluation.predictions import Prediction
from unisign_fast.text.normalization import RULES


class Span(NamedTuple):
    """Adjacent words of a text, or adjacent characters if these are scored."""

    text: str
    differs: bool


@dataclass(frozen=True)
class Comparison:
    """A prediction and its reference, as they are scored."""

    id: str
    prediction: list[Span]
    reference: list[Span]
    space: str  # between spans
    score: float  # sentence BLEU, WER, or 100 for a correct word
    verdict: str  # the score in words
    quality: float  # higher is better; comparable within a task only

    @property
    def prediction_text(self) -> str:
        """The normalised prediction."""
        return self.space.join(span.text for span in self.prediction)

    @property
    def reference_text(self) -> str:
        """The normalised reference."""
        return self.space.join(span.text for span in self.reference)


def compare(task: str, language: str, rule: str, row: Prediction) -> Comparison:
    """Compares a prediction with its reference; `language` is that of the texts, `rule` a key of RULES."""
    prediction, reference = (RULES[rule](text).split() for text in (row.prediction, row.reference))
    if task == "slt":
        score = sentence_bleu(" ".join(prediction), " ".join(reference), language)
        score = quality = round(score, 6)  # BLEU of equal texts is 100 up to rounding
        verdict = f"sentence BLEU {score:.1f}"
    elif task == "cslr":
        counts = edit_counts(reference, prediction)
        glosses = max(len(reference), 1)
        score = 100 * sum(counts) / glosses
        quality = -score
        substituted, inserted, deleted = counts
        verdict = f"WER {score:.1f}: {substituted} substituted, {inserted} inserted, {deleted} deleted of {glosses}"
    else:
        score = quality = 100.0 * (prediction == reference)
        verdict = "correct" if score else "wrong"
    space = "" if RULES[rule]("茶水") == "茶 水" else " "  # a rule that separates characters: join them again
    blocks = SequenceMatcher(None, prediction, reference, autojunk=False).get_opcodes()
    predicted = [Span(space.join(prediction[a:b]), kind != "equal") for kind, a, b, _, _ in blocks if a < b]
    expected = [Span(space.join(reference[a:b]), kind != "equal") for kind, _, _, a, b in blocks if a < b]
    return Comparison(row.id, predicted, expected, space, score, verdict, quality)


def worst_and_best(compared: Sequence[Comparison], count: int) -> tuple[list[Comparison], list[Comparison]]:
    """The `count` worst clips, worst first, and the `count` best, best first; no clip is in both."""
    ordered = sorted(compared, key=lambda clip: clip.quality)
    worst = ordered[: min(count, (len(ordered) + 1) // 2)]
    return worst, ordered[len(worst) :][::-1][:count]
