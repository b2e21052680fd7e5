"""Packed batches ahead of the training loop: in which order, how far ahead, and without the bad clips."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from clip_stores import (
    LENGTHS,
    RGB,
    FakeTokenizer,
    assert_same_steps,
    batch_loader,
    reader,
    write_clips_of_many_lengths,
    write_store,
)

from unisign_fast.pipelines.batches.batch_sampler import Budget
from unisign_fast.pipelines.batches.loader import copy_stream
from unisign_fast.pipelines.batches.reader import ClipReader
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.pipelines.store.keypoint_store import KeypointStore


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> KeypointStore:
    return write_clips_of_many_lengths(tmp_path_factory.mktemp("data"))


def test_steps_come_in_order_and_hold_the_planned_clips(store):
    loader = batch_loader(reader(store))
    steps = list(loader.steps(epochs=2))
    assert [(step.epoch, step.step) for step in steps] == [(e, s) for e in range(2) for s in range(3)]
    for epoch, step, batches in steps:
        planned = loader.plan(epoch).micro_batches(step, rank=0)
        assert [batch.clip_ids for batch in batches] == [[f"clip{i}" for i in clips] for clips in planned]
    for epoch in range(2):
        seen = [name for step in steps if step.epoch == epoch for batch in step.batches for name in batch.clip_ids]
        assert sorted(seen) == sorted(f"clip{i}" for i in range(len(LENGTHS)))


@pytest.mark.parametrize("start", [(0, 2), (1, 0), (1, 1)])
def test_resuming_gives_what_an_uninterrupted_run_would_have(store, start):
    whole = list(batch_loader(reader(store)).steps(epochs=3))
    resumed = list(batch_loader(reader(store), workers=3).steps(3, *start))
    assert_same_steps(resumed, [step for step in whole if (step.epoch, step.step) >= start])


def test_ranks_share_each_step(store):
    one = list(batch_loader(reader(store)).steps(epochs=1))
    ranks = [list(batch_loader(reader(store), rank=rank, ranks=3).steps(epochs=1)) for rank in range(3)]
    for step, parts in zip(one, zip(*ranks, strict=True), strict=True):
        assert len({len(part.batches) for part in parts}) == 1
        names = [name for part in parts for batch in part.batches for name in batch.clip_ids]
        assert sorted(names) == sorted(name for batch in step.batches for name in batch.clip_ids)


def with_bad_clips(folder: Path, good: int, bad: int) -> ClipReader:
    clips = [{"text": "x"} for _ in range(good)] + [{"text": ""} for _ in range(bad)]
    return reader(write_store(folder / "store", clips), DataSettings(p_samp=0))


def test_a_bad_clip_is_left_out_and_named(tmp_path):
    told = []
    loader = batch_loader(
        with_bad_clips(tmp_path, good=5, bad=1), on_bad_clip=lambda *what: told.append(what), max_bad_share=0.2
    )
    batches = [batch for step in loader.steps(epochs=2) for batch in step.batches]
    assert sum(len(batch.lengths) for batch in batches) == 10
    assert [clip_id for clip_id, _ in told] == ["clip5"] * 2 and all(isinstance(e, InputError) for _, e in told)
    assert (loader.clips_seen, loader.bad_clips) == (12, 2)


def test_too_many_bad_clips_stop_the_run_at_the_end_of_an_epoch(tmp_path):
    steps = batch_loader(with_bad_clips(tmp_path, good=5, bad=1)).steps(epochs=2)
    assert next(steps).step == 0
    with pytest.raises(InputError, match=r"store: 1 of 6 clips are bad, more than 5.0%; "):
        next(steps)


def test_too_many_bad_clips_stop_the_run_after_twenty(tmp_path):
    steps = batch_loader(with_bad_clips(tmp_path, good=0, bad=60), clips_per_step=6, budget=Budget(20, 9)).steps(1)
    assert [len(next(steps).batches) for _ in range(3)] == [3, 3, 3]
    with pytest.raises(InputError, match="20 of 20 clips are bad"):
        next(steps)


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


class BrokenCodec(FakeTokenizer):
    def prompt_ids(self, language: str) -> list[int]:
        raise ZeroDivisionError(language)


def test_errors_in_a_thread_reach_the_consumer(store):
    with pytest.raises(ZeroDivisionError):
        list(batch_loader(ClipReader([store], RGB, BrokenCodec())).steps(epochs=1))
    assert not loader_threads()


def test_no_thread_is_left_behind(store):
    for _ in batch_loader(reader(store)).steps(epochs=100):
        assert loader_threads()
        break
    assert not loader_threads()
    assert len(list(batch_loader(reader(store)).steps(epochs=1))) == 3
    assert not loader_threads()


class WatchingCodec(FakeTokenizer):
    """Records torch's number of threads where clips are read."""

    def __init__(self):
        self.threads: set[int] = set()

    def prompt_ids(self, language: str) -> list[int]:
        self.threads.add(torch.get_num_threads())
        return super().prompt_ids(language)


def test_threads_take_no_others_from_the_training_step(store):
    tokenizer, before = WatchingCodec(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        list(batch_loader(ClipReader([store], RGB, tokenizer)).steps(epochs=1))
        assert tokenizer.threads == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


class CountingCodec(FakeTokenizer):
    """Counts the clips that were read."""

    def __init__(self):
        self.read = threading.Semaphore(0)

    def prompt_ids(self, language: str) -> list[int]:
        self.read.release()
        return super().prompt_ids(language)


def test_threads_stay_a_bounded_way_ahead(store):
    tokenizer = CountingCodec()
    budget = Budget(60, 1000)  # of at most two clips of this store
    steps = batch_loader(ClipReader([store], DataSettings(p_samp=0), tokenizer), budget=budget).steps(epochs=100)
    next(steps)  # two micro-batches taken, four more of at most two clips ahead
    for _ in range(8):
        assert tokenizer.read.acquire(timeout=30)
    read = 8
    while tokenizer.read.acquire(timeout=0.3):
        read += 1
    steps.close()
    assert read <= 12


def test_a_thread_copies_on_one_stream_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: object())
    device = torch.device("cuda", 0)
    mine = {copy_stream(device) for _ in range(3)}
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(copy_stream, device).result()
    assert len(mine) == 1 and other not in mine and copy_stream(torch.device("cuda", 1)) not in mine
