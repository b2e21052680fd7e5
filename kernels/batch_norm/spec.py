"""Cases, FLOPs and bytes of the batch normalization."""

import torch

from ..spec import Case, KernelSpec
from .op import batch_norm


def _inputs(shape: dict[str, int], random) -> tuple:
    def stats() -> tuple:
        mean_C, var_C = random(shape["C"], exact=True), random(shape["C"], exact=True)
        return mean_C, var_C.detach().square().requires_grad_()

    running = [tensor.detach() for tensor in stats()]
    batches = torch.zeros((), dtype=torch.int64, device=running[0].device)
    return *stats(), random(shape["C"]), random(shape["C"]), *running, batches, None, shape["F"], 0.1


SPEC = KernelSpec(
    operation=batch_norm,
    inputs=_inputs,
    cases=(
        Case({"F": 80_640, "C": 256}, "the model's channels and rows"),
        Case({"F": 2, "C": 37}, "odd channels, the fewest rows with a variance"),
        Case({"F": 1, "C": 3}, "one row has no variance"),
        Case({"F": 0, "C": 130}, "no rows; more channels than a program takes"),
    ),
    training=(Case({"F": 80_640, "C": 256}, "16 clips of 240 frames, 21 joints"),),
    flops=lambda shape: 16 * shape["C"],
    backward_flops=lambda shape: 12 * shape["C"],
    bytes=lambda shape, itemsize: shape["C"] * (8 * 4 + 2 * itemsize),
    backward_bytes=lambda shape, itemsize: shape["C"] * (6 * 4 + 3 * itemsize),
)
