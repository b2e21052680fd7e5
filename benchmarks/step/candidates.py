"""The two training steps that are compared, on the same clips: this project's, and the published one (the baseline).

Both have the same settings, initial weights, optimiser and engine, and see the same frames and hands.
"""

import os
import sys
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader

from benchmarks.baseline.data import read_hands, read_parts
from benchmarks.baseline.step import PublishedBatch, PublishedUniSign, published_batch
from benchmarks.step.data import StepTokenizer
from benchmarks.step.job import Job
from benchmarks.step.phases import PhaseClock
from unisign_fast.kernels.dispatch import force
from unisign_fast.model.flops import TRAINING, forward_flops
from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.batches.collate import Sample
from unisign_fast.pipelines.batches.loader import BatchLoader
from unisign_fast.pipelines.batches.packed_batch import PackedBatch
from unisign_fast.pipelines.batches.reader import ClipReader
from unisign_fast.pipelines.clips.dataset import ClipSet
from unisign_fast.pipelines.clips.frame_sampling import choose_frames
from unisign_fast.pipelines.rng import stream
from unisign_fast.pipelines.store.keypoint_store import KeypointStore
from unisign_fast.training.deepspeed_engine import backward_step, start_engine
from unisign_fast.training.run import LOADER_THREADS
from unisign_fast.training.trainer import step_seed
from unisign_fast.utils.distributed import start_ranks
from unisign_fast.utils.process_memory import keep_memory

MOST_WORKERS = 8  # reading processes of the published code
FOREVER = 10**6  # epochs, or steps


@dataclass(frozen=True)
class Sizes:
    """Sizes of a step: frames, prompt tokens and target tokens of each clip, and hand crops of all clips."""

    frames: list[int]
    prompts: list[int]
    tokens: list[int]
    crops: int


