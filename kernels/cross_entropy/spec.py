"""Cases, FLOPs and bytes of the vocabulary's cross entropy. N tokens, D model width, W classes."""

import torch

from ..spec import Case, KernelSpec
from .op import cross_entropy


def _inputs(shape: dict, random) -> tuple:
    tokens, width, classes = (shape[name] for name in "NDW")
    hidden, weight = random(tokens, width), random(classes, width, scale=2 * width**-0.5)
    generator = torch.Generator().manual_seed(2)
    return hidden, weight, torch.randint(classes, (tokens,), generator=generator).to(hidden.device), shape["smoothing"]


def _product(shape: dict) -> int:
    return 2 * shape["N"] * shape["D"] * shape["W"]


def _bytes(shape: dict, itemsize: int) -> int:
    return itemsize * (shape["N"] + shape["W"]) * shape["D"]


SPEC = KernelSpec(
    operation=cross_entropy,
    inputs=_inputs,
    cases=(
        Case({"N": 13, "D": 16, "W": 5000, "smoothing": 0.2}, "more classes than a block, the last not full"),
        Case({"N": 5, "D": 8, "W": 7, "smoothing": 0.0}, "few classes, no smoothing"),
        Case({"N": 1, "D": 8, "W": 3, "smoothing": 0.1}, "one token, three classes"),
        Case({"N": 4, "D": 16, "W": 4096, "smoothing": 1.0}, "exactly one block, all of the target uniform"),
    ),
    training=(Case({"N": 560, "D": 768, "W": 30_000, "smoothing": 0.2}, "16 clips of 35 tokens, trimmed vocabulary"),),
    # The gradients are taken in the forward pass: three products of one size.
    flops=lambda shape: 3 * _product(shape),
    backward_flops=lambda shape: 0,
    bytes=lambda shape, itemsize: 2 * _bytes(shape, itemsize),
    backward_bytes=lambda shape, itemsize: 2 * _bytes(shape, itemsize),
)
