"""Cases, FLOPs and bytes of a residual sum and its RMS norm. N rows, D model width."""

import torch

from ..spec import Case, KernelSpec
from .op import residual_rms_norm


def _inputs(shape: dict, random) -> tuple:
    rows, width = shape["N"], shape["D"]
    x_RM, branch_RM, scale_M, p = random(rows, width), random(rows, width), random(width), shape.get("p", 0.0)
    return x_RM, branch_RM, scale_M, 1e-6, p, torch.zeros(1, dtype=torch.int64, device=x_RM.device) if p else None


_TRAINING = {"N": 16 * 260, "D": 768}


SPEC = KernelSpec(
    operation=residual_rms_norm,
    inputs=_inputs,
    cases=(
        Case({"N": 37, "D": 48}, "the last tile is not full; a width that is no power of two"),
        Case({"N": 1, "D": 1}, "a single number"),
        Case({"N": 2200, "D": 16}, "more tiles than programs of the backward pass"),
        Case({"N": 0, "D": 64}, "no rows"),
    ),
    training=(Case(_TRAINING, "16 clips of 260 positions at mT5-Base's width"),),
    random=(Case({**_TRAINING, "p": 0.1}, "with dropout"),),
    flops=lambda shape: 6 * shape["N"] * shape["D"],
    backward_flops=lambda shape: 12 * shape["N"] * shape["D"],
    # Reads both inputs, writes both results.
    bytes=lambda shape, itemsize: 4 * itemsize * shape["N"] * shape["D"],
    # Reads the sum and both gradients, writes two.
    backward_bytes=lambda shape, itemsize: 5 * itemsize * shape["N"] * shape["D"],
)
