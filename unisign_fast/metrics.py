"""The field's scores, as the published Uni-Sign counts them: SLT, CSLR and ISLR. All values are percentages.

Texts are normalised before they are compared, predictions and references alike, and the rule is named beside the
scores. `published` reproduces the published numbers; `nfkc` also folds every other character that mT5's tokenizer
cannot write (it turns all text into Unicode's compatibility form), so that each reference can be matched in full.
"""

import sys
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from rouge import Rouge
from sacrebleu.metrics import BLEU, CHRF

from pipelines.errors import InputError

Task = Literal["slt", "cslr", "islr"]
Language = Literal["zh", "en"]
Normalization = Literal["published", "nfkc"]

SUBSTITUTION, INSERTION, DELETION = 4, 3, 3  # costs of the alignment only; each counts as one error
INVISIBLE = dict.fromkeys((0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0xFEFF), " ")  # zero-width and direction marks


@dataclass(frozen=True)
class Scores:
    """What one set of predictions reached."""

    values: dict[str, float]  # metric -> percent
    signature: str  # how the metrics were computed, with library versions
    normalization: str  # a key of RULES
    count: int  # clips
    unreachable: int  # references with characters mT5's tokenizer cannot write, left as they are by the rule


def score(
    task: Task,
    predictions: Sequence[str],
    references: Sequence[str],
    language: Language,
    normalization: Normalization = "published",
    bleurt: Path | None = None,
) -> Scores:
    """The scores of `task`; `predictions[i]` belongs to `references[i]`, which is never empty.

    `bleurt` is the folder of a BLEURT-20 checkpoint, for English SLT. InputError when it cannot be used.
    """
    if task == "slt":
        return slt_scores(predictions, references, language, normalization, bleurt)
    if bleurt is not None:
        raise InputError("--bleurt", f"BLEURT scores translations, not {task}", "leave it out")
    scorer = cslr_scores if task == "cslr" else islr_scores
    return scorer(predictions, references, language, normalization)


def slt_scores(
    predictions: Sequence[str],
    references: Sequence[str],
    language: Language,
    normalization: Normalization = "published",
    bleurt: Path | None = None,
) -> Scores:
    """BLEU-1 to 4, ROUGE-L, chrF and, where `bleurt` names a checkpoint, BLEURT-20 times 100.

    BLEU-k is sacrebleu's with 13a, exponential smoothing and maximal order k. Chinese is scored by character.
    """
    rule = _rule("slt", language, normalization)
    predictions, references = _apply(rule, predictions), _apply(rule, references)
    values = {}
    for order in (1, 2, 3, 4):
        bleu = BLEU(tokenize="13a", smooth_method="exp", max_ngram_order=order, force=True)
        values[f"BLEU-{order}"] = bleu.corpus_score(predictions, [references]).score
    values["ROUGE-L"] = rouge_l(predictions, references)
    chrf = CHRF()
    values["chrF"] = chrf.corpus_score(predictions, [references]).score
    signature = (
        f"BLEU-k {bleu.get_signature()}|order:k; ROUGE-L f1|mean|rouge:{version('rouge')}; chrF {chrf.get_signature()}"
    )
    if bleurt is not None:
        values["BLEURT-20"] = _bleurt(predictions, references, language, bleurt)
        signature += f"; BLEURT-20 mean x 100|checkpoint:{bleurt.name}"
    return Scores(values, signature, rule, len(references), _unreachable(references))


def cslr_scores(
    predictions: Sequence[str],
    references: Sequence[str],
    language: Language,
    normalization: Normalization = "published",
) -> Scores:
    """Word error rate over glosses separated by spaces, and its three parts, in percent of the reference's glosses."""
    rule = _rule("cslr", language, normalization)
    predictions, references = _apply(rule, predictions), _apply(rule, references)
    counts = [edit_counts(r.split(), p.split()) for p, r in zip(predictions, references, strict=True)]
    words = sum(len(r.split()) for r in references)
    assert words, "no glosses in the references"
    substitutions, insertions, deletions = (100 * sum(column) / words for column in zip(*counts, strict=True))
    values = {
        "WER": substitutions + insertions + deletions,
        "substitutions": substitutions,
        "insertions": insertions,
        "deletions": deletions,
    }
    signature = f"WER alignment costs sub:{SUBSTITUTION}|ins:{INSERTION}|del:{DELETION}|ties:match,sub,ins,del"
    return Scores(values, signature, rule, len(references), _unreachable(references))


def islr_scores(
    predictions: Sequence[str],
    references: Sequence[str],
    language: Language,
    normalization: Normalization = "published",
) -> Scores:
    """Top-1 accuracy over clips, and its mean over the classes of the references. A hit is the exact string."""
    rule = _rule("islr", language, normalization)
    predictions, references = _apply(rule, predictions), _apply(rule, references)
    hits_of_class = defaultdict(list)
    for prediction, reference in zip(predictions, references, strict=True):
        hits_of_class[reference].append(prediction == reference)
    assert hits_of_class, "nothing to score"
    values = {
        "top-1 per instance": 100 * sum(map(sum, hits_of_class.values())) / len(references),
        "top-1 per class": 100 * sum(sum(h) / len(h) for h in hits_of_class.values()) / len(hits_of_class),
    }
    signature = f"top-1 exact string|classes:{len(hits_of_class)} of the references"
    return Scores(values, signature, rule, len(references), _unreachable(references))


