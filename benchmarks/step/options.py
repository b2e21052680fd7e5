"""Options of the benchmarks of the training step, and the jobs that follow from them."""

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from benchmarks.about import on_gpu
from benchmarks.step.job import Job
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.store.keypoint_store import KeypointStore
from unisign_fast.text.tokenizer import train_tokenizer
from unisign_fast.training.recipes import RECIPES, RecipeName

SYNTHETIC = "synthetic"
CPU_VOCABULARY = 32_000  # two recipes with mT5's 250,112 classes do not fit in 24 GiB
CPU_CLIPS_PER_STEP = CPU_CLIPS_PER_MICRO_BATCH = 4
GPU_CLIPS, CPU_CLIPS = 64, 8  # of the synthetic data
GPU_TRIALS, CPU_TRIALS = 5, 2  # on two CPU cores a comparison at one share of frames takes less than ten minutes
START = time.monotonic()


@dataclass(frozen=True)
class StepOptions:
    """How the training step is measured."""

    recipe: RecipeName = "base"  # geometry and lengths
    stage: Literal[1, 2, 3] = 3  # whose sizes of a step
    crops: Literal["video", "store"] = "store"  # where hand crops come from; the published code reads videos
    kernels: Literal["reference", "gpu", "cpu", "compiled"] | None = None  # None: the device's
    data: str = SYNTHETIC  # or the folder of a keypoint store
    precision: Literal["fp32", "bf16"] | None = None  # None: the recipe's on a GPU, fp32 on a CPU
    zero_stage: Literal[0, 1, 2, 3] | None = None  # None: the recipe's on a GPU, 0 on a CPU
    vocabulary: int | None = None  # classes; None: the recipe's on a GPU, at most 32,000 on a CPU
    clips_per_step: int | None = None  # None: the stage's on a GPU, at most 4 on a CPU
    clips_per_micro_batch: int | None = None  # of full length; None: the stage's, at most 4 on a CPU
    clips: int | None = None  # of the synthetic data; None: 64 on a GPU, 8 on a CPU
    trials: int | None = None  # interleaved; None: 5 on a GPU, 2 on a CPU
    steps: int = 1  # optimiser steps of a trial

    def __post_init__(self):
        for name in ("clips", "trials", "steps", "vocabulary", "clips_per_step", "clips_per_micro_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')}", f"{value} is not valid", "give 1 or more")

    @property
    def trial_count(self) -> int:
        """`trials`, or their number on this machine."""
        return self.trials or (GPU_TRIALS if on_gpu() else CPU_TRIALS)

    def job(self, folder: Path, p_samps: tuple[float, ...]) -> Job:
        """The job of the fast step at the first of these shares; `folder` gets the data for all of them."""
        from benchmarks.step.data import write_published  # late, as all that imports torch: --help needs none of it
        from unisign_fast.kernels.dispatch import default_backend

        for p_samp in p_samps:
            self._check(p_samp)
        recipe, gpu = RECIPES[self.recipe], on_gpu()
        settings = recipe.stages[self.stage]
        per_step, per_micro_batch = settings.clips_per_step, self._clips_at_once()
        if not gpu:
            per_step = min(per_step, CPU_CLIPS_PER_STEP)
            per_micro_batch = min(per_micro_batch, CPU_CLIPS_PER_MICRO_BATCH)
        per_step = self.clips_per_step or per_step
        store = self._store(folder / "store", per_step, rgb=max(p_samps) > 0)
        write_published(store, folder / "poses")
        tokenizer = train_tokenizer((clip.text for clip in store.clips if clip.text), folder / "tokenizer")
        return Job(
            candidate="fast",
            recipe=self.recipe,
            stage=self.stage,
            p_samp=p_samps[0],
            crops=self.crops,
            kernels=self.kernels or default_backend("cuda" if gpu else "cpu"),
            precision=self.precision or (settings.precision if gpu else "fp32"),
            zero_stage=(settings.zero_stage if gpu else 0) if self.zero_stage is None else self.zero_stage,
            vocabulary=self._classes(len(tokenizer), gpu),
            clips_per_step=per_step,
            clips_per_micro_batch=self.clips_per_micro_batch or per_micro_batch,
            store=str(store.path.resolve()),
            poses=str((folder / "poses").resolve()),
            tokenizer=str((folder / "tokenizer").resolve()),
        )

    def _clips_at_once(self) -> int:
        """Clips per micro-batch: the recipe's, or the published code's where the recipe derives it from GPU memory."""
        from unisign_fast.training.memory import AUTO, PUBLISHED_CLIPS

        recipe = RECIPES[self.recipe]
        frames = recipe.stages[self.stage].frames_per_device
        return PUBLISHED_CLIPS[self.stage] if frames == AUTO else frames // recipe.max_frames

    def _classes(self, needed: int, gpu: bool) -> int:
        """Size of the vocabulary: the one asked for, the recipe's, or that of the texts where it has none."""
        recipe_vocabulary = RECIPES[self.recipe].model.mt5.vocab_size
        if self.vocabulary is not None and self.vocabulary < needed:
            raise InputError("--vocabulary", f"{self.vocabulary} is too few", f"the texts need {needed}")
        if recipe_vocabulary and not gpu:
            recipe_vocabulary = CPU_VOCABULARY
        return self.vocabulary or recipe_vocabulary or -(-needed // 8) * 8

    def _check(self, p_samp: float) -> None:
        if not 0 <= p_samp <= 1:
            raise InputError("--p-samp", f"{p_samp} is not valid", "give shares in [0, 1]")
        if self.stage == 1 and p_samp or self.stage == 2 and not p_samp:
            kind = "is pose-only" if self.stage == 1 else "trains the RGB branch"
            raise InputError("--p-samp", f"{p_samp} is not valid, stage {self.stage} {kind}", "take --stage 3")

    def _store(self, path: Path, clips_per_step: int, rgb: bool) -> KeypointStore:
        if self.data != SYNTHETIC:
            return KeypointStore.open(self.data)
        from benchmarks.step.data import made_store

        recipe = RECIPES[self.recipe]
        clips = max(self.clips or (GPU_CLIPS if on_gpu() else CPU_CLIPS), clips_per_step)
        if rgb:
            progress(f"encoding {clips} videos and their hand crops")
        return made_store(path, clips, recipe.max_frames, rgb, recipe.crop_size)


def baseline(job: Job) -> Job:
    """The same job for the published step, which has no kernels but PyTorch's."""
    return replace(job, candidate="baseline", kernels="reference")


def progress(line: str) -> None:
    """Print the seconds since the start and the current activity to stderr."""
    print(f"{time.monotonic() - START:6.0f} s  {line}", file=sys.stderr, flush=True)
