"""Gain of `--trim-vocabulary`: the training step with mT5's vocabulary and with the part a corpus needs, interleaved.

    python benchmarks/trim_gain.py --clips 16 --clips-per-step 4

The texts, their tokens and the rest of the model are the same; tests/text/test_vocabulary_trimming.py shows that the
results are the same too.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # the project's root instead of this file's own folder

import tyro

from benchmarks.step.interleaved import compare_candidates
from benchmarks.step.options import StepOptions
from benchmarks.step.worker import ROOT
from unisign_fast.model.config import MT5Shape
from unisign_fast.utils.console import run_command

CORPUS_PIECES = 8192  # about as many as Chinese text needs


def trim_gain(
    step: tyro.conf.OmitArgPrefixes[StepOptions] = StepOptions(vocabulary=CORPUS_PIECES),
    p_samp: float = 0.0,
    json: Path | None = None,
) -> None:
    """Measure the step with a trimmed vocabulary of `--vocabulary` classes against mT5's own.

    Args:
        step: How it is measured.
        p_samp: Share of frames whose hands are sampled.
        json: File for the rows.
    """
    with tempfile.TemporaryDirectory() as folder:
        job = step.job(Path(folder), (p_samp,))
        full = replace(job, vocabulary=MT5Shape().vocab_size)
        candidates = {f"{one.vocabulary:,}": (one, ROOT) for one in (full, job)}
        compare_candidates(candidates, step, "classes", json)


if __name__ == "__main__":
    run_command(trim_gain)
