"""Temporal convolution within each clip, with the activation before it and moments behind it: the operation the model
calls.
"""

import torch
from torch import Tensor

from ..deferred_activation.op import (
    activated_bytes,
    activation_bytes,
    activation_inputs,
    as_conv_output,
    whole_gradient,
)
from ..deferred_activation.reference import Activation, ConvOutput
from ..dispatch import run
from ..launch import contiguous
from ..spec import Case, KernelSpec
from .cpu_kernel import MAX_KERNEL_SIZE
from .cpu_kernel import temporal_conv as on_cpu
from .reference import temporal_conv as reference


@torch.library.custom_op("unisign_fast::temporal_conv", mutates_args=())
def _forward(
    x: list[Tensor],
    relu_before_residual: bool,
    first_F: Tensor,
    end_F: Tensor,
    weight_TOC: Tensor,
    bias_O: Tensor,
    batch_stats: bool,
) -> list[Tensor]:
    from .triton_kernel import forward

    return forward(contiguous(x), relu_before_residual, first_F, end_F, *contiguous([weight_TOC, bias_O]), batch_stats)


@_forward.register_fake
def _(x, relu_before_residual, first_F, end_F, weight_TOC, bias_O, batch_stats):
    outputs = weight_TOC.shape[1]
    result = [x[0].new_empty(*x[0].shape[:2], outputs)]
    result += [x[0].new_empty(outputs, dtype=torch.float32) for _ in range(2 if batch_stats else 0)]
    return result + [x[0].new_empty(x[0].shape)] * (len(x) > 1)


@torch.library.custom_op("unisign_fast::temporal_conv_backward", mutates_args=())
def _backward(
    grad_out: list[Tensor],
    x_FVC: Tensor,
    out: list[Tensor],
    x: list[Tensor],
    relu_before_residual: bool,
    first_F: Tensor,
    end_F: Tensor,
    weight_TOC: Tensor,
) -> list[Tensor]:
    from .triton_kernel import backward

    x_FVC, weight_TOC = contiguous([x_FVC, weight_TOC])
    return backward(contiguous(grad_out), x_FVC, out, contiguous(x), relu_before_residual, first_F, end_F, weight_TOC)


@_backward.register_fake
def _(grad_out, x_FVC, out, x, relu_before_residual, first_F, end_F, weight_TOC):
    grad_bias = weight_TOC.new_empty(weight_TOC.shape[1], dtype=torch.float32)
    return [torch.empty_like(weight_TOC), grad_bias, *(tensor.new_empty(tensor.shape) for tensor in x)]


def _save(ctx, inputs, output) -> None:
    x, ctx.relu_before_residual, first_F, end_F, weight_TOC, bias_O, batch_stats = inputs
    ctx.set_materialize_grads(False)
    ctx.outs, ctx.bias_dtype = 3 if batch_stats else 1, bias_O.dtype
    ctx.save_for_backward(first_F, end_F, weight_TOC, *output, *x)
    ctx.result = len(output)


def _gradients(ctx, gradients: list[Tensor | None]):
    first_F, end_F, weight_TOC, *saved = ctx.saved_tensors
    result, x = saved[: ctx.result], saved[ctx.result :]
    out = result[: ctx.outs]
    x_FVC = x[0] if len(x) == 1 else result[-1]
    grad_out = whole_gradient(gradients[: ctx.outs], out)
    grad_weight, grad_bias, *grad_x = _backward(
        grad_out, x_FVC, out, x, ctx.relu_before_residual, first_F, end_F, weight_TOC
    )
    return grad_x, None, None, None, grad_weight, grad_bias.to(ctx.bias_dtype), None


_forward.register_autograd(_gradients, setup_context=_save)


def _triton(x: Activation, cu_seqlens: Tensor, weight_TOC: Tensor, bias_O: Tensor, batch_stats: bool) -> ConvOutput:
    from .triton_kernel import clip_bounds

    result = _forward(
        x.tensors(),
        x.relu_before_residual,
        *clip_bounds(cu_seqlens, x.conv_out_FVC.shape[0]),
        weight_TOC,
        bias_O,
        batch_stats,
    )
    return as_conv_output(result[: 3 if batch_stats else 1])


