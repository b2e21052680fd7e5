"""Continuous position bias: the operation that the model calls."""

from torch import Tensor

from ..dispatch import Operation
from ..launch import operator
from .reference import position_bias as reference

MOST_HIDDEN = 64  # the backward pass holds an H x H sum in registers
MOST_JOINTS = 32


@operator("position_bias")
def _forward(reference_NV2: Tensor, position_NGV2: Tensor, weights: list[Tensor]) -> Tensor:
    from .triton_kernel import forward

    return forward(reference_NV2.contiguous(), position_NGV2.contiguous(), [w.contiguous() for w in weights])


@operator("position_bias_backward")
def _backward(grad_NGVV: Tensor, reference_NV2: Tensor, position_NGV2: Tensor, weights: list[Tensor]) -> list[Tensor]:
    from .triton_kernel import backward

    inputs = reference_NV2.contiguous(), position_NGV2.contiguous(), [w.contiguous() for w in weights]
    grads = backward(grad_NGVV.contiguous(), *inputs)
    return [g.to(x.dtype) for g, x in zip(grads, [reference_NV2, position_NGV2, *weights])]


def _save(ctx, inputs, output) -> None:
    reference_NV2, position_NGV2, weights = inputs
    ctx.save_for_backward(reference_NV2, position_NGV2, *weights)


def _gradients(ctx, grad_NGVV: Tensor):
    reference_NV2, position_NGV2, *weights = ctx.saved_tensors
    grad_reference, grad_position, *grad_weights = _backward(grad_NGVV, reference_NV2, position_NGV2, weights)
    return grad_reference, grad_position, grad_weights


_forward.register_autograd(_gradients, setup_context=_save)


def _gpu(reference_NV2: Tensor, position_NGV2: Tensor, layers: list[tuple[Tensor, Tensor]]) -> Tensor:
    return _forward(reference_NV2, position_NGV2, [tensor for layer in layers for tensor in layer])


def _refusal(reference_NV2: Tensor, position_NGV2: Tensor, layers: list[tuple[Tensor, Tensor]]) -> str | None:
    hidden = [weight.shape[0] for weight, _ in layers]
    if len(layers) != 3 or hidden[0] != hidden[1] or hidden[0] > MOST_HIDDEN:
        return f"the network must be 2 -> H -> H -> 1 with H up to {MOST_HIDDEN}, not {hidden}"
    if reference_NV2.shape[1] > MOST_JOINTS:
        return f"{reference_NV2.shape[1]} joints are more than {MOST_JOINTS}"
    return None


def _cpu(reference_NV2: Tensor, position_NGV2: Tensor, layers: list[tuple[Tensor, Tensor]]) -> Tensor:
    from .cpu_kernel import position_bias

    return position_bias(reference_NV2, position_NGV2, layers)


position_bias = Operation("position_bias", reference, _gpu, _refusal, _cpu)
