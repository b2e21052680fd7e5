"""Launching Triton kernels, and recording launches instead, to count them or to compile them without a GPU (aot.py).
Operators defined here also run on meta and fake tensors: they allocate their outputs and launch nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, update_wrapper
from inspect import signature
from operator import attrgetter
from typing import Any, get_origin

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import Function
from torch.autograd.graph import increment_version
from torch.nn import Parameter

TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int32: "*i32", torch.int64: "*i64", torch.uint8: "*u8"}
NUMBERS = {int: "i32", float: "fp32"}  # what kernels take besides tensors and constants
MOST_ELEMENTS = 2**31 - 1  # elements of a tensor: kernels compute offsets in int32
ALIGNMENT = 16  # bytes: Triton compiles a kernel again for a pointer that is no multiple of it, without wide loads
ORDINARY = {Tensor, Parameter}  # no subclass that redefines operators
SCALARS = {int, float, bool, type(None)}  # what operators take besides tensors
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


_requires_grad = attrgetter("requires_grad")
_recorded: list[Launch] | None = None
_target: int | None = None
_launchers: dict[int, Callable] = {}


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
    if _target is None and _has_gpu():
        return _capability(torch.cuda.current_device())
    return _target or 90


@cache
def _has_gpu() -> bool:
    """Asked once: it takes microseconds."""
    return torch.cuda.is_available()


@cache
def _capability(device: int) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


class Operator:
    """The custom operator unisign_fast::name. Ordinary tensors go straight to its Python function, unless torch.compile
    or a mode intercepts operators: a call through torch.library takes longer than most of these kernels.
    """

    def __init__(self, name: str, function: Callable, mutates: tuple[str, ...]):
        self._function = function
        parameters = signature(function).parameters
        self._mutated = [n for n, parameter in enumerate(parameters) if parameter in mutates]
        self._takes_lists = any(get_origin(parameter.annotation) is list for parameter in parameters.values())
        run = update_wrapper(lambda *arguments: self._run(arguments, _tensors(arguments)), function)
        self._custom = torch.library.custom_op(f"unisign_fast::{name}", run, mutates_args=mutates)
        self._custom.register_fake(run)
        self._with_gradients: Callable | None = None

    def register_autograd(self, gradients: Callable, *, setup_context: Callable) -> None:
        """As `CustomOpDef.register_autograd`, but ctx.needs_input_grad has one entry for each tensor of a list."""
        self._custom.register_autograd(gradients, setup_context=setup_context)
        returns_list = get_origin(signature(self._function).return_annotation) is list
        self._with_gradients = _with_gradients(self._run, gradients, setup_context, returns_list)

    def __call__(self, *arguments: Any) -> Any:
        if torch.compiler.is_compiling() or _intercepted():
            return self._custom(*arguments)
        flat = _flat(arguments) if self._takes_lists else arguments
        tensors = [x for x in flat if type(x) not in SCALARS]
        if not ORDINARY.issuperset(map(type, tensors)):
            return self._custom(*arguments)
        if torch.is_grad_enabled() and any(map(_requires_grad, tensors)):
            if self._with_gradients is None:  # the custom operator says so once a gradient is asked for
                return self._custom(*arguments)
            return self._with_gradients(flat, (arguments, tensors))
        result = self._run(arguments, tensors)
        if self._mutated:
            increment_version([arguments[n] for n in self._mutated])
        return result

    def _run(self, arguments: Sequence, tensors: Sequence[Tensor]) -> Any:
        """The function on aligned arguments; those that it writes to stay as they are. `tensors`: all among them."""
        if all(map(Tensor.is_contiguous, tensors)):
            if not any(map(_must_move, filter(Tensor.storage_offset, tensors))):
                return self._function(*arguments)
        return self._function(*[x if n in self._mutated else _aligned(x) for n, x in enumerate(arguments)])


def operator(name: str, mutates: tuple[str, ...] = ()) -> Callable[[Callable], Operator]:
    """Makes a function the custom operator unisign_fast::name, which torch.compile traces as one node. The function is
    its own fake implementation: on fake and meta tensors `launch` runs nothing. It gets its tensors contiguous, as
    `launch` requires, and aligned unless they are small, except those in `mutates`, the arguments it writes to.

    DeepSpeed stores parameters end to end, so that most weights of graph convolutions are not aligned. A kernel would
    load them two bytes at a time, without asynchronous copies.
    """
    return lambda function: Operator(name, function, mutates)


def _intercepted() -> bool:
    """Whether a mode or a transform must see the operators."""
    return torch._C._len_torch_dispatch_stack() > 0 or torch._C._are_functorch_transforms_active()


def _with_gradients(run: Callable, gradients: Callable, setup_context: Callable, returns_list: bool) -> Callable:
    """`run` with these gradients, called with its arguments flat and as `run` takes them: torch.autograd.Function
    connects only tensors outside of lists.
    """

    class WithGradients(Function):
        @staticmethod
        def forward(ctx, *values):
            arguments, tensors = values[-1]
            result = run(arguments, tensors)
            setup_context(ctx, arguments, result)
            return tuple(result) if returns_list else result

        @staticmethod
        def backward(ctx, *grads):
            result = gradients(ctx, list(grads)) if returns_list else gradients(ctx, *grads)
            return *_flat(result if isinstance(result, tuple) else (result,)), None

    def call(flat: Sequence, given: tuple[Sequence, Sequence[Tensor]]) -> Any:
        result = WithGradients.apply(*flat, given)
        return list(result) if returns_list else result

    return call


def _flat(values: Sequence) -> list:
    """The values, lists replaced by their items."""
    return [item for value in values for item in (value if isinstance(value, (list, tuple)) else (value,))]


def _tensors(values: Sequence) -> list[Tensor]:
    return [x for x in _flat(values) if isinstance(x, Tensor)]


def _aligned(argument: Any) -> Any:
    """Tensors contiguous, and large ones at a multiple of `ALIGNMENT`."""
    if isinstance(argument, Tensor):
        tensor = argument.contiguous()
        return tensor.clone() if _must_move(tensor) else tensor
    return [_aligned(item) for item in argument] if isinstance(argument, (list, tuple)) else argument


def _must_move(tensor: Tensor) -> bool:
    """Whether a contiguous tensor is worth an aligned copy."""
    return tensor.numel() >= SMALL and not _is_aligned(tensor)


def _is_aligned(tensor: Tensor) -> bool:
    """Whether it begins at a multiple of `ALIGNMENT`; every allocation does."""
    return tensor.storage_offset() * tensor.element_size() % ALIGNMENT == 0


def cdiv(number: int, divisor: int) -> int:
    """The quotient rounded up. triton.cdiv takes a microsecond on the host."""
    return -(-number // divisor)


def next_power_of_2(number: int) -> int:
    """The smallest power of two that is at least `number`, and at least 1. Triton's takes microseconds on the host."""
    return 1 << max(number - 1, 0).bit_length()


