"""The model's input: the clips of a batch packed end to end, without padding in the sign encoder.

Shape legend, used throughout the project:
    B clips   F packed frames of all clips   T frames of one clip   J 69 joints (four parts)   V joints of a part
    C channels   K graph subsets   N hand crops of all clips   S crop side   L target tokens   P prompt tokens
    D model width   W vocabulary
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

IGNORED = -100  # padding among the labels


@dataclass(frozen=True)
class PackedBatch:
    """One micro-batch. Lists stay on the host; tensors move with `to`.

    An empty batch (B = 0) is valid: a rank whose clips were all bad still takes its step.
    """

    clip_ids: list[str]  # B
    texts: list[str]  # B, the target as text, for scoring
    lengths: list[int]  # B, frames of each clip; sum = F
    poses: Tensor  # [F, 69, 3] float32: x, y, confidence after part normalisation, parts in the order of skeleton.PARTS
    crops: Tensor  # [N, 3, S, S] uint8: sampled hands, all left hands first, each side by ascending crop_frame
    crops_per_hand: tuple[int, int]  # (left, right) crops; sum = N
    crop_frame: Tensor  # [N] int64, index into F; a (frame, hand) pair appears at most once
    crop_points: Tensor  # [N, 21, 2] float32: the hand's keypoints in the crop, x and y in [0, 1]
    prompt_ids: Tensor  # [B, P] int64, padded right with 0
    label_ids: Tensor  # [B, L] int64, target tokens with end token, padded right with -100
    prompt_lengths: list[int] = field(default_factory=list)  # B, tokens of each prompt; counted if not given
    label_lengths: list[int] = field(default_factory=list)  # B, tokens of each target; counted if not given

    def __post_init__(self):
        if self.clip_ids and not self.prompt_lengths:  # counted on the host, which avoids a synchronisation later
            object.__setattr__(self, "prompt_lengths", (self.prompt_ids != 0).sum(1).tolist())
            object.__setattr__(self, "label_lengths", (self.label_ids != IGNORED).sum(1).tolist())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "PackedBatch":
        """The same batch with every tensor on `device`."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def map(self, function: Callable[[Tensor], Tensor]) -> "PackedBatch":
        """The same batch with every tensor replaced by `function` of it."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        mapped: dict[str, Any] = {name: function(x) for name, x in values.items() if isinstance(x, Tensor)}
        return replace(self, **mapped)
