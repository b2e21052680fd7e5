"""What an operation is, to the model, the tests and the benchmarks alike: a KernelSpec each (registry.py has all)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """Sizes of one call by their letters (pipelines/batches/packed_batch.py has the legend), and why this one."""

    shape: dict[str, Any]
    reason: str


@dataclass(frozen=True)
class KernelSpec:
    """One operation: the PyTorch reference, its fast versions, and what is needed to test and to time them.

    `reference`, `triton` and `cpu` take the same arguments and give the same tensors, nested alike.
    `refusal(*arguments)` says in a line why the Triton path cannot take them, or gives None. `inputs(shape, random)`
    makes arguments; `random(*size, scale=1, exact=False)` gives a leaf tensor that wants a gradient, in float32 at
    least where exact. FLOPs and bytes are the useful ones: nothing padded, every tensor read or written once.
    """

    name: str
    reference: Callable
    triton: Callable
    refusal: Callable[..., str | None]
    inputs: Callable[[dict[str, Any], Callable], tuple]
    cases: tuple[Case, ...]  # of the tests
    training: tuple[Case, ...]  # of the benchmarks
    flops: Callable[[dict[str, Any]], int]
    backward_flops: Callable[[dict[str, Any]], int]
    bytes: Callable[[dict[str, Any], int], int]  # shape, bytes of an element
    backward_bytes: Callable[[dict[str, Any], int], int]
    cpu: Callable | None = None  # faster than the reference on a CPU
