"""The demo corpus: a small sign language performed by procedural signers, as videos, keypoints and texts.

    python launch/prepare.py demo

It writes two stores, sentences (SLT and CSLR) and words (ISLR), each with H.264 videos. Eight of the twenty signs form
pairs that differ in handshape alone and are signed so fast that the keypoint estimator only guesses the fingers, with
low confidence: keypoints cannot tell them apart, the picture can (tag `needs_rgb`). `signs` and `language` define
the content, `signer` performs it, `keypoint_errors` and `renderer` observe it, `plan` lists the clips.
"""

import multiprocessing
import os
from collections.abc import Generator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..atomic_io import clear_unfinished, created_once
from ..errors import InputError
from ..store.keypoint_store import KeypointStoreWriter
from ..workers import end_with_parent
from .keypoint_errors import estimate
from .plan import ClipPlan, plan_corpus
from .renderer import render
from .signer import perform

FEWEST_CLIPS, MOST_CLIPS = 60, 5000
STORES = ("sentences", "words")
_SOURCE = {
    "estimator": "demo corpus (procedural signer with simulated estimator errors)",
    "version": "1",
    "coordinates": "fractions of the picture's width and height, origin at its top left",
}


def make_clip(plan: ClipPlan, folder: Path) -> np.ndarray:
    """Writes the clip's video into `folder` and returns its keypoints [T, 133, 3] float32, as a store wants them."""
    signing, errors = (np.random.default_rng((*plan.seed, purpose)) for purpose in (0, 1))
    performance = perform(plan.sentence.glosses, plan.signer, signing)
    points, confidence = estimate(performance, plan.signer, errors)
    render(performance, plan.signer, plan.camera, folder / f"{plan.id}.mp4")
    return np.concatenate([plan.camera.fractions(points), confidence[..., None]], axis=-1).astype(np.float32)


def _write_store(path: Path, plans: list[ClipPlan], pool: Executor, progress: Progress) -> None:
    """Makes the clips in the pool's processes and stores them in the order of the plans."""
    videos = path / "videos"
    videos.mkdir(parents=True)
    task = progress.add_task(path.name, total=len(plans))
    clips = cast(Generator[np.ndarray], pool.map(partial(make_clip, folder=videos), plans, chunksize=4))
    with closing(clips) as made, KeypointStoreWriter(path, _SOURCE) as writer:  # closing it cancels the remaining clips
        for plan, keypoints in zip(plans, made, strict=True):
            writer.add(
                keypoints,
                id=plan.id,
                split=plan.split,
                language="zh",
                text=plan.sentence.chinese,
                gloss=" ".join(plan.sentence.glosses),
                fps=float(plan.camera.fps),
                width=plan.camera.width,
                height=plan.camera.height,
                source=f"videos/{plan.id}.mp4",
                translations={"en": plan.sentence.english},
                tags={"signer": plan.signer.name, "needs_rgb": "yes" if plan.needs_rgb else "no"},
            )
            progress.advance(task)


def write_demo_corpus(root: Path, clips: int, seed: int, workers: int | None = None) -> None:
    """Writes the stores root/sentences and root/words with `clips` clips in total, half of them sentences.

    The same `clips` and `seed` give the same labels and keypoints, byte for byte, with any number of `workers` (None:
    one per core). The corpus appears at `root` once it is complete and on disk; of several at once, the first to end
    wins. A killed run leaves a hidden folder `.NAME.unfinished-PID` beside it. Raises InputError if `root` exists or
    cannot be written, or a number is out of range.
    """
    root = Path(root).absolute()
    if not FEWEST_CLIPS <= clips <= MOST_CLIPS:
        raise InputError("--clips", f"{clips} is not in [{FEWEST_CLIPS}, {MOST_CLIPS}]", "choose a number in it")
    if seed < 0:
        raise InputError("--seed", f"{seed} is negative", "choose 0 or more")
    if root.exists():
        raise InputError(root, "exists already", "name another folder or remove this one")
    plans = plan_corpus(clips, seed)
    unfinished = root.with_name(f".{root.name}.unfinished-{os.getpid()}")
    columns = TextColumn("demo corpus: {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    context = multiprocessing.get_context("spawn")  # the caller may hold threads, which a fork would not survive
    workers = workers or len(os.sched_getaffinity(0))
    progress, pool = Progress(*columns), ProcessPoolExecutor(workers, context, end_with_parent)
    try:
        with created_once(root, unfinished) as part, progress, pool:
            for store in STORES:
                _write_store(part / store, [p for p in plans if p.store == store], pool, progress)
    finally:
        clear_unfinished(unfinished)
