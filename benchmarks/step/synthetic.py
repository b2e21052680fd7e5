"""Synthetic clips of CSL-News's lengths, packed without a store or a tokenizer.

CSL-News (paper, section 3.1) has clips of 9.5 s and 40 characters on average, here at 25 frames a second and cut as
training cuts them. The spread of the lengths is assumed.
"""

import numpy as np
import torch
from torch import Tensor

from unisign_fast.pipelines.batches.packed_batch import IGNORED, PackedBatch
from unisign_fast.pipelines.skeleton import HANDS, PACKED_JOINTS

FPS, MAX_FRAMES, SECONDS, TOKENS = 25, 256, 9.5, 40
PROMPT_TOKENS = 14


def csl_news_lengths(clips: int, max_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames of each clip, and target tokens with the end token.

    Below the paper's 256 frames a clip all clips are shortened by the same factor, so that the distribution stays.
    """
    rng = np.random.default_rng(0)
    seconds = rng.lognormal(np.log(SECONDS) - 0.125, 0.5, clips)
    frames = np.clip(FPS * seconds, 5, MAX_FRAMES) * max_frames / MAX_FRAMES
    tokens = np.clip(seconds * TOKENS / SECONDS * rng.lognormal(0, 0.25, clips), 3, 50)
    return np.maximum(frames.astype(int), 5), tokens.astype(int)


def synthetic_step(clips: int, clips_per_micro_batch: int, max_frames: int, **settings: float) -> list[PackedBatch]:
    """The micro-batches of one optimiser step: clips sorted by length, as training sorts them, and cut into chunks.

    `settings`: see `synthetic_batch`.
    """
    frames_N, tokens_N = csl_news_lengths(clips, max_frames)
    order = np.argsort(frames_N, kind="stable")
    chunks = [order[first : first + clips_per_micro_batch] for first in range(0, clips, clips_per_micro_batch)]
    return [synthetic_batch(frames_N[chunk], tokens_N[chunk], seed=n, **settings) for n, chunk in enumerate(chunks)]


def synthetic_batch(
    frames_B: np.ndarray, tokens_B: np.ndarray, *, vocabulary: int, p_samp: float, crop_size: int, seed: int
) -> PackedBatch:
    """Random keypoints, crops and tokens of clips with these lengths.

    The hands' frames are drawn with replacement, as the sampler draws them, so that fewer than `p_samp` are distinct.
    """
    rng = np.random.default_rng(seed)
    starts = np.cumsum([0, *frames_B[:-1]])
    drawn = [
        [
            start + np.unique(rng.integers(frames, size=round(p_samp * frames)))
            for start, frames in zip(starts, frames_B)
        ]
        for _ in HANDS
    ]
    crop_frame = np.concatenate([frame for hand in drawn for frame in hand]).astype(np.int64)
    left, right = (sum(map(len, hand)) for hand in drawn)
    poses = rng.uniform(-1, 1, (frames_B.sum(), len(PACKED_JOINTS), 3)).astype(np.float32)
    crops = rng.integers(0, 256, (left + right, 3, crop_size, crop_size), np.uint8)
    points = rng.uniform(0, 1, (left + right, 21, 2)).astype(np.float32)
    labels = _padded([rng.integers(3, vocabulary, tokens) for tokens in tokens_B], IGNORED)
    return PackedBatch(
        clip_ids=[str(number) for number in range(len(frames_B))],
        texts=[""] * len(frames_B),
        lengths=frames_B.tolist(),
        poses=torch.from_numpy(poses),
        crops=torch.from_numpy(crops),
        crops_per_hand=(left, right),
        crop_frame=torch.from_numpy(crop_frame),
        crop_points=torch.from_numpy(points),
        prompt_ids=torch.from_numpy(rng.integers(3, vocabulary, (len(frames_B), PROMPT_TOKENS))),
        label_ids=labels,
    )


def _padded(rows: list[np.ndarray], value: int) -> Tensor:
    padded = np.full((len(rows), max(map(len, rows))), value)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return torch.from_numpy(padded)
