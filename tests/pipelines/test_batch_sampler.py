"""The epoch plan: every clip once, the same steps for any number of ranks, every rank equally many micro-batches."""

from itertools import chain

import numpy as np
import pytest

from unisign_fast.pipelines.batches.batch_sampler import Budget, EpochPlan
from unisign_fast.pipelines.rng import stream


def plan(lengths, per_step: int, frames: int, ranks: int = 1, tokens: int = 10**9, **more) -> EpochPlan:
    lengths = np.asarray(lengths)
    order = {"seed": 0, "epoch": 0} | more
    return EpochPlan(lengths, lengths // 6 + 1, per_step, Budget(frames, tokens), ranks, **order)


def step_clips(p: EpochPlan, step: int) -> list[int]:
    return sorted(chain.from_iterable(chain.from_iterable(p.micro_batches(step, rank) for rank in range(p.ranks))))


def lengths(clips: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 257, clips)


SIZES = [  # clips, clips of a step, frames of a micro-batch, ranks
    (1, 1, 256, 1),
    (100, 32, 1024, 1),  # a last step of 4 clips
    (100, 32, 1000, 3),  # nothing divides
    (10, 8, 1024, 4),  # a last step of 2 clips for 4 ranks
    (7, 100, 512, 2),  # one partial step
    (5, 1, 1024, 3),  # fewer clips than ranks in every step
    (50, 20, 10, 2),  # a budget below most clips: each is alone
]


@pytest.mark.parametrize(("clips", "per_step", "frames", "ranks"), SIZES)
def test_an_epoch_holds_every_clip_once(clips, per_step, frames, ranks):
    p = plan(lengths(clips), per_step, frames, ranks)
    steps = [step_clips(p, step) for step in range(p.steps)]
    assert sorted(chain.from_iterable(steps)) == list(range(clips))
    assert [len(step) for step in steps[:-1]] == [per_step] * (p.steps - 1) and 1 <= len(steps[-1]) <= per_step


@pytest.mark.parametrize("tokens", [60, 10**9])
@pytest.mark.parametrize(("clips", "per_step", "frames", "ranks"), SIZES)
def test_ranks_have_equally_many_micro_batches_within_the_budget(clips, per_step, frames, ranks, tokens):
    p = plan(lengths(clips), per_step, frames, ranks, tokens)
    for step in range(p.steps):
        rank_batches = [p.micro_batches(step, rank) for rank in range(ranks)]
        assert len({len(micro_batches) for micro_batches in rank_batches}) == 1
        for batch in chain.from_iterable(rank_batches):
            assert len(batch) <= 1 or len(batch) * p.frames[batch].max() <= frames
            assert len(batch) <= 1 or p.tokens[batch].sum() <= tokens


def test_there_are_no_more_micro_batches_than_needed_and_they_are_even():
    p = plan([100] * 12, 12, frames=400, ranks=2)
    assert [[len(clips) for clips in p.micro_batches(0, rank)] for rank in range(2)] == [[3, 3], [3, 3]]


def test_the_clips_of_a_step_depend_on_neither_ranks_nor_budget():
    one = plan(lengths(100), 32, 10**6)
    for frames, ranks in ((1024, 1), (700, 3), (1, 8)):
        other = plan(lengths(100), 32, frames, ranks)
        assert [step_clips(other, s) for s in range(4)] == [step_clips(one, s) for s in range(4)]


def test_order_changes_with_epoch_and_seed_only():
    first = step_clips(plan(lengths(1000), 32, 2000), 0)
    assert first == step_clips(plan(lengths(1000), 32, 2000), 0)
    assert first != step_clips(plan(lengths(1000), 32, 2000, epoch=1), 0)
    assert first != step_clips(plan(lengths(1000), 32, 2000, seed=1), 0)


def test_micro_batches_hold_similar_lengths_longest_first():
    p = plan([5, 50, 7, 40, 6, 45, 8, 55], 8, frames=110, ranks=2)
    assert [[sorted(p.frames[clips].tolist()) for clips in p.micro_batches(0, rank)] for rank in range(2)] == [
        [[55], [40, 45]],
        [[50], [5, 6, 7, 8]],
    ]


def csl_news_lengths(clips: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames, cut at 256, and target tokens of made clips with the averages of the paper's section 3.1: 9.5 s, at 25 a
    second, and 40 characters; spread and tokens a character are guesses."""
    rng = np.random.default_rng(0)
    seconds = rng.lognormal(np.log(9.5) - 0.125, 0.5, clips)
    frames = np.clip(25 * seconds, 5, 256).astype(int)
    return frames, np.clip(seconds * 40 / 9.5 * rng.lognormal(0, 0.25, clips), 3, 50).astype(int)


def test_positions_are_real_at_the_lengths_of_csl_news():
    """Positions of the sign encoder (packed) and of mT5's encoder (padded), in the recipe's steps of 512 clips."""
    frames, tokens = csl_news_lengths(5120)
    p = EpochPlan(frames, tokens, 512, Budget(16 * 256, 16 * 50), ranks=4, seed=0, epoch=0)
    batches = [batch for step in range(p.steps) for rank in range(4) for batch in p.micro_batches(step, rank)]
    padded = sum(len(batch) * frames[batch].max() for batch in batches)
    assert frames.sum() / padded >= 0.97


def test_streams_differ_in_every_argument_and_never_change():
    names = [(0, 0, "a", "left"), (1, 0, "a", "left"), (0, 1, "a", "left"), (0, 0, "b", "left"), (0, 0, "a", "right")]
    numbers = [stream(*name).integers(2**32, size=2).tolist() for name in names]
    assert len({tuple(pair) for pair in numbers}) == len(names)
    assert numbers[0] == [1918533914, 261062505]  # a change would break the resuming of runs
