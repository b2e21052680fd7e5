"""Cases, FLOPs and bytes of projections. N rows, D model width, O outputs of each projection."""

from ..spec import Case, KernelSpec
from .op import projections


def _inputs(shape: dict, random) -> tuple:
    rows, width = shape["N"], shape["D"]
    return random(rows, width), tuple(random(outputs, width, scale=width**-0.5) for outputs in shape["O"])


def _flops(shape: dict) -> int:
    return 2 * shape["N"] * shape["D"] * sum(shape["O"])


def _bytes(shape: dict, itemsize: int) -> int:
    rows, width, outputs = shape["N"], shape["D"], sum(shape["O"])
    return itemsize * (rows * (width + outputs) + width * outputs)


SPEC = KernelSpec(
    operation=projections,
    inputs=_inputs,
    cases=(
        Case({"N": 7, "D": 16, "O": [5, 3, 16]}, "projections of different widths"),
        Case({"N": 3, "D": 8, "O": [8]}, "one projection"),
        Case({"N": 1, "D": 1, "O": [1]}, "a single number"),
        Case({"N": 0, "D": 8, "O": [8, 8]}, "no rows"),
    ),
    training=(
        Case({"N": 16 * 260, "D": 768, "O": [768] * 3}, "queries, keys and values of 16 clips at mT5-Base's width"),
        Case({"N": 16 * 260, "D": 768, "O": [2048] * 2}, "the feed-forward's gate and up projection"),
    ),
    flops=_flops,
    backward_flops=lambda shape: 2 * _flops(shape),
    bytes=_bytes,
    backward_bytes=lambda shape, itemsize: 2 * _bytes(shape, itemsize),
)
