"""Cases, FLOPs and bytes of deformable attention."""

from ..spec import Case, KernelSpec
from .op import deformable_attention


def _inputs(shape: dict, random) -> tuple:
    crops, groups, joints, width, (height, columns) = (shape[name] for name in ("N", "G", "V", "E", "HW"))
    channels = groups * width
    return (
        random(crops, joints, channels),
        random(crops, channels, height, columns),
        random(crops, groups, joints, 2, scale=0.8),  # a fifth of them is outside the map
        random(groups, width, width, scale=width**-0.5),
        random(groups, width, width, scale=width**-0.5),
        random(crops, groups, joints, joints),
    )


def _flops(shape: dict) -> int:
    """Two for each product and sum: samples, keys and values, scores, attended values."""
    joints, width, cells = shape["V"], shape["E"], shape["HW"][0] * shape["HW"][1]
    return 2 * shape["N"] * shape["G"] * joints * width * (cells + 2 * width + 2 * joints)


def _bytes(shape: dict, itemsize: int) -> int:
    joints, width, cells = shape["V"], shape["E"], shape["HW"][0] * shape["HW"][1]
    per_item = 2 * joints * width + cells * width + 2 * joints + joints**2
    return itemsize * (shape["N"] * shape["G"] * per_item + 2 * shape["G"] * width**2)


_MODEL = {"G": 8, "V": 21, "E": 32, "HW": (4, 4)}

SPEC = KernelSpec(
    operation=deformable_attention,
    inputs=_inputs,
    cases=(
        Case({"N": 3, **_MODEL}, "the model's sizes"),
        Case({"N": 2, "G": 2, "V": 5, "E": 3, "HW": (2, 2)}, "narrower than the smallest matrix product"),
        Case({"N": 2, "G": 1, "V": 32, "E": 32, "HW": (3, 5)}, "the most joints and channels; a map that is no square"),
        Case({"N": 1, "G": 3, "V": 1, "E": 17, "HW": (1, 1)}, "one joint, one cell, a width of no power of two"),
        Case({"N": 0, **_MODEL}, "no sampled hand"),
    ),
    training=(
        Case({"N": 192, **_MODEL}, "hands of 4 clips at p_samp 0.1"),
        Case({"N": 768, **_MODEL}, "hands of 16 clips at p_samp 0.1"),
    ),
    flops=_flops,
    # Recomputes the forward pass, then twice its products for the gradients of their two sides.
    backward_flops=lambda shape: 3 * _flops(shape),
    bytes=_bytes,
    # Reads what the forward pass read and the gradient of its output; writes the gradients of what it read.
    backward_bytes=lambda shape, itemsize: 2 * _bytes(shape, itemsize),
)
