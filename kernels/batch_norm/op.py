"""Scale and shift of a BatchNorm, and its next running statistics: the operation the model calls."""

from torch import Tensor

from ..dispatch import Operation
from ..launch import contiguous, operator
from .reference import BatchNormOutput
from .reference import batch_norm as reference


@operator("batch_norm")
def _forward(
    mean_C: Tensor,
    var_C: Tensor,
    weight_C: Tensor,
    bias_C: Tensor,
    running_mean_C: Tensor,
    running_var_C: Tensor,
    count: Tensor | None,
    rows: int,
    momentum: float,
) -> Tensor:
    from .triton_kernel import forward

    mean_C, var_C, weight_C, bias_C = contiguous([mean_C, var_C, weight_C, bias_C])
    running_mean_C, running_var_C = contiguous([running_mean_C, running_var_C])
    return forward(mean_C, var_C, weight_C, bias_C, running_mean_C, running_var_C, count, rows, momentum)


@operator("batch_norm_backward")
def _backward(
    grad_scale_C: Tensor, grad_shift_C: Tensor, mean_C: Tensor, var_C: Tensor, weight_C: Tensor, bias_C: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    from .triton_kernel import backward

    return backward(*contiguous([grad_scale_C, grad_shift_C, mean_C, var_C, weight_C, bias_C]))


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:4])


def _gradients(ctx, grad_out: Tensor):
    grad_stats, grad_weight, grad_bias = _backward(grad_out[0], grad_out[1], *ctx.saved_tensors)
    return *grad_stats.unbind(), grad_weight, grad_bias, None, None, None, None, None


_forward.register_autograd(_gradients, setup_context=_save)


def _gpu(*arguments: Tensor | float | None) -> BatchNormOutput:
    scale_C, shift_C, *running = _forward(*arguments).unbind()
    return BatchNormOutput(scale_C, shift_C, *(x.detach() for x in running))


batch_norm = Operation("batch_norm", reference, _gpu, refusal=lambda *_: None)
