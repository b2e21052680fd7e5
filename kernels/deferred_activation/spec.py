"""Cases, FLOPs and bytes of the deferred activation, and what the specs of the convolutions take from it."""

from ..spec import Case, KernelSpec
from .op import deferred_activation
from .reference import DeferredActivation

# The kinds of activation: number of tensors as large as x, number of vectors, and whether a ReLU precedes the residual.
MADE_OF = {
    "plain": (1, 0, False),
    "scaled": (1, 2, False),
    "added": (2, 2, False),
    "ReLU, then added": (2, 2, True),
    "both scaled": (2, 4, False),
    "relu_before_residual, both scaled": (2, 4, True),
}


def activation_inputs(shape: dict, random) -> DeferredActivation:
    """The activation of a case, its letter `X` one of `MADE_OF`."""
    tensors, vectors, relu_before_residual = MADE_OF[shape["X"]]
    sizes = [(shape["F"], shape["V"], shape["C"]), (shape["C"],), (shape["C"],)] * 2
    x = [random(*size, exact=len(size) == 1) for size in sizes[: tensors + vectors]]
    return DeferredActivation._make([*x, *[None] * (6 - len(x)), relu_before_residual])


def activation_bytes(shape: dict, itemsize: int) -> int:
    """Read for one activation: raw and residual, and its vectors."""
    tensors, vectors, _ = MADE_OF[shape["X"]]
    return shape["C"] * (tensors * itemsize * shape["F"] * shape["V"] + 4 * vectors)


def activated_bytes(shape: dict, itemsize: int) -> int:
    """Bytes of the computed activation; 0 for a plain one."""
    return (shape["X"] != "plain") * itemsize * shape["F"] * shape["V"] * shape["C"]


def _out_bytes(shape: dict, itemsize: int) -> int:
    """Bytes of the result: the activation, or its mean over the joints."""
    return activated_bytes(shape, itemsize) // (shape["V"] if shape.get("mean") else 1)


def _backward_bytes(shape: dict, itemsize: int) -> int:
    """Reads the inputs, the gradient of the result and, without a mean, x; writes the gradients of the inputs."""
    times = 1 if shape.get("mean") else 2
    return 2 * activation_bytes(shape, itemsize) + times * _out_bytes(shape, itemsize)


SPEC = KernelSpec(
    operation=deferred_activation,
    inputs=lambda shape, random: (activation_inputs(shape, random), shape.get("mean", False)),
    cases=(
        Case({"F": 7, "V": 9, "C": 64, "X": "relu_before_residual, both scaled"}, "a shortcut; the last tile not full"),
        Case({"F": 4, "V": 18, "C": 16, "X": "both scaled"}, "a shortcut without rectifying between"),
        Case({"F": 4, "V": 9, "C": 70, "X": "ReLU, then added"}, "a residual as it is; a column tile not full"),
        Case({"F": 5, "V": 21, "C": 37, "X": "added"}, "a residual as it is, odd channels"),
        Case({"F": 1, "V": 1, "C": 3, "X": "scaled"}, "one row without a residual"),
        Case({"F": 0, "V": 18, "C": 64, "X": "both scaled"}, "no frames"),
        Case({"F": 37, "V": 9, "C": 70, "X": "added", "mean": True}, "the mean; tiles not full"),
        Case(
            {"F": 5, "V": 21, "C": 64, "X": "relu_before_residual, both scaled", "mean": True}, "the mean, a shortcut"
        ),
        Case({"F": 0, "V": 9, "C": 16, "X": "scaled", "mean": True}, "the mean of no frames"),
    ),
    training=tuple(
        Case({"F": 3840, "V": v, "C": 256, "X": kind, "mean": mean}, f"16 clips of 240 frames, {v} joints, {kind}{of}")
        for v in (9, 18, 21)
        for kind, mean, of in (("relu_before_residual, both scaled", False, ""), ("added", True, ", their mean"))
    ),
    flops=lambda shape: 4 * shape["F"] * shape["V"] * shape["C"],
    backward_flops=lambda shape: 8 * shape["F"] * shape["V"] * shape["C"],
    bytes=lambda shape, itemsize: activation_bytes(shape, itemsize) + _out_bytes(shape, itemsize),
    backward_bytes=_backward_bytes,
)