def rouge_l(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Mean F1 of PyPI `rouge`'s summary-level ROUGE-L, in percent.

    Distinct words of the longest common subsequences of all pairs of sentences, which end at ".", over the distinct
    words of each side. Where a text is empty but for full stops the pair scores 0; the library alone would raise.
    """
    library = Rouge(metrics=["rouge-l"], stats=["f"])
    usual_limit = sys.getrecursionlimit()
    total = 0.0
    for prediction, reference in zip(predictions, references, strict=True):
        if not (_words(prediction.replace(".", "")) and _words(reference.replace(".", ""))):
            continue
        # The library walks the alignment recursively, one call a word of either side.
        sys.setrecursionlimit(usual_limit + len(prediction) + len(reference))
        try:
            total += library.get_scores(prediction, reference)[0]["rouge-l"]["f"]
        finally:
            sys.setrecursionlimit(usual_limit)
    return 100 * total / len(references)


def edit_counts(reference: Sequence[str], prediction: Sequence[str]) -> tuple[int, int, int]:
    """Substitutions, insertions and deletions of the cheapest alignment.

    Costs 4, 3, 3, as the published code has them: three deletions and three insertions (18) go before five
    substitutions (20), so the sum may exceed the Levenshtein distance. Of equally cheap steps, walking back from the
    end, it takes the match, then the substitution, the insertion, the deletion.
    """
    rows, columns = len(reference), len(prediction)
    cost = [[j * INSERTION for j in range(columns + 1)]]
    for i in range(1, rows + 1):
        line = [i * DELETION]
        for j in range(1, columns + 1):
            changed = 0 if reference[i - 1] == prediction[j - 1] else SUBSTITUTION
            line.append(min(cost[i - 1][j - 1] + changed, line[j - 1] + INSERTION, cost[i - 1][j] + DELETION))
        cost.append(line)
    substitutions = insertions = deletions = 0
    i, j = rows, columns
    while i or j:
        if i and j and reference[i - 1] == prediction[j - 1]:  # with these costs a match is never dearer
            i, j = i - 1, j - 1
        elif i and j and cost[i][j] == cost[i - 1][j - 1] + SUBSTITUTION:
            substitutions, i, j = substitutions + 1, i - 1, j - 1
        elif j and cost[i][j] == cost[i][j - 1] + INSERTION:
            insertions, j = insertions + 1, j - 1
        else:
            deletions, i = deletions + 1, i - 1
    return substitutions, insertions, deletions


def _words(text: str) -> str:
    return " ".join(text.split())


def _characters(text: str) -> str:
    return " ".join("".join(text.split()))


def _nfkc(text: str) -> str:
    """What mT5's tokenizer makes of a text: NFKC, but invisible marks become spaces and U+FF5E stays."""
    parts = text.translate(INVISIBLE).split("～")
    return "～".join(unicodedata.normalize("NFKC", part) for part in parts)


RULES: dict[str, Callable[[str], str]] = {
    "none": lambda text: text,
    "single-spaces": _words,
    # Published for references only; predictions of mT5 hold neither mark, those of other systems get the same chance.
    "csl-daily": lambda text: _characters(text.replace("，", ",").replace("？", "?")),
    "nfkc": lambda text: _words(_nfkc(text)),
    "nfkc-characters": lambda text: _characters(_nfkc(text)),
}


def _rule(task: Task, language: Language, normalization: Normalization) -> str:
    by_character = task == "slt" and language == "zh"
    if normalization == "nfkc":
        return "nfkc-characters" if by_character else "nfkc"
    if by_character:
        return "csl-daily"
    return "none" if task == "slt" else "single-spaces"


def _apply(rule: str, texts: Sequence[str]) -> list[str]:
    return [RULES[rule](text) for text in texts]


def _unreachable(references: Sequence[str]) -> int:
    return sum(_nfkc(text).split() != text.split() for text in references)


def _bleurt(predictions: Sequence[str], references: Sequence[str], language: Language, checkpoint: Path) -> float:
    if language != "en":
        raise InputError("--bleurt", "BLEURT-20 is reported for English only", "leave it out")
    if not (checkpoint / "bleurt_config.json").is_file():
        raise InputError(f"--bleurt {checkpoint}", "is no BLEURT checkpoint", "name the unpacked folder BLEURT-20")
    try:
        from bleurt.score import BleurtScorer  # TensorFlow comes with it: only when asked for
    except ImportError:
        remedy = "install BLEURT from its authors' repository (google-research/bleurt), or leave --bleurt out"
        raise InputError("--bleurt", "the Python package bleurt is not installed", remedy) from None
    values = BleurtScorer(str(checkpoint)).score(references=list(references), candidates=list(predictions))
    return 100 * sum(values) / len(values)