class Candidate(ABC):
    """A training step in this process. `run` takes steps and times them; `phases` says where their time goes."""

    def __init__(self, job: Job):
        force(job.kernels)
        self.job, self.ranks = job, start_ranks()
        self.device = self.ranks.device
        self.tokenizer = StepTokenizer(Path(job.tokenizer))
        self.reader = ClipReader([KeypointStore.open(job.store)], job.data, self.tokenizer, device=self.device)
        self.clips = self.reader.clips("train")
        torch.manual_seed(0)
        self.engine = start_engine(self._model(UniSign(job.model)), job.train, FOREVER)
        self.engine.train()
        self._data, self._steps_done = self._batches(), 0

    def _loader(self) -> BatchLoader:
        return BatchLoader(
            self.reader,
            self.clips,
            clips_per_step=self.job.clips_per_step,
            budget=self.job.budget,
            on_bad_clip=lambda clip_id, error: print(f"left out: {error}", file=sys.stderr),
            workers=LOADER_THREADS,
        )

    @abstractmethod
    def _model(self, model: UniSign) -> torch.nn.Module:
        """The module to train, of our model's weights."""

    @abstractmethod
    def _batches(self) -> Iterator[list]:
        """Yields the micro-batches of each step in order."""

    @abstractmethod
    def _take_step(self, batches: list) -> float:
        """One optimiser step; the mean loss of the target tokens."""

    @abstractmethod
    def _sizes(self, batch) -> Sizes:
        """Sizes of a micro-batch."""

    def run(self, steps: int) -> dict:
        """Seconds of so many steps, what was in them, and the most memory so far."""
        self._warm_up(steps)
        return self._timed(steps) | {"peak_bytes": self._peak_bytes()}

    def _warm_up(self, steps: int) -> None:
        """So many steps, if the process has taken none: the first ones touch the memory that later ones find."""
        if not self._steps_done:
            self._steps(steps)

    def _timed(self, steps: int) -> dict:
        self._wait()
        begin = time.perf_counter()
        losses, taken = self._steps(steps)
        self._wait()
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "losses": [float(loss) for loss in losses]} | self._counted(taken)

    def _steps(self, steps: int) -> tuple[list, list]:
        """The losses and the micro-batches of so many steps."""
        losses, taken = [], []
        for _ in range(steps):
            batches = next(self._data)
            torch.manual_seed(step_seed(0, self._steps_done, 0))
            losses.append(self._take_step(batches))
            taken += batches
            self._steps_done += 1
        return losses, taken

    def phases(self, steps: int) -> dict:
        """Seconds of each phase, and the share of padding among the positions of mT5's encoder."""
        self._warm_up(steps)
        clock = PhaseClock(self.device)
        optimise = self.engine.step
        self.engine.step = lambda: (clock.enter("optimiser"), optimise(), clock.enter("input"))
        with clock.watch(self.engine.module):
            result = self._timed(steps)
        self.engine.step = optimise
        return {"seconds": dict(clock.seconds), "padding": 1 - result["positions"] / clock.positions}

    def profile(self, warm_up: int, steps: int, trace: str) -> dict:
        """Writes a trace (Chrome's JSON) of so many steps, behind those that warm up; `operations` by their own time,
        the costliest first: name, calls, and milliseconds on the device."""
        self._warm_up(warm_up)
        on_gpu = self.device.type == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        with profile(activities=activities) as profiler:
            self._timed(steps)
        profiler.export_chrome_trace(trace)
        times = "self_device_time_total" if on_gpu else "self_cpu_time_total"
        result = [(event.key, event.count, getattr(event, times) / 1000) for event in profiler.key_averages()]
        return {"operations": sorted(result, key=lambda one: -one[2])}

    def _peak_bytes(self) -> int:
        """Peak memory: the GPU's, or this process's."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return 1024 * int(status["VmHWM"].split()[0])

    def _counted(self, batches: list) -> dict:
        totals: dict[str, float] = defaultdict(int)
        for batch in batches:
            s = self._sizes(batch)
            flops = forward_flops(self.job.model, s.frames, s.prompts, s.tokens, s.crops, self.job.data.crop_size)
            totals["clips"] += len(s.frames)
            totals["frames"] += sum(s.frames)
            totals["positions"] += sum(s.frames) + sum(s.prompts)
            totals["tokens"] += sum(s.tokens)
            totals["crops"] += s.crops
            totals["flops"] += TRAINING * sum(flops.values())
        return totals

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class FastStep(Candidate):
    """This project's step, as unisign_fast/training/trainer.py takes it, in a process set up like training/run.py's."""

    def __init__(self, job: Job):
        keep_memory()
        super().__init__(job)

    def _model(self, model: UniSign) -> UniSign:
        return model

    def _batches(self) -> Iterator[list[PackedBatch]]:
        for _, _, batches in self._loader().steps(FOREVER):
            yield batches

    def _take_step(self, batches: list[PackedBatch]) -> Tensor:
        tokens = max(1, sum(sum(batch.label_lengths) for batch in batches))
        return backward_step(self.engine, batches, torch.full((), 1 / tokens, device=self.device)).loss_sum / tokens

    def _sizes(self, batch: PackedBatch) -> Sizes:
        return Sizes(batch.lengths, batch.prompt_lengths, batch.label_lengths, sum(batch.crops_per_hand))


class BaselineStep(Candidate):
    """The published step (baseline/step.py, baseline/data.py). Its clips come in no order of length, read ahead by
    processes."""

    def _model(self, model: UniSign) -> PublishedUniSign:
        return PublishedUniSign(model, self.tokenizer)

    def _batches(self) -> Iterator[list[PublishedBatch]]:
        plans = self._plans()
        workers = min(MOST_WORKERS, len(os.sched_getaffinity(0)))
        loader = DataLoader(
            PublishedClips(self.reader, self.clips, Path(self.job.poses)),
            batch_sampler=(batch for step in self._plans() for batch in step),
            num_workers=workers,
            collate_fn=lambda result: published_batch(*map(list, zip(*result))),
            pin_memory=self.device.type == "cuda",
        )
        loaded = iter(loader)
        for step in plans:
            yield [next(loaded) for _ in step]

    def _plans(self) -> Iterator[list[list[tuple[int, int]]]]:
        """The micro-batches of (epoch, clip) of each step: the fast step's clips in shuffled order."""
        loader, size = self._loader(), self.job.clips_per_micro_batch
        for epoch in range(FOREVER):
            plan = loader.plan(epoch)
            for step in range(plan.steps):
                clips = [(epoch, clip) for clip in sorted(chain(*plan.micro_batches(step, 0)))]
                yield [clips[first : first + size] for first in range(0, len(clips), size)]

    def _take_step(self, batches: list[PublishedBatch]) -> float:
        losses, tokens = 0.0, 0.0
        for number, batch in enumerate(batches, 1):
            self.engine.set_gradient_accumulation_boundary(number == len(batches))
            loss, here = self.engine(batch.to(self.device))
            self.engine.backward(loss / here.clamp(min=1) / len(batches))
            losses, tokens = losses + loss.item(), tokens + here.item()
        self.engine.step()
        return losses / max(tokens, 1)

    def _sizes(self, batch: PublishedBatch) -> Sizes:
        prompts = [len(self.tokenizer.prompt_ids(language)) for language in batch.languages]
        tokens = [len(self.tokenizer.target_ids(text)) for text in batch.texts]
        return Sizes(batch.lengths, prompts, tokens, sum(map(sum, batch.crop_counts)))


class PublishedClips:
    """A data set of (epoch, clip): the choices of the project's own rules, read the published way."""

    def __init__(self, reader: ClipReader, clips: ClipSet, poses: Path):
        self.reader, self.clips, self.poses = reader, clips, poses

    def __getitem__(self, key: tuple[int, int]) -> tuple[Sample, str, dict[str, Tensor], Tensor]:
        epoch, number = key
        ref = self.clips[number]
        sample = self.reader.read(ref, epoch, True)
        most, frames = self.reader.settings.max_frames, ref.clip.frames
        chance = stream(self.reader.seed, epoch, ref.clip.id, "frames") if frames > most else None
        parts = read_parts(self.poses / f"{number}.pkl", choose_frames(frames, most, chance))
        size = self.reader.settings.crop_size
        crops = torch.zeros(0, 3, size, size)
        if len(sample.crop_frame):
            crops = read_hands(sample.hands.video, sample, size)
        return sample, ref.clip.language, parts, crops


CANDIDATES: dict[str, Callable[[Job], Candidate]] = {"fast": FastStep, "baseline": BaselineStep}
