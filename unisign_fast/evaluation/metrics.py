"""Metrics of SLT, CSLR and ISLR, in percent, computed as in the published code of Uni-Sign.

Texts are normalised first (unisign_fast/text/normalization.py), by a rule that is reported with the scores.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rouge import Rouge
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.metrics.base import Metric

from unisign_fast.evaluation.significance import RESAMPLES, SEED, ClipStatistics, interval
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.targets import Task
from unisign_fast.text.normalization import RULES, Normalization, by_character, rule_for, unreachable

SUBSTITUTION, INSERTION, DELETION = 4, 3, 3  # alignment costs only; each operation counts as one error


@dataclass(frozen=True)
class Scores:
    """The scores of one set of predictions."""

    statistics: dict[str, ClipStatistics]  # by metric, in the order of the clips
    signature: str  # how the metrics were computed, with library versions
    normalization: str  # a key of RULES
    unreachable: int  # references that mT5's tokenizer cannot write, even after normalisation

    @property
    def values(self) -> dict[str, float]:
        """Metric -> percent."""
        return {metric: statistics.value for metric, statistics in self.statistics.items()}

    @property
    def count(self) -> int:
        """Number of clips."""
        return len(next(iter(self.statistics.values())).per_clip)

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Metric -> 95 % interval over resampled clips, percent; takes about a second."""
        return {metric: interval(statistics) for metric, statistics in self.statistics.items()}

    def plain(self) -> dict:
        """Everything but the per-clip statistics, as JSON values."""
        return {
            "values": self.values,
            "intervals": self.intervals(),
            "interval": f"95 %|bs:{RESAMPLES}|seed:{SEED}",
            "signature": self.signature,
            "normalization": self.normalization,
            "count": self.count,
            "unreachable": self.unreachable,
        }


def score(
    task: Task,
    predictions: Sequence[str],
    references: Sequence[str],
    language: str,
    normalization: Normalization = "published",
    bleurt: Path | None = None,
    classes: Mapping[str, str] | None = None,
) -> Scores:
    """The scores of `task`; `predictions[i]` belongs to `references[i]`, which is never empty.

    `bleurt` is the folder of a BLEURT-20 checkpoint, for English SLT. `classes` (word -> class, see synonyms.py) makes
    synonyms one class in ISLR. Raises InputError if either does not apply to the task or BLEURT cannot be used.
    """
    if task != "slt" and bleurt is not None:
        raise InputError("--bleurt", f"BLEURT scores translations, not {task}", "leave it out")
    if task != "islr" and classes is not None:
        raise InputError("--classes", f"classes apply to words (islr), not to {task}", "leave it out")
    rule = rule_for(task, language, normalization)
    predictions, references = ([RULES[rule](text) for text in texts] for texts in (predictions, references))
    if task == "slt":
        statistics, signature = _slt(predictions, references, language, bleurt)
    elif task == "cslr":
        statistics, signature = _cslr(predictions, references)
    else:
        statistics, signature = _islr(predictions, references, {RULES[rule](w): c for w, c in (classes or {}).items()})
    return Scores(statistics, signature, rule, unreachable(references))


def _slt(
    predictions: list[str], references: list[str], language: str, bleurt: Path | None
) -> tuple[dict[str, ClipStatistics], str]:
    """BLEU-1 to 4, ROUGE-L, chrF and, where `bleurt` names a checkpoint, BLEURT-20 times 100.

    BLEU-k is sacrebleu's with exponential smoothing and maximum order k. In languages written without spaces,
    normalisation has already put spaces between the characters, so ROUGE-L counts characters, too.
    """
    statistics = {}
    for order in (1, 2, 3, 4):
        bleu = BLEU(tokenize=bleu_tokenizer(language), smooth_method="exp", max_ngram_order=order, force=True)
        statistics[f"BLEU-{order}"] = _sacrebleu_statistics(bleu, predictions, references)
    statistics["ROUGE-L"] = _mean([rouge_l(p, r) for p, r in zip(predictions, references, strict=True)])
    chrf = CHRF()
    statistics["chrF"] = _sacrebleu_statistics(chrf, predictions, references)
    units = f"units:{'characters' if by_character('slt', language) else 'words'}"
    rouge = f"ROUGE-L f1|mean|rouge:{version('rouge')}|{units}"
    signature = f"BLEU-k {bleu.get_signature()}|order:k|{units}; {rouge}; chrF {chrf.get_signature()}"
    if bleurt is not None:
        statistics["BLEURT-20"] = _mean([100 * x for x in _bleurt(predictions, references, language, bleurt)])
        signature += f"; BLEURT-20 mean x 100|checkpoint:{bleurt.name}"
    return statistics, signature


def bleu_tokenizer(language: str) -> str:
    """sacrebleu's tokenizer: 13a, as published; char for languages without spaces that have no published numbers."""
    return "char" if by_character("slt", language) and language != "zh" else "13a"


def sentence_bleu(prediction: str, reference: str, language: str) -> float:
    """BLEU-4 of one pair in percent, without the n-gram orders for which the texts are too short."""
    bleu = BLEU(tokenize=bleu_tokenizer(language), smooth_method="exp", effective_order=True)
    return bleu.sentence_score(prediction, [reference]).score


def _cslr(predictions: list[str], references: list[str]) -> tuple[dict[str, ClipStatistics], str]:
    """Word error rate and its three parts, in percent of the reference's glosses.

    Spaces separate glosses in every language, because a gloss names a sign, whatever its script.
    """
    counts = [edit_counts(r.split(), p.split()) for p, r in zip(predictions, references, strict=True)]
    words = [len(r.split()) for r in references]
    assert sum(words), "no glosses in the references"
    columns: dict[str, Sequence[int]] = {"WER": [sum(c) for c in counts]}
    columns |= dict(zip(("substitutions", "insertions", "deletions"), zip(*counts, strict=True), strict=True))
    signature = (
        f"WER units:glosses|alignment costs sub:{SUBSTITUTION}|ins:{INSERTION}|del:{DELETION}|ties:match,sub,ins,del"
    )
    return {metric: _ratio(errors, words) for metric, errors in columns.items()}, signature