def padded(size: int) -> int:
    """The side of a tile that holds `size`: a power of two, 16 at least, as tl.dot requires."""
    return max(16, next_power_of_2(size))


def launch(
    kernel: Any, grid: tuple[int, ...], *arguments: Tensor | int | float, warps: int, stages: int, **constants
) -> None:
    """kernel[grid](*arguments, **constants); nothing with an empty grid. Tensors must be contiguous.

    Integers that change from batch to batch are arguments that the kernel lists in do_not_specialize: otherwise Triton
    compiles it again for 1 and for multiples of 16. Pointers into a tensor, at places that change, are listed in
    do_not_specialize_on_alignment. Raises TooManyElements for a tensor that int32 offsets cannot address.
    """
    tensors: list[Any] = [argument for argument in arguments if type(argument) not in NUMBERS]
    assert all(map(Tensor.is_contiguous, tensors)), "a kernel takes contiguous tensors"
    if isinstance(tensors[0], FakeTensor):
        return
    if (most := max(map(Tensor.numel, tensors))) > MOST_ELEMENTS:
        raise TooManyElements(kernel.fn.__name__, most)
    if _recorded is not None:
        _recorded.append(_launch(kernel, grid, arguments, warps, stages, constants))
    elif 0 not in grid and not tensors[0].is_meta:
        _launcher(kernel)(tensors[0].get_device(), grid, arguments, constants, warps, stages)


def _launcher(kernel: Any) -> Callable:
    """The kernel's `Launcher`. Looked up by id: the hash of a kernel is that of its source."""
    if (launcher := _launchers.get(id(kernel))) is None:
        from .launcher import Launcher

        launcher = _launchers[id(kernel)] = Launcher(kernel)
    return launcher


def _launch(
    kernel: Any, grid: tuple[int, ...], arguments: tuple, warps: int, stages: int, constants: dict[str, Any]
) -> Launch:
    types = [TYPES[a.dtype] if isinstance(a, Tensor) else NUMBERS[type(a)] for a in arguments]
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
