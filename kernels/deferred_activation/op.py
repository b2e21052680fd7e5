"""The deferred activation on its own, where no following convolution applies it on load: the operation the model
calls.
"""

import torch
from torch import Tensor

from ..dispatch import Operation
from ..launch import contiguous, operator
from .reference import ConvOutput, DeferredActivation
from .reference import deferred_activation as reference


@operator("deferred_activation")
def _forward(x: list[Tensor], relu_before_residual: bool) -> Tensor:
    from .triton_kernel import forward

    return forward(contiguous(x), relu_before_residual)


@operator("deferred_activation_backward")
def _backward(grad_x_FVC: Tensor, x_FVC: Tensor, x: list[Tensor], relu_before_residual: bool) -> list[Tensor]:
    from .triton_kernel import backward

    return backward(grad_x_FVC.contiguous(), x_FVC, contiguous(x), relu_before_residual)


@operator("deferred_activation_mean")
def _mean_forward(x: list[Tensor], relu_before_residual: bool) -> Tensor:
    from .triton_kernel import mean_forward

    return mean_forward(contiguous(x), relu_before_residual)


@operator("deferred_activation_mean_backward")
def _mean_backward(grad_mean_FC: Tensor, x: list[Tensor], relu_before_residual: bool) -> list[Tensor]:
    from .triton_kernel import mean_backward

    return mean_backward(grad_mean_FC.contiguous(), contiguous(x), relu_before_residual)


def _save(ctx, inputs, output) -> None:
    x, ctx.relu_before_residual = inputs
    ctx.save_for_backward(output, *x)


def _gradients(ctx, grad_x_FVC: Tensor):
    x_FVC, *x = ctx.saved_tensors
    return by_tensor(_backward(grad_x_FVC, x_FVC, x, ctx.relu_before_residual)), None


def _save_inputs(ctx, inputs, output) -> None:
    x, ctx.relu_before_residual = inputs
    ctx.save_for_backward(*x)


def _mean_gradients(ctx, grad_mean_FC: Tensor):
    return by_tensor(_mean_backward(grad_mean_FC, list(ctx.saved_tensors), ctx.relu_before_residual)), None


_forward.register_autograd(_gradients, setup_context=_save)
_mean_forward.register_autograd(_mean_gradients, setup_context=_save_inputs)


def _gpu(x: DeferredActivation, joint_mean: bool = False) -> Tensor:
    if x.plain:
        return reference(x, joint_mean)
    return (_mean_forward if joint_mean else _forward)(x.tensors(), x.relu_before_residual)


def _cpu(x: DeferredActivation, joint_mean: bool = False) -> Tensor:
    from .cpu_kernel import deferred_activation

    return deferred_activation(x, joint_mean)


deferred_activation = Operation("deferred_activation", reference, _gpu, refusal=lambda *_: None, cpu=_cpu)


def by_tensor(gradients: list[Tensor]) -> list[Tensor]:
    """The gradients of an activation's tensors in order, from what its kernel returns (triton_kernel.py)."""
    if len(gradients) == 1:
        return gradients
    grad_conv_out, *grad_residual, sums = gradients
    scale, shift, *others = sums.unbind()
    return [grad_conv_out, scale, shift, *grad_residual, *others]


def as_conv_output(tensors: list[Tensor]) -> ConvOutput:
    """A `ConvOutput` from the output alone, or from the output and its batch statistics."""
    return ConvOutput(*tensors, *[None] * (3 - len(tensors)))


def whole_gradient(gradients: list[Tensor | None], out: list[Tensor]) -> list[Tensor]:
    """Gradients of a convolution's output and of its batch statistics. Zeros replace a missing gradient; if neither
    statistic was used, only the output's gradient is returned.
    """
    used = len(out) if any(gradient is not None for gradient in gradients[1:]) else 1
    return [torch.zeros_like(x) if gradient is None else gradient for gradient, x in zip(gradients[:used], out)]
