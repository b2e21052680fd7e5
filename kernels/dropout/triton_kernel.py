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