def _islr(
    predictions: list[str], references: list[str], classes: Mapping[str, str]
) -> tuple[dict[str, ClipStatistics], str]:
    """Top-1 accuracy over clips, and its mean over the classes of the references.

    A prediction is correct if it equals the reference or, by `classes`, belongs to the same class.
    """
    predictions, references = ([classes.get(word, word) for word in words] for words in (predictions, references))
    assert references, "nothing to score"
    hits = np.array([p == r for p, r in zip(predictions, references, strict=True)])
    names, number = np.unique(references, return_inverse=True)
    one_hot = np.eye(len(names), dtype=np.float32)[number]
    per_class = ClipStatistics(np.concatenate([one_hot * hits[:, None], one_hot], axis=1), _mean_over_classes)
    signature = f"top-1 exact {'class' if classes else 'string'}|classes:{len(names)} of the references"
    return {"top-1 per instance": _mean(100 * hits), "top-1 per class": per_class}, signature


def _mean_over_classes(total: np.ndarray) -> float:
    hits, clips = np.split(total, 2)
    present = clips > 0  # a resample may lack a class
    return 100 * float((hits[present] / clips[present]).mean())


def _ratio(errors: Sequence[float], words: Sequence[float]) -> ClipStatistics:
    per_clip = np.stack([errors, words], axis=1).astype(np.float32)
    return ClipStatistics(per_clip, lambda total: 100 * float(total[0] / max(total[1], 1)))


def _mean(percents: Sequence[float] | np.ndarray) -> ClipStatistics:
    per_clip = np.stack([percents, np.ones(len(percents))], axis=1).astype(np.float32)
    return ClipStatistics(per_clip, lambda total: float(total[0] / total[1]))


def _sacrebleu_statistics(metric: Metric, predictions: list[str], references: list[str]) -> ClipStatistics:
    """Calls the same two methods as sacrebleu's own significance tests."""
    per_clip = np.array(metric._extract_corpus_statistics(predictions, [references]), np.float32)
    return ClipStatistics(per_clip, lambda total: metric._compute_score_from_stats(total.tolist()).score)


def rouge_l(prediction: str, reference: str) -> float:
    """F1 of PyPI `rouge`'s summary-level ROUGE-L, in percent.

    Precision and recall are the distinct words in the longest common subsequences of all pairs of sentences (which end
    at "."), divided by the distinct words of prediction and reference. A text of full stops alone scores 0, where the
    library would raise an error.
    """
    if not all(text.replace(".", "").split() for text in (prediction, reference)):
        return 0.0
    usual_limit = sys.getrecursionlimit()
    # The library backtraces the alignment recursively, with one call per word of either text.
    sys.setrecursionlimit(usual_limit + len(prediction) + len(reference))
    try:
        return 100 * Rouge(metrics=["rouge-l"], stats=["f"]).get_scores(prediction, reference)[0]["rouge-l"]["f"]
    finally:
        sys.setrecursionlimit(usual_limit)


def edit_counts(reference: Sequence[str], prediction: Sequence[str]) -> tuple[int, int, int]:
    """Substitutions, insertions and deletions of the cheapest alignment.

    The costs are 4, 3 and 3, as in the published code: three deletions and three insertions (18) are preferred to five
    substitutions (20), so the sum may exceed the Levenshtein distance. Among equally cheap steps, the backtrace prefers
    a match, then a substitution, an insertion, a deletion.
    """
    rows, columns = len(reference), len(prediction)
    cost = [[j * INSERTION for j in range(columns + 1)]]
    for i in range(1, rows + 1):
        row = [i * DELETION]
        for j in range(1, columns + 1):
            change = 0 if reference[i - 1] == prediction[j - 1] else SUBSTITUTION
            row.append(min(cost[i - 1][j - 1] + change, row[j - 1] + INSERTION, cost[i - 1][j] + DELETION))
        cost.append(row)
    substitutions = insertions = deletions = 0
    i, j = rows, columns
    while i or j:
        if i and j and reference[i - 1] == prediction[j - 1]:  # with these costs a match is always among the cheapest
            i, j = i - 1, j - 1
        elif i and j and cost[i][j] == cost[i - 1][j - 1] + SUBSTITUTION:
            substitutions, i, j = substitutions + 1, i - 1, j - 1
        elif j and cost[i][j] == cost[i][j - 1] + INSERTION:
            insertions, j = insertions + 1, j - 1
        else:
            deletions, i = deletions + 1, i - 1
    return substitutions, insertions, deletions


def _bleurt(predictions: Sequence[str], references: Sequence[str], language: str, checkpoint: Path) -> list[float]:
    if language != "en":
        raise InputError("--bleurt", "BLEURT-20 is reported for English only", "leave it out")
    if not (checkpoint / "bleurt_config.json").is_file():
        raise InputError(f"--bleurt {checkpoint}", "is not a BLEURT checkpoint", "name the unpacked folder BLEURT-20")
    try:
        from bleurt.score import BleurtScorer  # late import: it loads TensorFlow
    except ImportError:
        remedy = "install BLEURT from its authors' repository (google-research/bleurt), or leave --bleurt out"
        raise InputError("--bleurt", "the Python package bleurt is not installed", remedy) from None
    return BleurtScorer(str(checkpoint)).score(references=list(references), candidates=list(predictions))
