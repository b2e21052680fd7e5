"""Packed batches for the training loop: putting clips together, and doing so ahead of it in background threads.

store -> ClipReader.read -> Sample -> collate -> PackedBatch; BatchLoader does it for one step after the other
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch

from pipelines.batching import EpochPlan
from pipelines.clip_reader import ClipReader, ClipRef, DataSettings, Sample
from pipelines.errors import InputError
from pipelines.packed_batch import PackedBatch
from pipelines.skeleton import HANDS

SURE_AFTER = 20  # clips seen before the share of bad ones means anything


def collate(samples: Sequence[Sample], crop_size: int = DataSettings.crop_size) -> PackedBatch:
    """Packs clips end to end in their order; of none, an empty batch. `crop_size`: the side of every crop in pixels."""
    lengths = [len(sample.poses) for sample in samples]
    starts = np.cumsum([0, *lengths])
    hands = [  # all left hands before all right ones
        (sample, start, sample.rows(hand)) for hand in range(len(HANDS)) for sample, start in zip(samples, starts)
    ]
    left, right = (sum(sample.crops_per_hand[hand] for sample in samples) for hand in range(len(HANDS)))

    def join(parts: list[np.ndarray], empty: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([empty, *parts]))

    return PackedBatch(
        clip_ids=[sample.clip_id for sample in samples],
        texts=[sample.text for sample in samples],
        lengths=lengths,
        poses=join([sample.poses for sample in samples], np.zeros((0, 69, 3), np.float32)),
        crops=join([sample.crops[rows] for sample, _, rows in hands], np.zeros((0, 3, crop_size, crop_size), np.uint8)),
        crops_per_hand=(left, right),
        crop_frame=join([start + sample.crop_frame[rows] for sample, start, rows in hands], np.zeros(0, np.int64)),
        crop_points=join([sample.crop_points[rows] for sample, _, rows in hands], np.zeros((0, 21, 2), np.float32)),
        prompt_ids=_pad_right([sample.prompt_ids for sample in samples], 0),
        label_ids=_pad_right([sample.label_ids for sample in samples], -100),
    )


def _pad_right(rows: list[list[int]], value: int) -> torch.Tensor:
    padded = torch.full((len(rows), max(map(len, rows), default=0)), value)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = torch.tensor(row)
    return padded


class LoadedStep(NamedTuple):
    """The micro-batches of one rank for one optimiser step, and where that step is."""

    epoch: int
    step: int
    batches: list[PackedBatch]


class _Job(NamedTuple):
    epoch: int
    step: int
    ends_step: bool
    ends_epoch: bool
    clips: list[int]  # of one micro-batch, indices into refs


class BatchLoader:
    """Packs one rank's share of the clips, in background threads and ahead of the training loop.

        for epoch, step, batches in loader.steps(epochs=20, epoch=3, step=17): ...

    `training` shuffles the clips anew in every epoch and draws frames and hands by chance; without it, clips and
    choices are always the same. A bad clip is left out, counted, and reported to `on_bad_clip(clip_id, error)` in the
    consumer's thread and in the order of the clips. `workers` threads keep twice as many micro-batches in hand or
    ready.
    """

    def __init__(
        self,
        reader: ClipReader,
        refs: Sequence[ClipRef],
        *,
        clips_per_step: int,
        clips_per_device: int,
        training: bool,
        on_bad_clip: Callable[[str, InputError], None],
        rank: int = 0,
        ranks: int = 1,
        max_bad_share: float = 0.05,
        workers: int = 2,
    ):
        assert 0 <= rank < ranks and workers >= 1, (rank, ranks, workers)
        self.reader, self.refs, self.training, self.rank = reader, refs, training, rank
        self.on_bad_clip, self.max_bad_share, self.workers = on_bad_clip, max_bad_share, workers
        self.clips_seen = self.bad_clips = 0  # of this rank, since this loader was made
        self._sizes = dict(clips_per_step=clips_per_step, clips_per_device=clips_per_device, ranks=ranks)
        self._lengths = np.array([min(ref.clip.frames, reader.settings.max_frames) for ref in refs])

    def plan(self, epoch: int) -> EpochPlan:
        """Which clips (indices into `refs`) go into which step of an epoch."""
        shuffle, lengths = self.training, self._lengths
        return EpochPlan(
            len(self.refs), **self._sizes, seed=self.reader.seed, epoch=epoch, shuffle=shuffle, lengths=lengths
        )

    def steps(self, epochs: int, epoch: int = 0, step: int = 0) -> Iterator[LoadedStep]:
        """Every step from (epoch, step) on, up to and without epoch number `epochs`.

        What comes from a position on is the same wherever one started. Threads run from the first `next` until the
        iterator is exhausted or closed. Raises InputError when too many clips are bad, and passes on what else goes
        wrong in a thread.
        """
        stop = threading.Event()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="loader")
        submitted = ((job, pool.submit(self._load, job, stop)) for job in self._jobs(epochs, epoch, step))
        try:
            ahead = deque(islice(submitted, 2 * self.workers))
            batches = []
            while ahead:
                job, future = ahead.popleft()
                batch, bad = future.result()
                ahead.extend(islice(submitted, 1))
                batches.append(batch)
                self._count(len(job.clips), bad, job.ends_epoch)
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

    def _load(self, job: _Job, stop: threading.Event) -> tuple[PackedBatch, list[tuple[ClipRef, InputError]]]:
        """In a thread: the micro-batch of the good clips, and the bad ones."""
        samples, bad = [], []
        for ref in (self.refs[index] for index in job.clips):
            if stop.is_set():
                break
            try:
                samples.append(self.reader.read(ref, job.epoch, self.training))
            except InputError as error:
                bad.append((ref, error))
        return collate(samples, self.reader.settings.crop_size), bad

    def _count(self, clips: int, bad: list[tuple[ClipRef, InputError]], ends_epoch: bool) -> None:
        self.clips_seen += clips
        self.bad_clips += len(bad)
        for ref, error in bad:
            self.on_bad_clip(ref.clip.id, error)
        share = self.bad_clips / max(1, self.clips_seen)
        if share > self.max_bad_share and (ends_epoch or self.clips_seen >= SURE_AFTER):
            where = ", ".join(str(store.path) for store in self.reader.stores)
            problem = f"{self.bad_clips} of {self.clips_seen} clips are bad, more than {self.max_bad_share:.1%}"
            raise InputError(where, problem, "repair the clips named in the log, or raise --max-bad-share")
