"""Accuracy of the estimated lag of an interpreter, on simulated programmes whose lag is known.

    python benchmarks/interpreter_lag.py --json benchmarks/results/interpreter_lag.json

Speech is a list of sentences with pauses; the demo signer follows it, her keypoints have the demo corpus's errors. The
lag of starts is 2.6 s and that of ends 2.1 s (what SEA measured, arXiv 2512.08094), or differs from programme to
programme; it is steady, or wanders from sentence to sentence with 15 % of the sentences not signed.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # the project's root instead of this file's own folder

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.about import about
from unisign_fast.evaluation.predictions import write_json
from unisign_fast.pipelines.curation.lag import GATE, RATE, Recording, estimate_lag, estimate_lags, hand_speed
from unisign_fast.pipelines.curation.records import Lag, Sentence
from unisign_fast.pipelines.demo_corpus.interpreter import interpret
from unisign_fast.pipelines.demo_corpus.keypoint_errors import estimate
from unisign_fast.pipelines.demo_corpus.renderer import Camera
from unisign_fast.pipelines.demo_corpus.signer import SIGNERS
from unisign_fast.pipelines.errors import InputError
from unisign_fast.utils.console import run_command

FPS = 25
USUAL = Lag(2.6, 2.1)
FIXED = Lag(2.7, 2.7)  # BOBSL's shift
FEWEST_SECONDS = 60


@dataclass(frozen=True)
class Programme:
    """When each sentence is spoken and signed (None: it is not), and what the estimate sees of it."""

    spoken: list[tuple[float, float]]
    signed: list[tuple[float, float] | None]
    recording: Recording

    @property
    def lag(self) -> Lag:
        """The true lag: medians over the sentences that are signed."""
        pairs = [(a, b) for a, b in zip(self.spoken, self.signed, strict=True) if b]
        return Lag(*(float(np.median([b[end] - a[end] for a, b in pairs])) for end in (0, 1)))

    def ious(self, lag: Lag) -> list[float]:
        """For each signed sentence, the overlap of its signing with where `lag` expects it, over their union."""
        result = []
        for (start, end), truth in zip(self.spoken, self.signed, strict=True):
            if truth:
                a, b = lag.applied(Sentence("", start, end, 1.0))
                common = max(0.0, min(b, truth[1]) - max(a, truth[0]))
                result.append(common / (max(b, truth[1]) - min(a, truth[0])))
        return result


def simulate(seed: int, seconds: float, lag: Lag, wander: float = 0.0, unsigned: float = 0.0) -> Programme:
    """A programme; `wander` is the lag's standard deviation in seconds, `unsigned` a share of the sentences."""
    rng = np.random.default_rng((seed, 20))
    spoken: list[tuple[float, float]] = []
    at, drift = 1.0, wander * rng.normal()
    wanted: list[tuple[float, float] | None] = []
    while (end := at + rng.uniform(2, 7)) < seconds - 5:
        spoken.append((at, end))
        is_signed = rng.random() >= unsigned
        wanted.append((at + lag.start_seconds + drift, end + lag.end_seconds + drift) if is_signed else None)
        drift = 0.8 * drift + 0.6 * wander * rng.normal()
        at = end + 0.15 + rng.gamma(2, 0.3)
    signer = SIGNERS[seed % len(SIGNERS)]
    result = interpret(wanted, seconds, FPS, signer, rng)
    points, confidence = estimate(result.performance, signer, rng)
    points = Camera(512, 512, FPS, 256, 240, 512 * signer.size).fractions(points)
    keypoints = np.concatenate([points, confidence[..., None]], axis=-1).astype(np.float32)
    return Programme(spoken, result.signed, Recording(_activity(spoken, seconds, rng), hand_speed(keypoints, FPS, 1.0)))


