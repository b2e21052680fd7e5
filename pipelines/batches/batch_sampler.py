"""Assigns clips to optimiser steps, ranks and micro-batches.

The plan is a function of seed, epoch and clip lengths, so (epoch, step) is all that a resumed run needs. The clips of a
step do not depend on the number of ranks or on the micro-batch budget.
"""

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import ceil

import numpy as np

from ..rng import stream


@dataclass(frozen=True)
class Budget:
    """Upper bounds of a micro-batch; a single clip may exceed them."""

    frames: int  # clips times frames of the longest one
    tokens: int  # target tokens of all clips


@dataclass(frozen=True)
class EpochPlan:
    """One epoch: visits every clip (numbered from 0) exactly once; the last step may hold fewer clips."""

    frames: np.ndarray  # frames of each clip, [clips] int
    tokens: np.ndarray  # target tokens of each clip, [clips] int
    clips_per_step: int  # clips of a step, all ranks together
    budget: Budget
    ranks: int
    seed: int
    epoch: int

    def __post_init__(self):
        assert len(self.frames) == len(self.tokens) >= 1, (len(self.frames), len(self.tokens))
        assert min(self.clips_per_step, self.ranks, self.budget.frames, self.budget.tokens) >= 1, self

    @property
    def steps(self) -> int:
        """Optimiser steps of the epoch."""
        return ceil(len(self.frames) / self.clips_per_step)

    def micro_batches(self, step: int, rank: int) -> list[list[int]]:
        """The clips of each micro-batch of a rank. Every rank has the same number of micro-batches; some may be empty.

        Clips of similar length share a micro-batch. The longest come first, so that running out of memory shows at
        once. The n-th micro-batches of all ranks have similar lengths, so that no rank waits long for another.
        """
        assert 0 <= step < self.steps and 0 <= rank < self.ranks, (step, rank)
        clips = self._order[step * self.clips_per_step : (step + 1) * self.clips_per_step]
        frames, tokens = self.frames[clips], self.tokens[clips]
        by_length = np.lexsort((-tokens, -frames))
        ends = _even_groups(frames[by_length].tolist(), tokens[by_length].tolist(), self.budget, self.ranks)
        groups = np.split(clips[by_length], ends)[: len(ends)]
        return [group.tolist() for group in groups[rank :: self.ranks]]

    @cached_property
    def _order(self) -> np.ndarray:
        return stream(self.seed, self.epoch, "", "order").permutation(len(self.frames))


def _even_groups(frames: list[int], tokens: list[int], budget: Budget, multiple: int) -> list[int]:
    """Where groups of consecutive clips end, `frames` descending: the fewest groups within the budget whose count is a
    multiple of `multiple`, with the largest group as small as possible."""
    tokens_before = [0, *accumulate(tokens)]

    def groups(most_frames: int) -> list[int]:
        ends, start = [], 0
        while start < len(frames):
            by_frames = start + most_frames // max(frames[start], 1)
            by_tokens = bisect_right(tokens_before, tokens_before[start] + budget.tokens) - 1
            start = max(start + 1, min(by_frames, by_tokens, len(frames)))
            ends.append(start)
        return ends

    wanted = ceil(len(groups(budget.frames)) / multiple) * multiple
    low, high = 1, budget.frames
    while low < high:
        middle = (low + high) // 2
        if len(groups(middle)) <= wanted:
            high = middle
        else:
            low = middle + 1
    ends = groups(low)
    return ends + [len(frames)] * (wanted - len(ends))
