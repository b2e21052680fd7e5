"""Memory allocation of a CPU process: it keeps freed memory and uses large pages.

Every training step allocates the same gigabytes. By default glibc returns a large tensor's memory to the system when it
is freed, and the system zero-fills the next one in pages of 4 KiB.
"""

import ctypes
import os

import torch

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4  # glibc's malloc.h
MORE_AT_ONCE = 2**26  # bytes


def keep_memory() -> None:
    """Configures the whole process; call it before creating a tensor. Does nothing on a GPU or without glibc."""
    if torch.cuda.is_available():
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch then asks for large pages
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, -1)
        mallopt(TOP_PAD, MORE_AT_ONCE)
