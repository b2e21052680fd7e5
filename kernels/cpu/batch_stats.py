"""Moments of rows [R, C] on a CPU: of each block that fits a core's cache, then of all blocks. So rows are read from
memory once, and the result doesn't depend on the number of threads.
"""

import numba
import numpy as np
import torch
from torch import Tensor

from .loops import array, block_count, block_rows, parallel, run


def row_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance [C] of rows [..., C], all in float32; zeros where there is no row."""
    x_RC = array(x).reshape(-1, x.shape[-1])
    rows = block_rows(x_RC.shape[1])
    mean_BC, squares_BC = np.zeros((2, block_count(*x_RC.shape), x_RC.shape[1]), np.float32)
    run(_moments, x_RC, rows, mean_BC, squares_BC)
    share_B = np.minimum(rows, len(x_RC) - rows * np.arange(len(mean_BC))) / max(1, len(x_RC))
    mean_C = share_B @ mean_BC.astype(np.float64)
    var_C = squares_BC.sum(0, dtype=np.float64) / max(1, len(x_RC)) + share_B @ np.square(mean_BC - mean_C)
    return torch.from_numpy(mean_C).float(), torch.from_numpy(var_C).float()


@parallel
def _moments(x_RC, rows, mean_BC, squares_BC):
    """Of each block its mean, and the sum of squared distances from it."""
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
