"""How well each clip was said, which clips were said worst and best, and where a text differs from its reference."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import NamedTuple

from sacrebleu.metrics import BLEU

from unisign_fast.evaluation.metrics import edit_counts
from unisign_fast.evaluation.predictions import Prediction
from unisign_fast.text.normalization import RULES

BY_CHARACTER = ("csl-daily", "nfkc-characters")  # rules of text_rules.py that put a space between characters


class Span(NamedTuple):
    """Neighbouring words (characters, where they are scored by character) of a text."""

    text: str
    differs: bool


@dataclass(frozen=True)
class Said:
    """One clip's texts, as they are scored, and how well they agree."""

    id: str
    prediction: list[Span]
    reference: list[Span]
    space: str  # between spans
    verdict: str
    quality: float  # the higher the better; within a task only


def compare(task: str, rule: str, row: Prediction) -> Said:
    """One prediction beside its reference; `rule` is a key of text_rules.RULES."""
    prediction, reference = (RULES[rule](text).split() for text in (row.prediction, row.reference))
    if task == "slt":
        bleu = BLEU(tokenize="13a", smooth_method="exp", effective_order=True)
        quality = bleu.sentence_score(" ".join(prediction), [" ".join(reference)]).score
        verdict = f"sentence BLEU {quality:.1f}"
    elif task == "cslr":
        counts = edit_counts(reference, prediction)
        words = max(len(reference), 1)
        quality = -100 * sum(counts) / words
        substituted, inserted, deleted = counts
        verdict = f"WER {-quality:.1f}: {substituted} substituted, {inserted} inserted, {deleted} deleted of {words}"
    else:
        quality = 100.0 * (prediction == reference)
        verdict = "right" if quality else "wrong"
    space = "" if rule in BY_CHARACTER else " "
    blocks = SequenceMatcher(None, prediction, reference, autojunk=False).get_opcodes()
    ours = [Span(space.join(prediction[a:b]), kind != "equal") for kind, a, b, _, _ in blocks if a < b]
    theirs = [Span(space.join(reference[a:b]), kind != "equal") for kind, _, _, a, b in blocks if a < b]
    return Said(row.id, ours, theirs, space, verdict, quality)


def worst_and_best(said: Sequence[Said], count: int) -> tuple[list[Said], list[Said]]:
    """`count` clips of either end, the worst and the best first; no clip twice, so fewer where there are few."""
    ordered = sorted(said, key=lambda clip: clip.quality)
    worst = ordered[: min(count, (len(ordered) + 1) // 2)]
    return worst, ordered[len(worst) :][::-1][:count]
