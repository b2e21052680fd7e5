"""Moments of rows [R, C] on a CPU: of each block that fits a core's cache, then of all blocks. So rows are read from
memory once, and the result doesn't depend on the number of threads.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from kernels.loops import array, block_count, block_rows, parallel, run


class BlockMoments(NamedTuple):
    """Of each block: its rows, their mean, and the sum of their squared distances from it."""

    count_B: np.ndarray
    mean_BC: np.ndarray
    squares_BC: np.ndarray


def block_moments(x: Tensor) -> BlockMoments:
    """x: [..., C] float32."""
    x_RC = array(x).reshape(-1, x.shape[-1])
    rows = block_rows(x_RC.shape[1])
    mean_BC, squares_BC = np.zeros((2, block_count(*x_RC.shape), x_RC.shape[1]), np.float32)
    run(_moments, x_RC, rows, mean_BC, squares_BC)
    return BlockMoments(np.minimum(rows, len(x_RC) - rows * np.arange(len(mean_BC))), mean_BC, squares_BC)


def merged(found: Sequence[BlockMoments]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance [C] of all rows in float32; zeros where there is no row."""
    count_B, mean_BC, squares_BC = map(np.concatenate, zip(*found))
    rows = max(1, count_B.sum())
    mean_C = count_B @ mean_BC.astype(np.float64) / rows
    var_C = (squares_BC.sum(0, dtype=np.float64) + count_B @ np.square(mean_BC - mean_C)) / rows
    return torch.from_numpy(mean_C).float(), torch.from_numpy(var_C).float()


@parallel
def _moments(x_RC, rows, mean_BC, squares_BC):
    count, channels = mean_BC.shape
    for b in numba.prange(count):
        first, end = b * rows, min((b + 1) * rows, len(x_RC))
        for r in range(first, end):
            for c in range(channels):
                mean_BC[b, c] += x_RC[r, c]
        for c in range(channels):
            mean_BC[b, c] /= np.float32(end - first)
        for r in range(first, end):
            for c in range(channels):
                distance = x_RC[r, c] - mean_BC[b, c]
                squares_BC[b, c] += distance * distance
