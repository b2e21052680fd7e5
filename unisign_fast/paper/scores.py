"""Uni-Sign's published test scores, in percent: Li et al., ICLR 2025.

Tables 18 to 21 are the complete results. Table 20 is printed with its test columns shifted; here its figures are under
the metrics that Table 6 confirms. "Rescored" rows are the authors' published pose-only predictions, scored with
unisign_fast/evaluation/metrics.py.
"""

from dataclasses import dataclass
from typing import NamedTuple


class Row(NamedTuple):
    """One system on one corpus."""

    corpus: str
    system: str
    values: tuple[str, ...]  # as printed


@dataclass(frozen=True)
class PublishedScores:
    """The rows of a task, in the order of `metrics`, which are those of unisign_fast/evaluation/metrics.py."""

    metrics: tuple[str, ...]
    better: str
    rows: tuple[Row, ...]


PUBLISHED = {
    "slt": PublishedScores(
        ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L"),
        "higher is better",
        (
            Row("CSL-Daily test (Chinese)", "pose-only, Table 19", ("53.86", "40.96", "32.02", "25.61", "54.92")),
            Row("CSL-Daily test (Chinese)", "RGB-pose, Table 19", ("55.08", "42.14", "32.98", "26.36", "56.51")),
            Row("CSL-Daily test (Chinese)", "pose-only, rescored", ("53.87", "40.99", "32.09", "25.70", "55.00")),
            Row("OpenASL test (English)", "pose-only, Tables 6 and 20", ("49.10", "35.91", "28.12", "22.67", "42.77")),
            Row("OpenASL test (English)", "RGB-pose, Tables 6 and 20", ("49.35", "36.32", "28.55", "23.14", "43.22")),
            Row("OpenASL test (English)", "pose-only, rescored", ("49.09", "35.91", "28.10", "22.64", "42.83")),
            Row("How2Sign test (English)", "pose-only, Table 21", ("40.4", "26.8", "19.3", "14.5", "34.3")),
            Row("How2Sign test (English)", "RGB-pose, Table 21", ("40.2", "27.1", "19.7", "14.9", "36.0")),
            Row("How2Sign test (English)", "pose-only, rescored", ("39.38", "26.44", "19.22", "14.50", "34.51")),
        ),
    ),
    "cslr": PublishedScores(
        ("WER",),
        "lower is better",
        (
            Row("CSL-Daily test (Chinese)", "pose-only, Tables 7 and 9", ("27.4",)),
            Row("CSL-Daily test (Chinese)", "RGB-pose, Table 9", ("26.0",)),
        ),
    ),
    "islr": PublishedScores(
        ("top-1 per instance", "top-1 per class"),
        "higher is better",
        (
            Row("MS-ASL, 100 words", "pose-only, Table 18", ("93.26", "93.16")),
            Row("MS-ASL, 100 words", "RGB-pose, Table 18", ("93.79", "94.02")),
            Row("MS-ASL, 200 words", "pose-only, Table 18", ("90.95", "91.38")),
            Row("MS-ASL, 200 words", "RGB-pose, Table 18", ("91.02", "91.56")),
            Row("MS-ASL, 1000 words", "pose-only, Table 18", ("77.88", "76.55")),
            Row("MS-ASL, 1000 words", "RGB-pose, Table 18", ("78.16", "76.97")),
            Row("WLASL, 100 words", "pose-only, Table 18", ("92.24", "92.75")),
            Row("WLASL, 100 words", "RGB-pose, Table 18", ("92.25", "92.67")),
            Row("WLASL, 300 words", "pose-only, Table 18", ("88.17", "88.69")),
            Row("WLASL, 300 words", "RGB-pose, Table 18", ("88.47", "88.92")),
            Row("WLASL, 2000 words", "pose-only, Table 18", ("63.13", "60.90")),
            Row("WLASL, 2000 words", "RGB-pose, Table 18", ("63.52", "61.32")),
        ),
    ),
}
