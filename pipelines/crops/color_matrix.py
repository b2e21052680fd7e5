"""Colours of HD videos that DALI decoded: it converts to RGB by BT.601, whatever matrix the video declares.

Matrices are named by the numbers of ITU-T H.273, table 4, which FFmpeg uses. FFmpeg takes an unspecified one for
BT.601.
"""

from functools import cache

import torch
from torch import Tensor

BT709, UNSPECIFIED, BT470BG, SMPTE170M = 1, 2, 5, 6
DALI_MATRICES = (BT709, UNSPECIFIED, BT470BG, SMPTE170M)  # all but BT.709 are BT.601's


def correct_colors(crops_N3SS: Tensor, color_matrix: int) -> Tensor:
    """Crops [n, 3, S, S] uint8 of a video with this matrix, decoded by DALI, in their true colours.

    Both conversions are linear without offset, in limited as in full range, and so is resizing: only a colour that
    DALI clipped is lost.
    """
    assert color_matrix in DALI_MATRICES, color_matrix
    if color_matrix != BT709:
        return crops_N3SS
    corrected = torch.einsum("oc,ncyx->noyx", _bt709_from_bt601().to(crops_N3SS.device), crops_N3SS.float())
    return corrected.round_().clamp_(0, 255).to(torch.uint8)


@cache
def _bt709_from_bt601() -> Tensor:
    return (_rgb_from_ycbcr(0.2126, 0.0722) @ torch.linalg.inv(_rgb_from_ycbcr(0.299, 0.114))).float()


def _rgb_from_ycbcr(red: float, blue: float) -> Tensor:
    """Float64 [3, 3] for the weights of red and blue in the luma: ITU-R BT.709, BT.601 section 2.5.1."""
    green = 1 - red - blue
    from_cr, from_cb = 2 * (1 - red), 2 * (1 - blue)
    rows = [[1, 0, from_cr], [1, -blue * from_cb / green, -red * from_cr / green], [1, from_cb, 0]]
    return torch.tensor(rows, dtype=torch.float64)
