"""Descriptions of operations for tests and benchmarks: one KernelSpec each (registry.py lists them)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .dispatch import Operation


@dataclass(frozen=True)
class Case:
    """Sizes of one call by their letters (pipelines/batches/packed_batch.py has the legend), and the reason for this
    case."""

    shape: dict[str, Any]
    reason: str


@dataclass(frozen=True)
class KernelSpec:
    """Everything that tests and benchmarks need to run an operation.

    `inputs(shape, random)` makes arguments; `random(*size, scale=1, exact=False)` returns a leaf tensor that requires a
    gradient, in float32 at least where exact. FLOPs and bytes are the useful ones: nothing padded, every tensor read or
    written once.
    """

    operation: Operation
    inputs: Callable[[dict[str, Any], Callable], tuple]
    cases: tuple[Case, ...]  # cases of the tests
    training: tuple[Case, ...]  # cases of the benchmarks
    flops: Callable[[dict[str, Any]], int]
    backward_flops: Callable[[dict[str, Any]], int]
    bytes: Callable[[dict[str, Any], int], int]  # shape, bytes of an element
    backward_bytes: Callable[[dict[str, Any], int], int]
    random: tuple[Case, ...] = ()  # compiled like `training`, but not compared: results are random

    @property
    def name(self) -> str:
        return self.operation.name
