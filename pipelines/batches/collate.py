"""`Sample`, one clip as read from disk, and `collate`, which packs samples into a batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..crops.sources import WantedHands
from ..skeleton import HANDS, WHOLEBODY, Skeleton, hand_rows
from .packed_batch import IGNORED, PackedBatch


@dataclass(frozen=True)
class Sample:
    """One clip after frame selection, without its crops.

    Arrays are as in PackedBatch, left-hand crops first; `crop_frame` indexes the clip's selected frames.
    """

    text: str
    poses: np.ndarray  # [T, 69, 3] float32, normalised
    hands: WantedHands
    crops_per_hand: tuple[int, int]
    crop_frame: np.ndarray  # [n] int64
    crop_points: np.ndarray  # [n, 21, 2] float32
    prompt_ids: list[int]
    label_ids: list[int]

    def rows(self, hand: int) -> slice:
        """The rows of crops, `crop_frame` and `crop_points` that belong to HANDS[hand]."""
        return hand_rows(self.crops_per_hand, hand)


def collate(
    samples: Sequence[Sample], crops: Sequence[Tensor], crop_size: int, skeleton: Skeleton = WHOLEBODY
) -> PackedBatch:
    """Packs clips end to end in order, each with its crops [n, 3, S, S]. No clips give an empty batch."""
    lengths = [len(sample.poses) for sample in samples]
    starts = np.cumsum([0, *lengths])
    hands = [  # all left hands, then all right hands
        (sample, start, pictures, sample.rows(hand))
        for hand in range(len(HANDS))
        for sample, start, pictures in zip(samples, starts, crops, strict=False)
        if sample.crops_per_hand[hand]
    ]
    left, right = (sum(sample.crops_per_hand[hand] for sample in samples) for hand in range(len(HANDS)))

    def join(parts: list[np.ndarray], *row_shape: int, dtype: type = np.float32) -> Tensor:
        return torch.from_numpy(np.concatenate(parts) if parts else np.zeros((0, *row_shape), dtype))

    pixels = [pictures[rows] for _, _, pictures, rows in hands]
    return PackedBatch(
        clip_ids=[sample.hands.clip.id for sample in samples],
        texts=[sample.text for sample in samples],
        lengths=lengths,
        poses=join([sample.poses for sample in samples], len(skeleton.packed_joints), 3),
        crops=torch.cat(pixels) if pixels else torch.zeros(0, 3, crop_size, crop_size, dtype=torch.uint8),
        crops_per_hand=(left, right),
        crop_frame=join([start + sample.crop_frame[rows] for sample, start, _, rows in hands], dtype=np.int64),
        crop_points=join([sample.crop_points[rows] for sample, _, _, rows in hands], skeleton.hand_size, 2),
        prompt_ids=_pad_right([sample.prompt_ids for sample in samples], 0),
        label_ids=_pad_right([sample.label_ids for sample in samples], IGNORED),
        prompt_lengths=[len(sample.prompt_ids) for sample in samples],
        label_lengths=[len(sample.label_ids) for sample in samples],
    )


def _pad_right(rows: list[list[int]], value: int) -> Tensor:
    padded = np.full((len(rows), max(map(len, rows), default=0)), value)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return torch.from_numpy(padded)
