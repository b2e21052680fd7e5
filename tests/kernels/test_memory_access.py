"""The watch over the kernels' memory notices each kind of fault; test_kernels.py uses it on all kernels."""

import pytest
import torch
import triton
import triton.language as tl
from kernel_memory import watched_memory

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="watches Triton's interpreter")
SIZE = 16


@triton.jit
def double(x, y, SIZE: tl.constexpr):
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(y + at, 2 * tl.load(x + at))


@triton.jit
def beyond_the_end(x, y, SIZE: tl.constexpr):
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(y + at, tl.load(x + at + 1))


@triton.jit
def before_the_start(x, y, SIZE: tl.constexpr):
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(y + at - 1, tl.load(x + at))


@triton.jit
def the_same_place(x, y, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(y + at, tl.load(x + at) + tl.program_id(0))


@triton.jit
def of_the_other_program(x, y, SIZE: tl.constexpr):
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(y + at, tl.load(x + at))
    tl.debug_barrier()
    other = (1 - tl.program_id(0)) * SIZE + tl.arange(0, SIZE)
    tl.store(x + at, tl.load(y + other))


@triton.jit
def without_a_barrier(x, y, SIZE: tl.constexpr, BARRIER: tl.constexpr):
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(y + at, tl.load(x + at))
    if BARRIER:
        tl.debug_barrier()
    tl.store(x + at, tl.load(y + at))


@triton.jit
def two_values(x, y, SIZE: tl.constexpr):
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(y + at // 2 * 2, tl.load(x + at))


def faults_of(kernel, **constants: bool) -> list[str]:
    """What the watch says of two programs of this kernel, its tensors being parts of larger ones."""
    x, y = torch.arange(8.0 * SIZE).split([2 * SIZE, 6 * SIZE])[0], torch.zeros(4 * SIZE)[SIZE : 3 * SIZE]
    with watched_memory() as faults:
        kernel[(2,)](x, y, SIZE, **constants)
    return faults


def test_sound_kernels_have_no_faults():
    assert faults_of(double) == []
    assert faults_of(without_a_barrier, BARRIER=True) == []


@pytest.mark.parametrize(
    "kernel, constants, fault",
    [
        (beyond_the_end, {}, "a load outside of all tensors"),
        (before_the_start, {}, "a store outside of all tensors"),
        (the_same_place, {}, "two programs store in one place"),
        (of_the_other_program, {}, "a program loads what another one stores"),
        (without_a_barrier, {"BARRIER": False}, "a program loads what it has stored, without a barrier between"),
        (two_values, {}, "one store has two values for one place"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_each_fault_is_noticed(kernel, constants, fault):
    assert faults_of(kernel, **constants) == [f"{kernel.fn.__name__}: {fault}"]
