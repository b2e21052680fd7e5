"""Dropout masks in Triton. Kernels redraw them in the backward pass instead of saving them."""

import triton
import triton.language as tl


@triton.jit
def kept(seed, tile, p, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """[ROWS, COLUMNS] of a tile: 0 with probability p, else 1 / (1 - p). Four neighbors share a draw of 128 bits."""
    quarter: tl.constexpr = COLUMNS // 4
    number = (tile * ROWS + tl.arange(0, ROWS))[:, None] * quarter + tl.arange(0, quarter)[None, :]
    a, b, c, d = tl.rand4x(tl.load(seed), number)
    draw = tl.reshape(tl.join(tl.join(a, b), tl.join(c, d)), (ROWS, COLUMNS))
    return tl.where(draw >= p, 1 / (1 - p), 0.0)


@triton.jit
def _mix(x):
    """uint32 in which each bit, the upper ones above all, depends on all bits of x: the finalizer of MurmurHash3 but
    for its last step, which changes the lower half alone.
    """
    x = (x ^ (x >> 16)) * 0x85EBCA6B
    return (x ^ (x >> 13)) * 0xC2B2AE35


@triton.jit
def mixed_seed(seed):
    """uint32 to pass to `row_keys`; `seed` points to it, and is read once, outside of loops."""
    return _mix(tl.load(seed).to(tl.uint32))


@triton.jit
def row_keys(seed_key, row):
    """uint32 for each row of a matrix whose elements are dropped, to pass to `keeps`."""
    return _mix(seed_key ^ row.to(tl.uint32))


@triton.jit
def keeps(key, column, dropped):
    """Whether an element is kept, from its row's key and its column: True with probability 1 - dropped / 2^31.

    A hash of the place instead of Philox's sequence: tiles of any shape and order draw the same mask, with a quarter of
    the instructions.
    """
    return _mix(key ^ (column.to(tl.uint32) * 0x9E3779B9)) >= dropped.to(tl.uint32) * 2
