"""Loops over arrays, compiled by numba."""

from collections.abc import Callable
from functools import partial

import numba
import numpy as np
import torch
from torch import Tensor

BLOCK = 2**15  # numbers that fit a core's cache; 128 KiB


def compiled(function: Callable | None = None, **options) -> Callable:
    """`function` compiled, without the GIL, and kept on disk; in memory only where neither the package nor a cache
    folder is writable.
    """
    if function is None:
        return partial(compiled, **options)
    jit = partial(numba.njit, function, nogil=True, error_model="numpy", **options)
    try:
        return jit(cache=True)
    except RuntimeError:  # numba's "cannot cache function: no locator available"
        return jit()


# A product and a sum in one instruction, and sums of a row in eight parts.
parallel = compiled(parallel=True, fastmath={"contract", "reassoc"})


def run(loops: Callable, *arguments: Tensor | np.ndarray | float | None) -> None:
    """`parallel` loops, with as many threads as torch takes, which stay as many: numba's first run lets OpenMP take
    all cores. Tensors become arrays, and are float32 already where the loops write to them.
    """
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    loops(*(array(x) if isinstance(x, Tensor) else x for x in arguments))
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def array(x: Tensor) -> np.ndarray:
    """In one piece; float32 of other floating types. The same memory where it is that already."""
    x = x.detach().contiguous()
    return (x.float() if x.is_floating_point() else x).numpy()


def rows_of_a_block(channels: int) -> int:
    """An argument of the loops: numba's cache on disk would not notice a change of BLOCK."""
    return max(1, BLOCK // channels)


def blocks(rows: int, channels: int) -> int:
    """How many there are of so many rows."""
    return -(-rows // rows_of_a_block(channels))
