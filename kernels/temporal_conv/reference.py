"""Temporal convolution on packed frames in plain PyTorch: the truth that every faster version is held against."""

import torch
from torch import Tensor

from ..deferred_activation.reference import ConvOutput, DeferredActivation, deferred_activation, with_batch_stats


def temporal_conv(
    x: DeferredActivation, cu_seqlens: Tensor, weight_TOC: Tensor, bias_O: Tensor, batch_stats: bool
) -> ConvOutput:
    """y[t] = sum over taps d of W_d x[t + d - T // 2] + b within each clip, zero beyond its ends (paper, Table 11).

    The clips are laid into a buffer with T // 2 frames of zeros between them, so that each tap is one shifted view and
    one matrix product, and no frame ever sees a neighbouring clip.

    Args:
        x: packed frames, joints, channels.
        cu_seqlens: [B + 1] int64, first frame of each clip and F.
        weight_TOC, bias_O: one matrix a tap; T odd.
        batch_stats: whether those of the output are wanted.
    """
    x_FVC = deferred_activation(x)
    frames, joints, channels = x_FVC.shape
    kernel_size = weight_TOC.shape[0]
    gap = kernel_size // 2
    clips = cu_seqlens.numel() - 1
    frame = torch.arange(frames, device=x_FVC.device)
    clip = torch.searchsorted(cu_seqlens, frame, right=True) - 1
    slot = frame + gap * (clip + 1)
    spaced = x_FVC.new_zeros(frames + gap * (clips + 1), joints, channels).index_copy(0, slot, x_FVC)
    rows = spaced.shape[0] - 2 * gap
    y = sum(spaced[tap : tap + rows] @ weight_TOC[tap].T for tap in range(kernel_size))
    return with_batch_stats(y[slot - gap] + bias_O, batch_stats)
