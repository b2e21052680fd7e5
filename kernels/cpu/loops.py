"""Loops over arrays, compiled by numba, with a vectorized exp.

numba does not recompile a cached loop when a function it calls in another file changes: delete `__pycache__`.
"""

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

# Taylor's coefficients of 2^f: within a rounding of float32 for f in [-1/2, 1/2].
ONE, T1, T2, T3, T4, T5, T6 = (np.float32(math.log(2) ** n / math.factorial(n)) for n in range(7))
LOG2_E, LEAST, MOST, HALF = map(np.float32, (math.log2(math.e), -126, 126, 0.5))


def parallel(function: Callable) -> Callable:
    """Compile `function`, with `prange` loops on several threads. Cached on disk if a cache folder is writable.
    Allows fused multiply-add and reassociated sums.
    """
    options: Any = {"parallel": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc"}}
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:  # numba's "cannot cache function: no locator available"
        return numba.njit(function, **options)


def run(loops: Callable, *arguments: Tensor | np.ndarray | float | None) -> None:
    """`parallel` loops with torch's number of threads, which numba's first run would set to all cores. Loops may write
    to a tensor, so it must be contiguous and float32 or of whole numbers.
    """
    for x in arguments:
        if isinstance(x, Tensor):
            assert x.is_contiguous() and (x.dtype == torch.float32 or not x.is_floating_point()), (x.dtype, x.stride())
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    try:
        loops(*(x.detach().numpy() if isinstance(x, Tensor) else x for x in arguments))
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


@numba.njit(inline="always")
def exp(x):
    """2^t, t = x log2 e: 2^n 2^f with a whole n, written as bits. Clamped to [2^-126, 2^126], reached at x = +-87."""
    t = min(max(x * LOG2_E, LEAST), MOST)
    n = np.int32(np.floor(t + HALF))
    f = t - np.float32(n)
    power_of_f = ONE + f * (T1 + f * (T2 + f * (T3 + f * (T4 + f * (T5 + f * T6)))))
    return power_of_f * np.int32((n + np.int32(127)) << np.int32(23)).view(np.float32)


@numba.njit(inline="always")
def sigmoid(x):
    """1 / (1 + exp(-x))"""
    return ONE / (ONE + exp(-x))
