"""Which clips make up an optimiser step, and how a step is shared among ranks and micro-batches.

Everything follows from the seed, the epoch and the sizes, so (epoch, step) is all there is to resume from. The clips of
a step do not depend on the number of ranks or on the micro-batch size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil

import numpy as np

from pipelines.random_streams import stream


@dataclass(frozen=True)
class EpochPlan:
    """One epoch: every clip (numbered 0 to clip_count - 1) exactly once; the last step may hold fewer clips."""

    clip_count: int
    clips_per_step: int  # of all ranks together
    clips_per_device: int  # the most clips in a micro-batch
    ranks: int
    seed: int
    epoch: int
    shuffle: bool = True
    lengths: Sequence[int] | np.ndarray | None = None  # frames of each clip: micro-batches then hold similar lengths

    def __post_init__(self):
        assert min(self.clip_count, self.clips_per_step, self.clips_per_device, self.ranks) >= 1, self
        assert self.lengths is None or len(self.lengths) == self.clip_count, (len(self.lengths), self.clip_count)

    @property
    def steps(self) -> int:
        """Optimiser steps of the epoch."""
        return ceil(self.clip_count / self.clips_per_step)

    def micro_batches(self, step: int, rank: int) -> list[list[int]]:
        """The clips of each micro-batch of a rank; every rank has equally many, of which some may be empty.

        Longest clips first, so that a lack of memory shows at once; the ranks' n-th micro-batches are neighbours in
        length, so that no rank waits long for another.
        """
        assert 0 <= step < self.steps and 0 <= rank < self.ranks, (step, rank)
        clips = self._order[step * self.clips_per_step : (step + 1) * self.clips_per_step]
        if self.lengths is not None:
            clips = clips[np.argsort(-np.asarray(self.lengths)[clips], kind="stable")]
        rounds = ceil(len(clips) / (self.clips_per_device * self.ranks))
        groups = np.array_split(clips, rounds * self.ranks)
        return [group.tolist() for group in groups[rank :: self.ranks]]

    @cached_property
    def _order(self) -> np.ndarray:
        if not self.shuffle:
            return np.arange(self.clip_count)
        return stream(self.seed, self.epoch, "", "order").permutation(self.clip_count)
