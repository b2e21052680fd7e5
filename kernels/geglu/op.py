"""The gate of a feed-forward: the operation that the model calls."""

from torch import Tensor

from ..dispatch import Operation
from ..launch import operator
from .reference import geglu as reference


@operator("geglu")
def _forward(gate_up_R2F: Tensor, seed: Tensor | None, p: float) -> Tensor:
    from .triton_kernel import forward

    return forward(gate_up_R2F.contiguous(), seed, p)


@operator("geglu_backward")
def _backward(grad_RF: Tensor, gate_up_R2F: Tensor, seed: Tensor | None, p: float) -> Tensor:
    from .triton_kernel import backward

    return backward(grad_RF.contiguous(), gate_up_R2F.contiguous(), seed, p)


def _save(ctx, inputs, output) -> None:
    gate_up_R2F, seed, ctx.p = inputs
    ctx.save_for_backward(gate_up_R2F, seed)


def _gradients(ctx, grad_RF: Tensor):
    return _backward(grad_RF, *ctx.saved_tensors, ctx.p), None, None


_forward.register_autograd(_gradients, setup_context=_save)


def _gpu(gate_up_R2F: Tensor, p: float, seed: Tensor | None) -> Tensor:
    assert seed is not None or not p, "dropout on a GPU needs a seed"
    return _forward(gate_up_R2F, seed, p)


def _cpu(gate_up_R2F: Tensor, p: float, seed: Tensor | None) -> Tensor:
    from ..dropout.cpu_kernel import dropout

    return dropout(reference(gate_up_R2F, 0.0, None), p)


geglu = Operation("geglu", reference, _gpu, refusal=lambda *_: None, cpu=_cpu)
