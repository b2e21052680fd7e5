"""Loops over arrays, compiled by numba."""

from collections.abc import Callable
from functools import partial

import numba


def compiled(function: Callable | None = None, **options) -> Callable:
    """Compiles `function` to run without the GIL and caches the result on disk.

    The result stays in memory only if neither the package nor a cache folder is writable.
    """
    if function is None:
        return partial(compiled, **options)
    jit = partial(numba.njit, function, nogil=True, error_model="numpy", **options)
    try:
        return jit(cache=True)
    except RuntimeError:  # numba's "cannot cache function: no locator available"
        return jit()
