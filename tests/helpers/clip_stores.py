"""Small stores with real videos, and functions that read them, for the tests of reader, loader and crop store."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from video_files import write_video

from unisign_fast.pipelines.batches.batch_sampler import Budget
from unisign_fast.pipelines.batches.loader import BatchLoader
from unisign_fast.pipelines.batches.packed_batch import PackedBatch
from unisign_fast.pipelines.batches.reader import ClipReader
from unisign_fast.pipelines.clips.dataset import ClipSet
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.pipelines.store.keypoint_store import KeypointStore, KeypointStoreWriter

SIDE = 64  # of the pictures; picture i is grey with value 4 i
SOURCE = {"estimator": "test", "version": "1", "coordinates": "fractions"}
LENGTHS = [9, 12, 20, 7, 30, 16, 11, 25, 8, 14, 10]
RGB = DataSettings(p_samp=0.5, crop_size=16)


class FakeTokenizer:
    """One token per character."""

    fingerprint = "characters"

    def prompt_ids(self, language: str) -> list[int]:
        return [len(language), 1]

    def target_ids(self, text: str) -> list[int]:
        return [ord(letter) for letter in text] + [1]


def pose(frames: int, seed: int = 0) -> np.ndarray:
    """A body that fills the picture, with low-confidence hands of 20 pixels inside it."""
    rng = np.random.default_rng(seed)
    keypoints = rng.uniform(0.2, 0.8, (frames, 133, 3))
    keypoints[:, 91:, :2] = 0.5 + rng.uniform(-0.15, 0.15, (frames, 42, 2))
    return keypoints


def video_of(path: Path, frames: int) -> str:
    pictures = [np.full((SIDE, SIDE, 3), 4 * i, np.uint8) for i in range(frames)]
    return str(write_video(path, pictures))


def write_store(folder: Path, clips: list[dict]) -> KeypointStore:
    """A store of the given `clips`; by default a clip has a text, 10 frames and no video."""
    with KeypointStoreWriter(folder, SOURCE) as writer:
        for i, clip in enumerate(clips):
            usual = {
                "id": f"clip{i}",
                "split": "train",
                "language": "en",
                "text": f"t{i}",
                "fps": 25.0,
                "width": SIDE,
                "height": SIDE,
            }
            writer.add(**{"keypoints": pose(10, i)} | usual | clip)
    return KeypointStore.open(folder)


def write_clips_of_many_lengths(folder: Path) -> KeypointStore:
    """A clip of each of LENGTHS, with its video."""
    clips = [
        {"keypoints": pose(frames, i), "source": video_of(folder / f"{i}.mp4", frames)}
        for i, frames in enumerate(LENGTHS)
    ]
    return write_store(folder / "store", clips)


def reader(store: KeypointStore, settings: DataSettings = RGB) -> ClipReader:
    return ClipReader([store], settings, FakeTokenizer())


def read_one(folder: Path, clip: dict, settings: DataSettings = RGB) -> PackedBatch:
    """A batch of this clip alone. Raises the clip's error."""
    one = reader(write_store(folder / "store", [clip]), settings)
    return batch_of(one, [0])


def batch_of(r: ClipReader, numbers: list[int], epoch: int = 0, training: bool = True) -> PackedBatch:
    loaded = r.batch(r.clips("train"), numbers, epoch, training)
    for bad in loaded.bad:
        raise bad.error
    assert loaded.numbers == numbers
    return loaded.batch


def batch_loader(r: ClipReader, clips: ClipSet | None = None, **more) -> BatchLoader:
    usual = {"clips_per_step": 4, "budget": Budget(40, 1000), "on_bad_clip": lambda clip_id, error: None}
    return BatchLoader(r, clips or r.clips("train"), **usual | more)


def assert_same_steps(steps, others):
    assert len(steps) == len(others)
    for step, other in zip(steps, others):
        assert (step.epoch, step.step, len(step.batches)) == (other.epoch, other.step, len(other.batches))
        for batch, twin in zip(step.batches, other.batches):
            for field in fields(PackedBatch):
                mine, its = getattr(batch, field.name), getattr(twin, field.name)
                assert torch.equal(mine, its) if isinstance(mine, torch.Tensor) else mine == its, field.name
