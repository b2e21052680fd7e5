"""Continuous position bias: the operation the model calls."""

import torch
from torch import Tensor

from ..dispatch import run
from ..spec import Case, KernelSpec
from .cpu_kernel import position_bias as on_cpu
from .reference import position_bias as reference

MOST_HIDDEN = 64  # the backward pass holds an H x H sum in registers
MOST_JOINTS = 32


@torch.library.custom_op("unisign_fast::position_bias", mutates_args=())
def _forward(reference_NV2: Tensor, position_NGV2: Tensor, weights: list[Tensor]) -> Tensor:
    from .triton_kernel import forward

    return forward(reference_NV2.contiguous(), position_NGV2.contiguous(), [w.contiguous() for w in weights])


@_forward.register_fake
def _(reference_NV2: Tensor, position_NGV2: Tensor, weights: list[Tensor]) -> Tensor:
    crops, groups, joints, _ = position_NGV2.shape
    return reference_NV2.new_empty(crops, groups, joints, joints)


@torch.library.custom_op("unisign_fast::position_bias_backward", mutates_args=())
def _backward(grad_NGVV: Tensor, reference_NV2: Tensor, position_NGV2: Tensor, weights: list[Tensor]) -> list[Tensor]:
    from .triton_kernel import backward

    inputs = reference_NV2.contiguous(), position_NGV2.contiguous(), [w.contiguous() for w in weights]
    grads = backward(grad_NGVV.contiguous(), *inputs)
    return [g.to(x.dtype) for g, x in zip(grads, [reference_NV2, position_NGV2, *weights])]


@_backward.register_fake
def _(grad_NGVV: Tensor, reference_NV2: Tensor, position_NGV2: Tensor, weights: list[Tensor]) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in (reference_NV2, position_NGV2, *weights)]


def _save(ctx, inputs, output) -> None:
    reference_NV2, position_NGV2, weights = inputs
    ctx.save_for_backward(reference_NV2, position_NGV2, *weights)


def _gradients(ctx, grad_NGVV: Tensor):
    reference_NV2, position_NGV2, *weights = ctx.saved_tensors
    grad_reference, grad_position, *grad_weights = _backward(grad_NGVV, reference_NV2, position_NGV2, weights)
    return grad_reference, grad_position, grad_weights


_forward.register_autograd(_gradients, setup_context=_save)


def _triton(reference_NV2: Tensor, position_NGV2: Tensor, layers: list[tuple[Tensor, Tensor]]) -> Tensor:
    return _forward(reference_NV2, position_NGV2, [tensor for layer in layers for tensor in layer])


def _refusal(reference_NV2: Tensor, position_NGV2: Tensor, layers: list[tuple[Tensor, Tensor]]) -> str | None:
    hidden = [weight.shape[0] for weight, _ in layers]
    if len(layers) != 3 or hidden[0] != hidden[1] or hidden[0] > MOST_HIDDEN:
        return f"the network must be 2 -> H -> H -> 1 with H up to {MOST_HIDDEN}, not {hidden}"
    if reference_NV2.shape[1] > MOST_JOINTS:
        return f"{reference_NV2.shape[1]} joints are more than {MOST_JOINTS}"
    return None


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
    name="position_bias",
    reference=reference,
    triton=_triton,
    cpu=on_cpu,
    refusal=_refusal,
    inputs=_inputs,
    cases=(
        Case({"N": 2, "G": 3, "V": 21, "H": 64}, "the model's sizes; 441 pairs end within a tile"),
        Case({"N": 2, "G": 3, "V": 5, "H": 6}, "narrower than the smallest matrix product"),
        Case({"N": 1, "G": 1, "V": 32, "H": 33}, "the most joints; one unit more than a power of two"),
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


def position_bias(reference_NV2: Tensor, position_NGV2: Tensor, layers: list[tuple[Tensor, Tensor]]) -> Tensor:
    """bias_NGVV of every query joint and sampled position; see kernels/position_bias/reference.py."""
    return run(SPEC, reference_NV2, position_NGV2, layers)
