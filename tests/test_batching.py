"""The epoch plan: every clip once, the same steps for any number of ranks, every rank equally many micro-batches."""

from itertools import chain

import numpy as np
import pytest

from pipelines.batching import EpochPlan
from pipelines.random_streams import stream


def plan(clips: int, per_step: int, per_device: int, ranks: int = 1, epoch: int = 0, **more) -> EpochPlan:
    return EpochPlan(clips, per_step, per_device, ranks, seed=0, epoch=epoch, **more)


def step_clips(p: EpochPlan, step: int) -> list[int]:
    return sorted(chain.from_iterable(chain.from_iterable(p.micro_batches(step, rank) for rank in range(p.ranks))))


SIZES = [
    (1, 1, 1, 1),
    (100, 32, 4, 1),  # a last step of 4 clips
    (100, 32, 5, 3),  # nothing divides
    (10, 8, 4, 4),  # a last step of 2 clips for 4 ranks
    (7, 100, 2, 2),  # one partial step
    (5, 1, 4, 3),  # fewer clips than ranks in every step
]


@pytest.mark.parametrize(("clips", "per_step", "per_device", "ranks"), SIZES)
def test_an_epoch_holds_every_clip_once(clips, per_step, per_device, ranks):
    p = plan(clips, per_step, per_device, ranks)
    steps = [step_clips(p, step) for step in range(p.steps)]
    assert sorted(chain.from_iterable(steps)) == list(range(clips))
    assert [len(step) for step in steps[:-1]] == [per_step] * (p.steps - 1) and 1 <= len(steps[-1]) <= per_step


@pytest.mark.parametrize(("clips", "per_step", "per_device", "ranks"), SIZES)
def test_ranks_have_equally_many_micro_batches_within_their_size(clips, per_step, per_device, ranks):
    p = plan(clips, per_step, per_device, ranks)
    for step in range(p.steps):
        of_ranks = [p.micro_batches(step, rank) for rank in range(ranks)]
        assert len({len(micro_batches) for micro_batches in of_ranks}) == 1
        sizes = [len(clips) for clips in chain.from_iterable(of_ranks)]
        assert max(sizes) <= per_device and max(sizes) - min(sizes) <= 1
        assert len(of_ranks[0]) == -(-sum(sizes) // (per_device * ranks))  # no more of them than needed


@pytest.mark.parametrize("lengths", [None, np.random.default_rng(0).integers(1, 256, 100)])
def test_the_clips_of_a_step_depend_on_neither_ranks_nor_micro_batches(lengths):
    one = plan(100, 32, 32, 1, lengths=lengths)
    for per_device, ranks in ((4, 1), (5, 3), (1, 8)):
        other = plan(100, 32, per_device, ranks, lengths=lengths)
        assert [step_clips(other, s) for s in range(4)] == [step_clips(one, s) for s in range(4)]


def test_order_changes_with_epoch_and_seed_only():
    first = step_clips(plan(1000, 32, 8), 0)
    assert first == step_clips(plan(1000, 32, 8), 0)
    assert first != step_clips(plan(1000, 32, 8, epoch=1), 0)
    assert first != step_clips(EpochPlan(1000, 32, 8, 1, seed=1, epoch=0), 0)


def test_without_shuffling_clips_come_as_they_are():
    p = plan(10, 4, 2, epoch=3, shuffle=False)
    assert [p.micro_batches(step, 0) for step in range(3)] == [[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9]]]


def test_micro_batches_hold_similar_lengths_longest_first():
    lengths = [5, 50, 7, 40, 6, 45, 8, 55]
    p = plan(8, 8, 2, 2, lengths=lengths)
    assert [[sorted(lengths[clip] for clip in clips) for clips in p.micro_batches(0, rank)] for rank in range(2)] == [
        [[50, 55], [7, 8]],
        [[40, 45], [5, 6]],
    ]


def test_streams_differ_in_every_argument_and_never_change():
    names = [(0, 0, "a", "left"), (1, 0, "a", "left"), (0, 1, "a", "left"), (0, 0, "b", "left"), (0, 0, "a", "right")]
    numbers = [stream(*name).integers(2**32, size=2).tolist() for name in names]
    assert len({tuple(pair) for pair in numbers}) == len(names)
    assert numbers[0] == [1918533914, 261062505]  # a change would break the resuming of runs
