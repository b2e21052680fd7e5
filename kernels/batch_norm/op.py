"""Scale and shift of a BatchNorm, and its running statistics: the operation that the model calls."""

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ..dispatch import Operation
from ..launch import contiguous, operator
from .reference import batch_norm as reference


@operator("batch_norm", mutates=("running_mean_C", "running_var_C", "batches"))
def _forward(
    mean_C: Tensor, var_C: Tensor, weight_C: Tensor, bias_C: Tensor, running_mean_C: Tensor, running_var_C: Tensor,
    batches: Tensor, count: Tensor | None, rows: int, momentum: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    from .triton_kernel import forward

    vectors = contiguous([mean_C, var_C, weight_C, bias_C])
    return forward(vectors, [running_mean_C, running_var_C, batches], count, rows, momentum)


@operator("batch_norm_backward")
def _backward(
    grad_scale_C: Tensor, grad_shift_C: Tensor, mean_C: Tensor, var_C: Tensor, weight_C: Tensor, bias_C: Tensor
) -> list[Tensor]:
    from .triton_kernel import backward

    return backward(*contiguous([grad_scale_C, grad_shift_C, mean_C, var_C, weight_C, bias_C]))


class _BatchNorm(Function):
    """An autograd Function, because a custom operator that updates its arguments cannot have a gradient."""

    @staticmethod
    def forward(ctx, mean_C, var_C, weight_C, bias_C, *rest):
        ctx.save_for_backward(mean_C, var_C, weight_C, bias_C)
        return _forward(mean_C, var_C, weight_C, bias_C, *rest)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_scale_C, grad_shift_C):
        return *_backward(grad_scale_C, grad_shift_C, *ctx.saved_tensors), *[None] * 6


def _gpu(*arguments: Tensor | float | None) -> tuple[Tensor, Tensor]:
    return _BatchNorm.apply(*arguments)


batch_norm = Operation("batch_norm", reference, _gpu, refusal=lambda *_: None)
