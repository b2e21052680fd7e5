"""Launching Triton kernels, and recording launches instead of making them, so that they can be compiled for a GPU that
is not there (kernels/aot.py).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int32: "*i32", torch.int64: "*i64"}


@dataclass(frozen=True)
class Launch:
    """What the compiler must know of one launch; equal launches run the same machine code."""

    kernel: Any  # the function under @triton.jit
    signature: tuple[tuple[str, str], ...]  # argument, Triton type; "constexpr" for constants
    constants: tuple[tuple[str, Any], ...]
    warps: int
    stages: int


_recorded: list[Launch] | None = None


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """Within the block, kernels are not run (their outputs stay uninitialised): each launch is put into the list."""
    global _recorded
    before, _recorded = _recorded, []
    try:
        yield _recorded
    finally:
        _recorded = before


def padded(size: int) -> int:
    """The side of a tile that holds `size`: a power of two, 16 at least, as tl.dot wants it."""
    return max(16, 1 << (size - 1).bit_length())


def contiguous(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The same tensors as `launch` takes them."""
    return [tensor.contiguous() for tensor in tensors]


def launch(
    kernel: Any, grid: tuple[int, ...], *arguments: Tensor | int | float, warps: int, stages: int, **constants
) -> None:
    """kernel[grid](*arguments, **constants). Tensors must be contiguous; with an empty grid nothing is launched."""
    assert all(a.is_contiguous() for a in arguments if isinstance(a, Tensor)), "a kernel takes contiguous tensors"
    if _recorded is not None:
        numbers = {int: "i32", float: "fp32"}
        types = [TYPES[a.dtype] if isinstance(a, Tensor) else numbers[type(a)] for a in arguments]
        signature = [*zip(kernel.arg_names, types), *((name, "constexpr") for name in constants)]
        _recorded.append(Launch(kernel, tuple(signature), tuple(constants.items()), warps, stages))
    elif all(grid):
        kernel[grid](*arguments, **constants, num_warps=warps, num_stages=stages)
