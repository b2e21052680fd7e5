"""Helpers of kernel tests: tolerances, poisoned outputs, and bfloat16 in the interpreter."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .dispatch import tensors
from .spec import KernelSpec

FLOAT32_ROUNDING = 2e-6  # relative to the largest value: sums of a few hundred products in another order
BFLOAT16_SLACK = 2.0  # a kernel may err twice as much as PyTorch's own bfloat16


def make_inputs(spec: KernelSpec, shape: dict, dtype: torch.dtype, device: str, seed: int = 0) -> tuple:
    """The operation's arguments: leaf tensors that require gradients, with the same values in every dtype."""
    generator = torch.Generator().manual_seed(seed)

    def random(*size: int, scale: float = 1.0, exact: bool = False) -> Tensor:
        values = (torch.randn(size, generator=generator) * scale).bfloat16()
        return values.to(device, torch.promote_types(dtype, torch.float32) if exact else dtype).requires_grad_()

    return spec.inputs(shape, random)


def leaves(arguments: object) -> list[Tensor]:
    """The tensors among nested arguments or results that require gradients, in order."""
    return [tensor for tensor in tensors(arguments) if tensor.requires_grad]


def results_and_gradients(operation, arguments: tuple, seed: int = 1) -> list[Tensor]:
    """The operation's results, then the gradient of every leaf, for random gradients of the differentiable results."""
    result = tensors(operation(*arguments))
    differentiable = leaves(result)
    generator = torch.Generator().manual_seed(seed)
    upstream = [torch.randn(y.shape, generator=generator).bfloat16().to(y.device, y.dtype) for y in differentiable]
    return [*(y.detach() for y in result), *torch.autograd.grad(differentiable, leaves(arguments), upstream)]


def check(spec: KernelSpec, backend: str, shape: dict, dtype: torch.dtype, device: str) -> list[tuple[float, float]]:
    """A fast version against the reference in float64: (error, allowed) of each result and gradient.

    Errors are the largest absolute ones. float32: rounding, relative to the largest value. bfloat16: twice the error
    of the reference run in bfloat16, plus one rounding of the largest value.
    """
    truth = results_and_gradients(spec.operation.reference, make_inputs(spec, shape, torch.float64, device))
    plain = results_and_gradients(spec.operation.reference, make_inputs(spec, shape, dtype, device))
    with poisoned_memory():
        result = results_and_gradients(getattr(spec.operation, backend), make_inputs(spec, shape, dtype, device))
    rows = []
    for exact, eager, ours in zip(truth, plain, result, strict=True):
        assert ours.shape == exact.shape and ours.dtype == eager.dtype, (ours.shape, exact.shape, ours.dtype)
        if exact.numel() == 0:
            continue
        largest = exact.abs().max().item()
        own_error = (eager.double() - exact).abs().max().item()
        rounding = FLOAT32_ROUNDING if dtype == torch.float32 else torch.finfo(dtype).eps / 2
        allowed = BFLOAT16_SLACK * own_error + rounding * largest
        rows.append(((ours.double() - exact).abs().nan_to_num(nan=float("inf")).max().item(), allowed))
    return rows


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Within the block, torch.empty fills its memory with NaN, which reveals elements that a kernel does not write."""
    memory: Any = torch.utils.deterministic  # defines its property at run time
    before = memory.fill_uninitialized_memory
    deterministic = torch.are_deterministic_algorithms_enabled()
    memory.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)  # grid_sample has no deterministic backward on a GPU
    try:
        yield
    finally:
        memory.fill_uninitialized_memory = before
        torch.use_deterministic_algorithms(deterministic)


def repair_interpreter() -> None:
    """Give Triton's interpreter, which holds bfloat16 as bare uint16, correct casts and matrix products of it.

    Arithmetic on bfloat16 raises AssertionError instead of giving nonsense: kernels widen what they load.
    """
    import numpy as np
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def widen(handle: TensorHandle) -> TensorHandle:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def round_to_bfloat16(values: np.ndarray) -> np.ndarray:
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # to the nearest, ties to even
        return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)

    def casting(original):
        def cast(self, src, dst_type, *rest):
            src = widen(src)
            if dst_type.scalar == tl.bfloat16:
                return TensorHandle(round_to_bfloat16(src.data), tl.bfloat16)
            return original(self, src, dst_type, *rest)

        return cast

    def multiplying(original):
        return lambda self, a, b, d, *rest: original(self, widen(a), widen(b), d, *rest)

    def guarding(original):
        def binary_op(self, lhs, rhs, op):
            assert tl.bfloat16 not in (lhs.dtype.scalar, rhs.dtype.scalar), "arithmetic on bfloat16: widen it first"
            return original(self, lhs, rhs, op)

        return binary_op

    if getattr(InterpreterBuilder, "knows_bfloat16", False):
        return
    for name in ("cast_impl", "create_fp_to_fp"):
        setattr(InterpreterBuilder, name, casting(getattr(InterpreterBuilder, name)))
    InterpreterBuilder.create_dot = multiplying(InterpreterBuilder.create_dot)
    InterpreterBuilder.binary_op = guarding(InterpreterBuilder.binary_op)
    InterpreterBuilder.knows_bfloat16 = True
