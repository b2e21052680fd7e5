"""Cases, FLOPs and bytes of the gate. N rows, H units of the feed-forward."""

import torch

from ..spec import Case, KernelSpec
from .op import geglu


def _inputs(shape: dict, random) -> tuple:
    gate_up, p = random(shape["N"], 2 * shape["H"], scale=2.0), shape.get("p", 0.0)
    return gate_up, p, torch.zeros(1, dtype=torch.int64, device=gate_up.device) if p else None


def _flops(shape: dict[str, int]) -> int:
    """About twelve an element: the polynomial, the sigmoid and two products."""
    return 12 * shape["N"] * shape["H"]


_TRAINING = {"N": 16 * 260, "H": 2048}

SPEC = KernelSpec(
    operation=geglu,
    inputs=_inputs,
    cases=(
        Case({"N": 37, "H": 48}, "the last block is not full"),
        Case({"N": 3, "H": 1}, "a single unit"),
        Case({"N": 2, "H": 512}, "exactly one block"),
        Case({"N": 0, "H": 64}, "no rows"),
    ),
    training=(Case(_TRAINING, "16 clips of 260 positions at mT5-Base's width"),),
    random=(Case({**_TRAINING, "p": 0.1}, "with dropout"),),
    flops=_flops,
    backward_flops=lambda shape: 2 * _flops(shape),
    bytes=lambda shape, itemsize: 3 * itemsize * shape["N"] * shape["H"],
    # Reads both projections and the gradient; writes the gradients of both.
    backward_bytes=lambda shape, itemsize: 5 * itemsize * shape["N"] * shape["H"],
)
