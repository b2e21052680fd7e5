"""An activation computed by itself, where no convolution follows that could do it on load."""

import torch
from torch import Tensor

from ..dispatch import run
from ..launch import contiguous
from ..spec import Case, KernelSpec
from .cpu_kernel import activation as on_cpu
from .reference import Activation, ConvOutput
from .reference import activation as reference


@torch.library.custom_op("unisign_fast::activation", mutates_args=())
def _forward(x: list[Tensor], relu_before_residual: bool) -> Tensor:
    from .triton_kernel import forward

    return forward(contiguous(x), relu_before_residual)


@_forward.register_fake
def _(x, relu_before_residual):
    return x[0].new_empty(x[0].shape)


@torch.library.custom_op("unisign_fast::activation_backward", mutates_args=())
def _backward(grad_x_FVC: Tensor, x_FVC: Tensor, x: list[Tensor], relu_before_residual: bool) -> list[Tensor]:
    from .triton_kernel import backward

    return backward(grad_x_FVC.contiguous(), x_FVC, contiguous(x), relu_before_residual)


@_backward.register_fake
def _(grad_x_FVC, x_FVC, x, relu_before_residual):
    return [tensor.new_empty(tensor.shape) for tensor in x]


def _save(ctx, inputs, output) -> None:
    x, ctx.relu_before_residual = inputs
    ctx.save_for_backward(output, *x)


def _gradients(ctx, grad_x_FVC: Tensor):
    x_FVC, *x = ctx.saved_tensors
    return _backward(grad_x_FVC, x_FVC, x, ctx.relu_before_residual), None


_forward.register_autograd(_gradients, setup_context=_save)


def _triton(x: Activation) -> Tensor:
    return x.conv_out_FVC if x.scale_C is None else _forward(x.tensors(), x.relu_before_residual)


def as_conv_output(tensors: list[Tensor]) -> ConvOutput:
    """A convolution's output alone, or with its moments."""
    return ConvOutput(*tensors, *[None] * (3 - len(tensors)))


def whole_gradient(gradients: list[Tensor | None], out: list[Tensor]) -> list[Tensor]:
    """Gradients of a convolution's output and of its batch_stats, zeros where it was not used; without moments where
    neither was.
    """
    used = len(out) if any(gradient is not None for gradient in gradients[1:]) else 1
    return [torch.zeros_like(x) if gradient is None else gradient for gradient, x in zip(gradients[:used], out)]


# What an activation of a case can be made of: tensors of the size of x, vectors, and whether it is rectified between.
MADE_OF = {
    "plain": (1, 0, False),
    "scaled": (1, 2, False),
    "added": (2, 2, False),
    "ReLU, then added": (2, 2, True),
    "both scaled": (2, 4, False),
    "relu_before_residual, both scaled": (2, 4, True),
}


def activation_inputs(shape: dict, random) -> Activation:
    """The activation of a case, its letter `X` one of `MADE_OF`."""
    tensors, vectors, relu_before_residual = MADE_OF[shape["X"]]
    sizes = [(shape["F"], shape["V"], shape["C"]), (shape["C"],), (shape["C"],)] * 2
    x = [random(*size, exact=len(size) == 1) for size in sizes[: tensors + vectors]]
    return Activation(*x, relu_before_residual=relu_before_residual)


def activation_bytes(shape: dict, itemsize: int) -> int:
    """Read for one activation: raw and residual, and its vectors."""
    tensors, vectors, _ = MADE_OF[shape["X"]]
    return shape["C"] * (tensors * itemsize * shape["F"] * shape["V"] + 4 * vectors)


def activated_bytes(shape: dict, itemsize: int) -> int:
    """Of the activation computed; nothing where it is plain."""
    return (shape["X"] != "plain") * itemsize * shape["F"] * shape["V"] * shape["C"]


SPEC = KernelSpec(
    name="activation",
    reference=reference,
    triton=_triton,
    cpu=on_cpu,
    refusal=lambda x: None,
    inputs=lambda shape, random: (activation_inputs(shape, random),),
    cases=(
        Case({"F": 7, "V": 9, "C": 64, "X": "relu_before_residual, both scaled"}, "a shortcut; the last tile not full"),
        Case({"F": 4, "V": 18, "C": 16, "X": "both scaled"}, "a shortcut without rectifying between"),
        Case({"F": 4, "V": 9, "C": 70, "X": "ReLU, then added"}, "a residual as it is; a column tile not full"),
        Case({"F": 5, "V": 21, "C": 37, "X": "added"}, "a residual as it is, odd channels"),
        Case({"F": 1, "V": 1, "C": 3, "X": "scaled"}, "one row without a residual"),
        Case({"F": 0, "V": 18, "C": 64, "X": "both scaled"}, "no frames"),
    ),
    training=tuple(
        Case({"F": 3840, "V": v, "C": 256, "X": kind}, f"16 clips of 240 frames, {v} joints, {kind}")
        for v in (9, 18, 21)
        for kind in ("relu_before_residual, both scaled", "added")
    ),
    flops=lambda shape: 4 * shape["F"] * shape["V"] * shape["C"],
    backward_flops=lambda shape: 8 * shape["F"] * shape["V"] * shape["C"],
    bytes=lambda shape, itemsize: activation_bytes(shape, itemsize) + activated_bytes(shape, itemsize),
    # Reads the inputs, x and its gradient; writes the gradients of the inputs.
    backward_bytes=lambda shape, itemsize: 2 * activation_bytes(shape, itemsize) + 2 * activated_bytes(shape, itemsize),
)


def activation(x: Activation) -> Tensor:
    """x_FVC; see kernels/deferred_activation/reference.py."""
    return run(SPEC, x)
