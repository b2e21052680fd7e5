"""Cases, FLOPs and bytes of the gate. N rows, H units of the feed-forward."""

from ..spec import Case, KernelSpec
from .op import geglu


def _flops(shape: dict[str, int]) -> int:
    """About twelve an element: the polynomial, the sigmoid and two products."""
    return 12 * shape["N"] * shape["H"]


SPEC = KernelSpec(
    operation=geglu,
    inputs=lambda shape, random: (random(shape["N"], 2 * shape["H"], scale=2.0), 0.0),
    cases=(
        Case({"N": 37, "H": 48}, "the last block is not full"),
        Case({"N": 3, "H": 1}, "a single unit"),
        Case({"N": 2, "H": 512}, "exactly one block"),
        Case({"N": 0, "H": 64}, "no rows"),
    ),
    training=(Case({"N": 16 * 260, "H": 2048}, "16 clips of 260 positions at mT5-Base's width"),),
    flops=_flops,
    backward_flops=lambda shape: 2 * _flops(shape),
    bytes=lambda shape, itemsize: 3 * itemsize * shape["N"] * shape["H"],
    # Reads both projections and the gradient; writes the gradients of both.
    backward_bytes=lambda shape, itemsize: 5 * itemsize * shape["N"] * shape["H"],
)
