"""Packed batches for the training loop, prepared in background threads and copied to the device ahead of it.

clips of a step (batch_sampler.py) -> ClipReader.batch -> PackedBatch
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..clips.dataset import ClipSet
from ..errors import InputError
from ..workers import compute_alone
from .batch_sampler import Budget, EpochPlan
from .packed_batch import PackedBatch
from .reader import BadClip, ClipReader, LoadedClips

MIN_CLIPS_SEEN = 20  # before the share of bad clips is checked, except at the end of an epoch


class LoadedStep(NamedTuple):
    """The micro-batches of one rank for one optimiser step, with its position (epoch, step)."""

    epoch: int
    step: int
    batches: list[PackedBatch]


class _Job(NamedTuple):
    epoch: int
    step: int
    ends_step: bool
    ends_epoch: bool
    clips: list[int]  # clip numbers of one micro-batch


class BatchLoader:
    """Packs one rank's share of the clips, in background threads and ahead of the training loop.

        for epoch, step, batches in loader.steps(epochs=20, epoch=3, step=17): ...

    Every epoch has its own order, frames and sampled hands. A bad clip is left out, counted, and reported to
    `on_bad_clip(clip_id, error)` in the consumer's thread, in the order of the clips. `workers` threads keep twice as
    many micro-batches in preparation or ready, on the reader's device.
    """

    def __init__(
        self,
        reader: ClipReader,
        clips: ClipSet,
        *,
        clips_per_step: int,
        budget: Budget,
        on_bad_clip: Callable[[str, InputError], None],
        rank: int = 0,
        ranks: int = 1,
        max_bad_share: float = 0.05,
        workers: int = 2,
    ):
        """`budget` limits one micro-batch of one rank."""
        assert 0 <= rank < ranks and workers >= 1, (rank, ranks, workers)
        self.reader, self.clips, self.rank, self.ranks = reader, clips, rank, ranks
        self.clips_per_step, self.budget, self.workers = clips_per_step, budget, workers
        self.on_bad_clip, self.max_bad_share = on_bad_clip, max_bad_share
        self.clips_seen = self.bad_clips = 0  # clips of this rank since the loader was created
        self._frames = np.minimum(clips.frames, reader.settings.max_frames)

    def plan(self, epoch: int) -> EpochPlan:
        """The plan of an epoch: which clips (numbers of the clip set) belong to which step."""
        sizes = self.clips_per_step, self.budget, self.ranks
        return EpochPlan(self._frames, self.clips.tokens, *sizes, self.reader.seed, epoch)

    def steps(self, epochs: int, epoch: int = 0, step: int = 0) -> Iterator[LoadedStep]:
        """Every step from (epoch, step) up to, but not including, epoch number `epochs`.

        The steps after a position are the same wherever iteration began. Threads run from the first `next` until the
        iterator is exhausted or closed. Raises InputError when too many clips are bad, and re-raises any other error
        of a thread.
        """
        stop = threading.Event()
        pool = ThreadPoolExecutor(self.workers, "loader", compute_alone, (self.reader.device,))
        submitted = ((job, pool.submit(self._load, job, stop)) for job in self._jobs(epochs, epoch, step))
        try:
            ahead = deque(islice(submitted, 2 * self.workers))
            batches = []
            while ahead:
                job, future = ahead.popleft()
                loaded = future.result()
                ahead.extend(islice(submitted, 1))
                batches.append(on_current_stream(loaded.batch))
                self._count(len(job.clips), loaded.bad, job.ends_epoch)
                if job.ends_step:
                    yield LoadedStep(job.epoch, job.step, batches)
                    batches = []
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)

    def _jobs(self, epochs: int, epoch: int, step: int) -> Iterator[_Job]:
        for now in range(epoch, epochs):
            plan = self.plan(now)
            for position in range(step if now == epoch else 0, plan.steps):
                micro_batches = plan.micro_batches(position, self.rank)
                for number, clips in enumerate(micro_batches, 1):
                    ends_step = number == len(micro_batches)
                    yield _Job(now, position, ends_step, ends_step and position == plan.steps - 1, clips)

    def _load(self, job: _Job, stop: threading.Event) -> LoadedClips:
        """Runs in a worker thread and returns the micro-batch on the device."""
        loaded = self.reader.batch(self.clips, job.clips, job.epoch, True, stop.is_set)
        return loaded._replace(batch=ahead_on(self.reader.device, loaded.batch))

    def _count(self, clips: int, bad: list[BadClip], ends_epoch: bool) -> None:
        self.clips_seen += clips
        self.bad_clips += len(bad)
        for clip in bad:
            self.on_bad_clip(clip.id, clip.error)
        share = self.bad_clips / max(1, self.clips_seen)
        if share > self.max_bad_share and (ends_epoch or self.clips_seen >= MIN_CLIPS_SEEN):
            where = ", ".join(str(store.path) for store in self.reader.stores)
            problem = f"{self.bad_clips} of {self.clips_seen} clips are bad, more than {self.max_bad_share:.1%}"
            raise InputError(where, problem, "repair the clips named in the log, or raise --max-bad-share")


_of_thread = threading.local()


def copy_stream(device: torch.device) -> torch.cuda.Stream:
    """The calling thread's own stream for copies to the device.

    A new stream per batch would fragment memory, since the caching allocator has one pool per stream.
    """
    streams = _of_thread.__dict__.setdefault("streams", {})
    if device not in streams:
        streams[device] = torch.cuda.Stream(device)
    return streams[device]


def ahead_on(device: torch.device, batch: PackedBatch) -> PackedBatch:
    """The batch on the device, copied from pinned memory on a separate stream that overlaps the training step."""
    if device.type == "cpu":
        return batch
    stream = copy_stream(device)
    with torch.cuda.stream(stream):
        moved = batch.map(lambda x: x if x.is_cuda else x.pin_memory().to(device, non_blocking=True))
    stream.synchronize()
    return moved


def on_current_stream(batch: PackedBatch) -> PackedBatch:
    """Marks the batch's memory, allocated on another stream, as used by this one, so it is not reused too early."""

    def keep(tensor: Tensor) -> Tensor:
        if tensor.is_cuda:
            tensor.record_stream(torch.cuda.current_stream())
        return tensor

    return batch.map(keep)