def _cpu(x: Activation, cu_seqlens: Tensor, weight_TOC: Tensor, bias_O: Tensor, batch_stats: bool) -> ConvOutput:
    return (on_cpu if len(weight_TOC) <= MAX_KERNEL_SIZE else reference)(x, cu_seqlens, weight_TOC, bias_O, batch_stats)


def _refusal(x: Activation, cu_seqlens: Tensor, weight_TOC: Tensor, *_) -> str | None:
    return None if weight_TOC.shape[0] % 2 else f"{weight_TOC.shape[0]} taps have no middle one"


def _inputs(shape: dict, random) -> tuple:
    channels, outputs, kernel_size = (shape[name] for name in ("C", "O", "K"))
    x = activation_inputs(_flat(shape), random)
    cu_seqlens = torch.tensor([0, *shape["T"]]).cumsum(0).to(x.conv_out_FVC.device)
    weight_TOC = random(kernel_size, outputs, channels, scale=(channels * kernel_size) ** -0.5)
    return x, cu_seqlens, weight_TOC, random(outputs), shape["batch_stats"]


def _flat(shape: dict) -> dict:
    return shape | {"F": sum(shape["T"])}


def _flops(shape: dict) -> int:
    """Two for each product and sum; taps beyond the ends of a clip are not counted."""
    reach = shape["K"] // 2
    pairs = sum(max(0, t - abs(shift)) for t in shape["T"] for shift in range(-reach, reach + 1))
    return 2 * pairs * shape["V"] * shape["C"] * shape["O"]


def _weights(shape: dict, itemsize: int) -> int:
    return itemsize * (shape["K"] * shape["C"] * shape["O"] + shape["O"])


def _out(shape: dict, itemsize: int) -> int:
    return itemsize * sum(shape["T"]) * shape["V"] * shape["O"]


def _bytes(shape: dict, itemsize: int) -> int:
    """Reads the activation's tensors and the weights; writes x and the output."""
    x = activated_bytes(_flat(shape), itemsize)
    return activation_bytes(_flat(shape), itemsize) + x + _weights(shape, itemsize) + _out(shape, itemsize)


def _backward_bytes(shape: dict, itemsize: int) -> int:
    """Reads what the activation is made of, x, the output, its gradient and the weights; writes the gradients of the
    activation's tensors and of the weights.
    """
    twice = activation_bytes(_flat(shape), itemsize) + _weights(shape, itemsize) + _out(shape, itemsize)
    return 2 * twice + activated_bytes(_flat(shape), itemsize)


_MODEL = {"C": 256, "O": 256, "K": 5, "X": "scaled", "batch_stats": True}

SPEC = KernelSpec(
    name="temporal_conv",
    reference=reference,
    triton=_triton,
    cpu=_cpu,
    refusal=_refusal,
    inputs=_inputs,
    cases=(
        Case(
            {"T": [6, 1, 9, 2], "V": 21, "C": 40, "O": 24, "K": 5, "X": "scaled", "batch_stats": True},
            "ragged clips, one of a single frame",
        ),
        Case({"T": [8, 3], "V": 9, **_MODEL}, "the model's channels"),
        Case(
            {"T": [5], "V": 18, "C": 3, "O": 130, "K": 3, "X": "both scaled", "batch_stats": True},
            "few inputs; one output more than a tile",
        ),
        Case(
            {"T": [3, 0, 4], "V": 1, "C": 16, "O": 16, "K": 1, "X": "plain", "batch_stats": False},
            "an empty clip, one joint, one tap",
        ),
        Case({"T": [], "V": 21, "C": 16, "O": 16, "K": 5, "X": "added", "batch_stats": True}, "no clips"),
    ),
    training=tuple(
        Case({"T": [240] * 16, "V": v, **_MODEL}, f"16 clips of 240 frames, {v} joints") for v in (9, 18, 21)
    ),
    flops=_flops,
    backward_flops=lambda shape: 2 * _flops(shape),
    bytes=_bytes,
    backward_bytes=_backward_bytes,
)


def temporal_conv(
    x: Activation, cu_seqlens: Tensor, weight_TOC: Tensor, bias_O: Tensor, batch_stats: bool
) -> ConvOutput:
    """See kernels/temporal_conv/reference.py."""
    return run(SPEC, x, cu_seqlens, weight_TOC, bias_O, batch_stats)
