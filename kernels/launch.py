"""Launching Triton kernels, and recording launches instead, to count them or to compile them without a GPU (aot.py).
Operators defined here also run on meta and fake tensors: they allocate their outputs and launch nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.library import CustomOpDef

TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int32: "*i32", torch.int64: "*i64"}
MOST_ELEMENTS = 2**31 - 1  # elements of a tensor: kernels compute offsets in int32
ALIGNMENT = 16  # bytes: Triton compiles a kernel again for a pointer that is no multiple of it, without wide loads
SMALL = 4096  # elements of a tensor that is not worth a copy


@dataclass(frozen=True)
class Launch:
    """Everything that determines a launch's machine code, and its size: equal launches run the same code."""

    kernel: Any  # the function under @triton.jit
    signature: tuple[tuple[str, str], ...]  # argument, Triton type; "constexpr" for constants
    constants: tuple[tuple[str, Any], ...]
    specialized: tuple[tuple[str, int], ...]  # integers that Triton compiles for: 1, or a multiple of 16
    aligned: tuple[str, ...]  # pointers that Triton compiles for as multiples of `ALIGNMENT`
    warps: int
    stages: int
    grid: tuple[int, ...] = field(compare=False)
    integers: dict[str, int] = field(compare=False)  # all integer arguments
    bytes: int = field(compare=False)  # of its tensors, each counted once


class TooManyElements(ValueError):
    """A tensor that int32 offsets cannot address."""

    def __init__(self, kernel: str, elements: int):
        super().__init__(f"{kernel}: a tensor of {elements:,} elements exceeds int32 offsets")
        self.elements = elements


_recorded: list[Launch] | None = None
_target: int | None = None


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """Within the block, kernels do not run, and outputs stay uninitialised; each launch is appended to the list."""
    global _recorded
    before, _recorded = _recorded, []
    try:
        yield _recorded
    finally:
        _recorded = before


@contextmanager
def compiling_for(capability: int) -> Iterator[None]:
    """Within the block launches have the tiles of this compute capability, times ten."""
    global _target
    before, _target = _target, capability
    try:
        yield
    finally:
        _target = before


def compute_capability() -> int:
    """The compute capability of the GPU that kernels are launched on, times ten; without a GPU, an H200's: 90."""
    if _target is None and torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        return 10 * major + minor
    return _target or 90


def operator(name: str, mutates: tuple[str, ...] = ()) -> Callable[[Callable], CustomOpDef]:
    """Makes a function the custom operator unisign_fast::name, which torch.compile traces as one node. The function is
    its own fake implementation: on fake and meta tensors `launch` runs nothing. It gets its tensors contiguous, as
    `launch` requires, and aligned unless they are small, except those in `mutates`, the arguments it writes to.

    DeepSpeed stores parameters end to end, so that most weights of graph convolutions are not aligned. A kernel would
    load them two bytes at a time, without asynchronous copies, and one would spill on sm_90.
    """

    def register(function: Callable) -> CustomOpDef:
        names = tuple(signature(function).parameters)

        @wraps(function)
        def on_aligned(*arguments: Any) -> Any:
            return function(*(x if name in mutates else _aligned(x) for name, x in zip(names, arguments)))

        custom = torch.library.custom_op(f"unisign_fast::{name}", on_aligned, mutates_args=mutates)
        custom.register_fake(on_aligned)
        return custom

    return register


def _aligned(argument: Any) -> Any:
    """Tensors contiguous, and large ones at a multiple of `ALIGNMENT`."""
    if isinstance(argument, list):
        return [_aligned(item) for item in argument]
    if not isinstance(argument, Tensor):
        return argument
    tensor = argument.contiguous()
    return tensor if _is_aligned(tensor) or tensor.numel() < SMALL else tensor.clone()


def _is_aligned(tensor: Tensor) -> bool:
    """Whether it begins at a multiple of `ALIGNMENT`; every allocation does."""
    return tensor.storage_offset() * tensor.element_size() % ALIGNMENT == 0


def padded(size: int) -> int:
    """The side of a tile that holds `size`: a power of two, 16 at least, as tl.dot requires."""
    return max(16, 1 << (size - 1).bit_length())


def launch(
    kernel: Any, grid: tuple[int, ...], *arguments: Tensor | int | float, warps: int, stages: int, **constants
) -> None:
    """kernel[grid](*arguments, **constants); nothing with an empty grid. Tensors must be contiguous.

    Integers that change from batch to batch are arguments that the kernel lists in do_not_specialize: otherwise Triton
    compiles it again for 1 and for multiples of 16. Pointers into a tensor, at places that change, are listed in
    do_not_specialize_on_alignment. Raises TooManyElements for a tensor that int32 offsets cannot address.
    """
    given = [argument for argument in arguments if isinstance(argument, Tensor)]
    assert all(tensor.is_contiguous() for tensor in given), "a kernel takes contiguous tensors"
    if isinstance(given[0], FakeTensor):
        return
    if (largest := max(tensor.numel() for tensor in given)) > MOST_ELEMENTS:
        raise TooManyElements(kernel.fn.__name__, largest)
    if _recorded is not None:
        _recorded.append(_launch(kernel, grid, arguments, warps, stages, constants))
    elif all(grid) and not given[0].is_meta:
        with torch.cuda.device_of(given[0]):  # Triton launches on the current GPU, whatever GPU the tensors are on
            kernel[grid](*arguments, **constants, num_warps=warps, num_stages=stages)


def _launch(
    kernel: Any, grid: tuple[int, ...], arguments: tuple, warps: int, stages: int, constants: dict[str, Any]
) -> Launch:
    numbers = {int: "i32", float: "fp32"}
    types = [TYPES[a.dtype] if isinstance(a, Tensor) else numbers[type(a)] for a in arguments]
    signature = [*zip(kernel.arg_names, types), *((name, "constexpr") for name in constants)]
    # The interpreter keeps the decorator's options in `kwargs`, the compiler in attributes.
    options = getattr(kernel, "kwargs", None) or vars(kernel)
    varying, unaligned = options["do_not_specialize"] or (), options["do_not_specialize_on_alignment"] or ()
    integers = {name: a for name, a in zip(kernel.arg_names, arguments) if type(a) is int}
    fixed = [(name, number) for name, number in integers.items() if name not in varying]
    specialized = [(name, 1 if n == 1 else 16) for name, n in fixed if n == 1 or n % 16 == 0]
    aligned = tuple(
        name
        for name, a in zip(kernel.arg_names, arguments)
        if isinstance(a, Tensor) and _is_aligned(a) and name not in unaligned
    )
    sizes = {a.untyped_storage()._cdata: a.numel() * a.element_size() for a in arguments if isinstance(a, Tensor)}
    code = kernel, tuple(signature), tuple(constants.items()), tuple(specialized), aligned, warps, stages
    return Launch(*code, grid, integers, sum(sizes.values()))
