"""Sequences of different lengths, stored end to end (packed) or padded to equal length where an operation needs it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor


def to_device(values: Sequence[int], device: torch.device) -> Tensor:
    """The values as int64 [n] on the device, copied asynchronously."""
    host = torch.tensor(values, dtype=torch.long, pin_memory=device.type == "cuda")
    return host.to(device, non_blocking=True)


@dataclass(frozen=True)
class Packing:
    """B sequences, packed into P rows or padded to [B, S]. The host knows the lengths, so nothing synchronizes."""

    lengths: list[int]  # B, each at least 1
    device: torch.device

    @property
    def rows(self) -> int:
        """P."""
        return sum(self.lengths)

    @property
    def longest(self) -> int:
        """S, the padded length."""
        return max(self.lengths)

    @cached_property
    def cu_seqlens(self) -> Tensor:
        """[B + 1] where each sequence starts, and the end."""
        return to_device([0, *accumulate(self.lengths)], self.device)

    @cached_property
    def mask_BS(self) -> Tensor:
        """True at real positions."""
        length_B = self.cu_seqlens.diff()
        return torch.arange(self.longest, device=self.device) < length_B[:, None]

    @cached_property
    def seq_ids_P(self) -> Tensor:
        """The sequence of each row."""
        numbers = torch.arange(len(self.lengths), device=self.device)
        return numbers.repeat_interleave(self.cu_seqlens.diff(), output_size=self.rows)

    @cached_property
    def position_P(self) -> Tensor:
        """The position of each row in its sequence."""
        return torch.arange(self.rows, device=self.device) - self.cu_seqlens[self.seq_ids_P]

    @cached_property
    def slot_P(self) -> Tensor:
        """The position of each row among the B * S padded ones."""
        return self.seq_ids_P * self.longest + self.position_P

    def pad(self, x_PC: Tensor) -> Tensor:
        """[P, ...] to [B, S, ...], with zeros after each sequence."""
        shape = len(self.lengths), self.longest, *x_PC.shape[1:]
        if self.rows == shape[0] * shape[1]:
            return x_PC.view(shape)
        return x_PC.new_zeros(shape[0] * shape[1], *x_PC.shape[1:]).index_copy(0, self.slot_P, x_PC).view(shape)

    def pack(self, x_BSC: Tensor) -> Tensor:
        """[B, S or more, ...] to [P, ...], without the padding."""
        flat = x_BSC[:, : self.longest].flatten(0, 1)
        return flat if self.rows == flat.shape[0] else flat[self.slot_P]
