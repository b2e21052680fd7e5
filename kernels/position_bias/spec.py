"""Cases, FLOPs and bytes of the position bias."""

from ..spec import Case, KernelSpec
from .op import position_bias


def _inputs(shape: dict[str, int], random) -> tuple:
    crops, groups, joints, hidden = (shape[name] for name in "NGVH")
    sizes = [(hidden, 2), (hidden, hidden), (1, hidden)]
    layers = [(random(*size, scale=size[1] ** -0.5), random(size[0])) for size in sizes]
    return random(crops, joints, 2), random(crops, groups, joints, 2), layers


def _flops(shape: dict[str, int]) -> int:
    """Two for each product and sum of the three layers."""
    pairs = shape["N"] * shape["G"] * shape["V"] ** 2
    return 2 * pairs * (3 * shape["H"] + shape["H"] ** 2)


def _bytes(shape: dict[str, int], itemsize: int) -> int:
    points = 2 * shape["N"] * shape["V"] * (1 + shape["G"])
    return itemsize * (points + shape["N"] * shape["G"] * shape["V"] ** 2)


SPEC = KernelSpec(
    operation=position_bias,
    inputs=_inputs,
    cases=(
        Case({"N": 2, "G": 3, "V": 21, "H": 64}, "the model's sizes"),
        Case({"N": 2, "G": 3, "V": 5, "H": 6}, "narrower than the smallest matrix product; tiles span crops"),
        Case({"N": 1, "G": 1, "V": 40, "H": 33}, "many joints; one unit more than a power of two"),
        Case({"N": 1, "G": 1, "V": 1, "H": 16}, "a single pair"),
        Case({"N": 0, "G": 8, "V": 21, "H": 64}, "no sampled hand"),
    ),
    training=(
        Case({"N": 192, "G": 8, "V": 21, "H": 64}, "hands of 4 clips at p_samp 0.1"),
        Case({"N": 768, "G": 8, "V": 21, "H": 64}, "hands of 16 clips at p_samp 0.1"),
    ),
    flops=_flops,
    # Recomputes the forward pass, then twice its products for the gradients of inputs and weights.
    backward_flops=lambda shape: 3 * _flops(shape),
    bytes=_bytes,
    # Reads what the forward pass read and the gradient of its output; writes the gradients of what it read.
    backward_bytes=lambda shape, itemsize: 2 * _bytes(shape, itemsize),
)
