"""Loops over arrays, compiled by numba.

numba keeps them on disk and compiles them again when their own file changes, or they do; not when a function that they
call from another file does, or this one: remove the `__pycache__` folders then.
"""

from collections.abc import Callable

import numba
import numpy as np
import torch
from torch import Tensor

BLOCK = 2**15  # numbers of a map or an activation that a core's own cache takes; 128 KiB


def parallel(function: Callable) -> Callable:
    """`function` compiled, with its `prange` loops on several threads, and kept on disk; in memory only where no folder
    for it is writable. A product and a sum in one instruction, and sums of a row in eight parts.
    """
    options = {"parallel": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc"}}
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:  # numba's "cannot cache function: no locator available"
        return numba.njit(function, **options)


def run(loops: Callable, *arguments: Tensor | np.ndarray | float | None) -> None:
    """`parallel` loops, with as many threads as torch takes, which stay as many: numba's first run lets OpenMP take
    all cores. Loops may write to a tensor, so it must be float32 or of whole numbers and in one piece; `array` makes
    others so.
    """
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    try:
        loops(*map(_argument, arguments))
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def _argument(x: Tensor | np.ndarray | float | None) -> np.ndarray | np.float32 | None:
    if isinstance(x, float):
        return np.float32(x)  # a Python float would make the loop's products float64
    if not isinstance(x, Tensor):
        return x
    assert x.is_contiguous() and (x.dtype == torch.float32 or not x.is_floating_point()), (x.dtype, x.stride())
    return x.detach().numpy()


def array(x: Tensor) -> np.ndarray:
    """For loops to read: in one piece, float32 of other floating types. The same memory where it is that already."""
    x = x.detach().contiguous()
    return (x.float() if x.is_floating_point() else x).numpy()


def block_rows(channels: int) -> int:
    """Rows of a block. Loops take it as an argument: numba would not notice a change of BLOCK."""
    return max(1, BLOCK // channels)


def block_count(rows: int, channels: int) -> int:
    """Blocks of so many rows."""
    return -(-rows // block_rows(channels))
