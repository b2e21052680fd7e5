"""Cases, FLOPs and bytes of the deformable offsets."""

from ..spec import Case, KernelSpec
from .op import deformable_offsets


def _inputs(shape: dict, random) -> tuple:
    crops, groups, joints, width = (shape[name] for name in "NGVE")
    return (
        random(crops, joints, groups * width),
        random(groups, width, width, scale=width**-0.5),
        random(width),
        random(width),
        random(2, width, scale=width**-0.5),
        random(crops, joints, 2),
        0.6,
    )


def _flops(shape: dict) -> int:
    """Two for each product and sum of the matrices."""
    return 2 * shape["N"] * shape["G"] * shape["V"] * shape["E"] * (shape["E"] + 2)


def _bytes(shape: dict, itemsize: int) -> int:
    """Reads joints, references and weights; writes queries and positions."""
    per_joint = 2 * shape["G"] * shape["E"] + 2 * shape["G"] + 2
    return itemsize * (shape["N"] * shape["V"] * per_joint + shape["G"] * shape["E"] ** 2 + 4 * shape["E"])


def _backward_bytes(shape: dict, itemsize: int) -> int:
    """The forward pass's bytes, plus reading the queries and writing the gradient of the joints instead of the
    outputs."""
    return _bytes(shape, itemsize) + itemsize * 2 * shape["N"] * shape["V"] * shape["G"] * shape["E"]


_MODEL = {"G": 8, "V": 21, "E": 32}

SPEC = KernelSpec(
    operation=deformable_offsets,
    inputs=_inputs,
    cases=(
        Case({"N": 3, **_MODEL}, "the model's sizes"),
        Case({"N": 2, "G": 2, "V": 5, "E": 3}, "narrower than the smallest matrix product"),
        Case({"N": 2, "G": 1, "V": 32, "E": 17}, "the most joints, a width of no power of two"),
        Case({"N": 1, "G": 3, "V": 1, "E": 32}, "one joint, the widest group"),
        Case({"N": 0, **_MODEL}, "no sampled hand"),
    ),
    training=(
        Case({"N": 192, **_MODEL}, "hands of 4 clips at p_samp 0.1"),
        Case({"N": 768, **_MODEL}, "hands of 16 clips at p_samp 0.1"),
    ),
    flops=_flops,
    backward_flops=lambda shape: 2 * _flops(shape),
    bytes=_bytes,
    backward_bytes=_backward_bytes,
)
