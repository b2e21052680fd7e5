"""How each prediction compares with its reference: its quality, and where the texts differ; the worst and the best."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import NamedTuple

from unisign_fast.evaluation.metrics import edit_counts, sentence_bleu
from unisign_fast.evaluation.predictions import Prediction
from unisign_fast.text.normalization import RULES


class Span(NamedTuple):
    """Adjacent words of a text, or characters where these are scored."""

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
        return self.space.join(span.text for span in self.prediction)

    @property
    def reference_text(self) -> str:
        return self.space.join(span.text for span in self.reference)


def compare(task: str, language: str, rule: str, row: Prediction) -> Comparison:
    """One prediction beside its reference; `language` is the texts', `rule` a key of normalization.RULES."""
    prediction, reference = (RULES[rule](text).split() for text in (row.prediction, row.reference))
    if task == "slt":
        score = sentence_bleu(" ".join(prediction), " ".join(reference), language)
        score = quality = round(score, 6)  # equal texts reach 100 but for rounding
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
    space = "" if RULES[rule]("茶水") == "茶 水" else " "  # the rule separates characters: they are joined again
    blocks = SequenceMatcher(None, prediction, reference, autojunk=False).get_opcodes()
    ours = [Span(space.join(prediction[a:b]), kind != "equal") for kind, a, b, _, _ in blocks if a < b]
    theirs = [Span(space.join(reference[a:b]), kind != "equal") for kind, _, _, a, b in blocks if a < b]
    return Comparison(row.id, ours, theirs, space, score, verdict, quality)


def worst_and_best(compared: Sequence[Comparison], count: int) -> tuple[list[Comparison], list[Comparison]]:
    """`count` clips of either end, the worst and the best first; no clip twice, so fewer where there are few."""
    ordered = sorted(compared, key=lambda clip: clip.quality)
    worst = ordered[: min(count, (len(ordered) + 1) // 2)]
    return worst, ordered[len(worst) :][::-1][:count]
