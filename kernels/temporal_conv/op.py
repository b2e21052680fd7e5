"""The temporal convolution that the model calls, within each clip, fused with the preceding activation and the batch
statistics.
"""

from torch import Tensor

from ..deferred_activation.op import as_conv_output, by_tensor, whole_gradient
from ..deferred_activation.reference import ConvOutput, DeferredActivation
from ..dispatch import Operation
from ..launch import contiguous, operator
from .reference import Clips
from .reference import temporal_conv as reference


@operator("temporal_conv")
def _forward(
    x: list[Tensor],
    relu_before_residual: bool,
    bounds_2F: Tensor,
    weight_TOC: Tensor,
    bias_O: Tensor,
    batch_stats: bool,
) -> list[Tensor]:
    from .triton_kernel import forward

    weight_TOC, bias_O = contiguous([weight_TOC, bias_O])
    return forward(contiguous(x), relu_before_residual, bounds_2F, weight_TOC, bias_O, batch_stats)


@operator("temporal_conv_backward")
def _backward(
    grad_out: list[Tensor],
    x_FVC: Tensor,
    out: list[Tensor],
    x: list[Tensor],
    relu_before_residual: bool,
    bounds_2F: Tensor,
    weight_TOC: Tensor,
    bias_O: Tensor,
) -> list[Tensor]:
    from .triton_kernel import backward

    x_FVC, weight_TOC, bias_O = contiguous([x_FVC, weight_TOC, bias_O])
    inputs = contiguous(x), relu_before_residual, bounds_2F, weight_TOC, bias_O
    return backward(contiguous(grad_out), x_FVC, out, *inputs)


def _save(ctx, inputs, output) -> None:
    x, ctx.relu_before_residual, bounds_2F, weight_TOC, bias_O, batch_stats = inputs
    ctx.set_materialize_grads(False)
    ctx.outs, ctx.result = 3 if batch_stats else 1, len(output)
    ctx.save_for_backward(bounds_2F, weight_TOC, bias_O, *output, *x)


def _gradients(ctx, gradients: list[Tensor | None]):
    parameters, saved = ctx.saved_tensors[:3], ctx.saved_tensors[3:]
    result, x = saved[: ctx.result], saved[ctx.result :]
    out = result[: ctx.outs]
    x_FVC = x[0] if len(x) == 1 else result[-1]
    grad_out = whole_gradient(gradients[: ctx.outs], out)
    grad_weight, grad_bias, *grad_x = _backward(grad_out, x_FVC, out, x, ctx.relu_before_residual, *parameters)
    return by_tensor(grad_x), None, None, grad_weight, grad_bias, None


_forward.register_autograd(_gradients, setup_context=_save)


def _gpu(x: DeferredActivation, clips: Clips, weight_TOC: Tensor, bias_O: Tensor, batch_stats: bool) -> ConvOutput:
    result = _forward(
        x.tensors(),
        x.relu_before_residual,
        clips.bounds_2F,
        weight_TOC,
        bias_O,
        batch_stats,
    )
    return as_conv_output(result[: 3 if batch_stats else 1])


def _cpu(x: DeferredActivation, clips: Clips, weight_TOC: Tensor, bias_O: Tensor, batch_stats: bool) -> ConvOutput:
    from .cpu_kernel import MAX_KERNEL_SIZE, temporal_conv

    run = temporal_conv if len(weight_TOC) <= MAX_KERNEL_SIZE else reference
    return run(x, clips, weight_TOC, bias_O, batch_stats)


def _refusal(x: DeferredActivation, clips: Clips, weight_TOC: Tensor, *_) -> str | None:
    return None if weight_TOC.shape[0] % 2 else f"{weight_TOC.shape[0]} taps have no middle one"


temporal_conv = Operation("temporal_conv", reference, _gpu, _refusal, _cpu)