def _activity(spoken: Sequence[tuple[float, float]], seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Loud and soft syllables within sentences, noise between them."""
    loud = rng.uniform(0, 0.1, round(seconds * RATE))
    for start, end in spoken:
        a, b = round(start * RATE), round(end * RATE)
        loud[a:b] += rng.uniform(0.4, 0.9, b - a)
    return loud.clip(0, 1).astype(np.float32)


def accuracy(programmes: Sequence[Programme]) -> dict[str, float]:
    """Errors in seconds, confidence and IoU of the programmes' own estimates, beside a fixed lag."""
    lags = [estimate_lag([one.recording], FIXED) for one in programmes]
    starts = [abs(a.start_seconds - one.lag.start_seconds) for a, one in zip(lags, programmes)]
    ends = [abs(a.end_seconds - one.lag.end_seconds) for a, one in zip(lags, programmes)]
    own = [iou for a, one in zip(lags, programmes) for iou in one.ious(a)]
    fixed = [iou for one in programmes for iou in one.ious(FIXED)]
    return {
        "start error, median": float(np.median(starts)),
        "start error, worst": max(starts),
        "end error, median": float(np.median(ends)),
        "end error, worst": max(ends),
        "confidence, least": min(a.confidence for a in lags),
        "IoU": float(np.mean(own)),
        "IoU of fixed 2.7 s": float(np.mean(fixed)),
        "share of IoU >= 0.5": float(np.mean(np.array(own) >= 0.5)),
        "share of fixed 2.7 s": float(np.mean(np.array(fixed) >= 0.5)),
    }


def unrelated(programmes: Sequence[Programme]) -> list[float]:
    """Confidences where the speech of each programme meets the hands of each other one."""
    pairs = [(a.recording, b.recording) for a in programmes for b in programmes if a is not b]
    return [estimate_lag([replace(a, speed=b.speed)], FIXED).confidence for a, b in pairs]


def interpreter_lag(programmes: int = 12, minutes: float = 5.0, json: Path | None = None) -> None:
    """Simulate programmes, estimate their lags and print errors, confidences and overlaps.

    Args:
        programmes: Number of each kind, two or more.
        minutes: Length of a programme.
        json: File to write the numbers to.
    """
    if programmes < 2 or minutes * 60 < FEWEST_SECONDS:
        raise InputError("--programmes, --minutes", f"{programmes} of {minutes}", "give at least 2 of 1 minute")
    rng, seconds = np.random.default_rng(0), 60 * minutes
    others = [Lag(start, start - 0.5) for start in rng.uniform(1.5, 4.5, programmes).tolist()]
    seeds = range(programmes)
    kinds = {
        "steady, 2.6/2.1 s": [simulate(n, seconds, USUAL) for n in seeds],
        "steady, 1.5 to 4.5 s": [simulate(n, seconds, others[n]) for n in seeds],
        "wandering 0.8 s, 15 % unsigned, 2.6/2.1 s": [simulate(n, seconds, USUAL, 0.8, 0.15) for n in seeds],
        "wandering 0.8 s, 15 % unsigned, 1.5 to 4.5 s": [simulate(n, seconds, others[n], 0.8, 0.15) for n in seeds],
    }
    rows = {name: accuracy(made) for name, made in kinds.items()}
    table = Table(title=f"{programmes} programmes of {minutes:g} minutes of each kind", title_justify="left")
    table.add_column("")
    for name in rows:
        table.add_column(name, justify="right")
    for measure in rows["steady, 2.6/2.1 s"]:
        table.add_row(measure, *(f"{row[measure]:.2f}" for row in rows.values()))
    Console(width=140).print(table)
    wandering = kinds["wandering 0.8 s, 15 % unsigned, 2.6/2.1 s"]
    pooled = estimate_lags({"series": [one.recording for one in wandering]}, FIXED)["series"]
    print(f"pooled over the {programmes} that wander around 2.6/2.1 s: {pooled}")
    chance = unrelated(wandering)
    below = sum(confidence < GATE for confidence in chance)
    print(
        f"{len(chance)} pairs of unrelated speech and hands: confidence {np.median(chance):.2f} (median), "
        f"{max(chance):.2f} (most); {below} below the gate of {GATE:g}, so with the given lag"
    )
    if json is not None:
        write_json(json, about() | {"programmes": programmes, "minutes": minutes, "kinds": rows, "unrelated": chance})


if __name__ == "__main__":
    run_command(interpreter_lag)
