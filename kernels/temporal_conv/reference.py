"""Temporal convolution on packed frames in plain PyTorch: the reference that every faster version is tested against."""

from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from ..deferred_activation.reference import ConvOutput, DeferredActivation, deferred_activation, with_batch_stats


class Clips(NamedTuple):
    """Where the clips of a batch begin and end. Built once per batch, for all temporal convolutions."""

    cu_seqlens: Tensor  # [B + 1] int64, first frame of each clip, and F
    bounds_2F: Tensor  # int32, of each frame the first frame of its clip, and the frame after the clip's last

    @classmethod
    def of(cls, cu_seqlens: Tensor, frames: int) -> "Clips":
        """The clips of F frames, without synchronizing with the device."""
        clip_F = torch.searchsorted(cu_seqlens, torch.arange(frames, device=cu_seqlens.device), right=True)
        return cls(cu_seqlens, torch.stack([cu_seqlens[clip_F - 1], cu_seqlens[clip_F]]).int())


def temporal_conv(
    x: DeferredActivation, clips: Clips, weight_TOC: Tensor, bias_O: Tensor, batch_stats: bool
) -> ConvOutput:
    """y[t] = sum over taps d of W_d x[t + d - T // 2] + b within each clip, zero beyond its ends (paper, Table 11).

    The clips are laid into a buffer with T // 2 frames of zeros between them, so that each tap is one shifted view and
    one matrix product, and no frame ever sees a neighbouring clip.

    Args:
        x: packed frames, joints, channels.
        clips: no tap reaches into another one.
        weight_TOC, bias_O: one matrix a tap; T odd.
        batch_stats: whether to return those of the output.
    """
    x_FVC = deferred_activation(x)
    frames, joints, channels = x_FVC.shape
    kernel_size = weight_TOC.shape[0]
    gap = kernel_size // 2
    frame = torch.arange(frames, device=x_FVC.device)
    clip = torch.searchsorted(clips.cu_seqlens, frame, right=True) - 1
    slot = frame + gap * (clip + 1)
    slots = frames + gap * clips.cu_seqlens.numel()
    spaced = x_FVC.new_zeros(slots, joints, channels).index_copy(0, slot, x_FVC)
    rows = spaced.shape[0] - 2 * gap
    y = reduce(torch.add, (spaced[tap : tap + rows] @ weight_TOC[tap].T for tap in range(kernel_size)))
    return with_batch_stats(y[slot - gap] + bias_O, batch_stats)
