"""BatchNorm + SiLU: the operation the model calls; on a CPU with squeeze-and-excitation and the next convolution, which
`mbconv` fuses on a GPU.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, silu

from ..dispatch import Operation, backend_for
from .convolution import Conv, as_map, convolve, convolve_backward, rows
from .reference import EPS, Norm, Parts, is_alone
from .reference import bn_silu as reference

MOST_PARTS = 4  # the merging kernels unroll their loop over parts
BUCKETS = 16  # per power of two of the number of crops, so that padding adds at most a sixteenth


def _passes(name: str):
    if name == "gpu":
        from . import gpu_kernel

        return gpu_kernel
    from . import cpu_kernel

    return cpu_kernel


class _BNSiLU(Function):
    """Saves its input, the previous convolution's output, and recomputes the next convolution's input in backward. The
    passes of a CPU alone have a gate.
    """

    @staticmethod
    def forward(ctx, options, x_NCHW, bounds, weight_C, bias_C, *rest):
        """The result of `reference.bn_silu`.

        options: the backend and the arguments that are not tensors: training, activate, momentum, stride and groups.
        rest: running mean and variance, batches tracked; then the four tensors of `Excitation` and the convolution's
        weight, which may be None.
        """
        name, training, activate, momentum, stride, groups = options
        running_mean, running_var, tracked, *excitation, conv_weight = rest
        passes, cells = _passes(name), x_NCHW.shape[2:].numel()
        norm = Norm(weight_C, bias_C, running_mean, running_var, tracked, momentum)
        x_RC = rows(x_NCHW).contiguous()
        stats = passes.batch_stats(x_RC, cells, bounds, norm) if training else running_stats(norm)
        gate_values: list[Tensor] | list[None] = [None] * 4
        if excitation[0] is not None:
            gate_values = gate_forward(passes.mean(x_RC, cells, stats, bounds).to(x_NCHW.dtype), excitation)
        gate = [] if excitation[0] is None else gate_values[-1:]
        y_NCHW = as_map(passes.apply(x_RC, cells, stats, bounds, activate, *gate), x_NCHW)
        ctx.options = options
        ctx.save_for_backward(as_map(x_RC, x_NCHW), bounds, stats, weight_C, *gate_values, *excitation, conv_weight)
        return y_NCHW if conv_weight is None else convolve(y_NCHW, Conv(conv_weight, stride, groups))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_NCHW: Tensor):
        """Gradients of x, weight and bias, of the excitation's four tensors, and of the convolution's weight.

        In order: the convolution's, from its recomputed input; the gate's, which needs the sums over a crop of
        gradient times activated map; that of the normalization, which needs sums over all crops.
        """
        name, training, activate, _, stride, groups = ctx.options
        x_NCHW, bounds, stats, weight_C, *rest, conv_weight = ctx.saved_tensors
        gate_values, excitation = rest[:4], rest[4:]
        gate_NC = gate_values[-1]
        passes, cells, x_RC = _passes(name), x_NCHW.shape[2:].numel(), rows(x_NCHW)
        grad_conv = None
        if conv_weight is not None:
            y_RC = passes.apply(x_RC, cells, stats, bounds, activate, *([] if gate_NC is None else [gate_NC]))
            conv = Conv(conv_weight, stride, groups)
            grad_NCHW, grad_conv = convolve_backward(grad_NCHW, as_map(y_RC, x_NCHW), conv)
            del y_RC
        grad_RC = rows(grad_NCHW).contiguous()
        gate: list[Tensor] = []
        grad_excitation: Sequence[Tensor | None] = [None] * 4
        if gate_NC is not None:
            grad_gate_NC = passes.mean(x_RC, cells, stats, bounds, grad_RC).to(x_NCHW.dtype)
            grad_mean_NC, grad_excitation = gate_backward(grad_gate_NC, gate_values, excitation)
            gate = [gate_NC, grad_mean_NC]
        values = grad_RC, x_RC, cells, stats, bounds, activate
        grad_x_RC, *grad_norm = passes.backward(*values, weight_C, training, *gate)
        return None, as_map(grad_x_RC, x_NCHW), None, *grad_norm, None, None, None, *grad_excitation, grad_conv


def running_stats(norm: Norm) -> Tensor:
    """The `stats` (triton_tiles.py) of the running mean and variance."""
    mean_PC, var_PC = norm.running()
    rstd_PC = torch.rsqrt(var_PC + EPS)
    scale_PC = norm.weight_C.float() * rstd_PC
    shift_PC = norm.bias_C.float() - mean_PC * scale_PC
    return torch.stack([mean_PC, rstd_PC, scale_PC, shift_PC, torch.zeros_like(mean_PC)], 1)


def gate_forward(mean_NC: Tensor, excitation: Sequence[Tensor]) -> list[Tensor]:
    """The gate [N, C] of `reference.gate`, last, after what its backward pass needs."""
    hidden_NE = linear(mean_NC, *excitation[:2])
    squeezed_NE = silu(hidden_NE)
    return [mean_NC, hidden_NE, squeezed_NE, linear(squeezed_NE, *excitation[2:]).sigmoid()]


def gate_backward(
    grad_gate_NC: Tensor, values: Sequence[Tensor], excitation: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Gradients of the mean and of the two layers of `reference.gate`; `values`: the result of `gate_forward`."""
    mean_NC, hidden_NE, squeezed_NE, gate_NC = values
    squeeze_EC, _, excite_CE, _ = excitation
    grad_NC = torch.ops.aten.sigmoid_backward(grad_gate_NC, gate_NC)
    grad_NE = torch.ops.aten.silu_backward(grad_NC @ excite_CE, hidden_NE)
    grads = [grad_NE.T @ mean_NC, grad_NE.sum(0), grad_NC.T @ squeezed_NE, grad_NC.sum(0)]
    return grad_NE @ squeeze_EC, grads


def _run(name: str, x_NCHW, parts, norm, training, activate=True, excitation=None, conv=None) -> Tensor:
    weight, stride, groups = conv or (None, 1, 1)
    options = name, training, activate, norm.momentum, stride, groups
    return _BNSiLU.apply(options, x_NCHW, parts.bounds, *norm[:5], *(excitation or [None] * 4), weight)


def _gpu(*arguments: Any) -> Tensor:
    return _run("gpu", *arguments)


def _cpu(x_NCHW: Tensor, parts: Parts, norm: Norm, training: bool, activate: bool = True, *rest: Any) -> Tensor:
    """Without SiLU, torch's BatchNorm is as fast and bit-identical to the published features."""
    if activate and training and is_alone() and x_NCHW.dtype == norm.weight_C.dtype == torch.float32:
        return _run("cpu", x_NCHW, parts, norm, training, activate, *rest)
    return reference(x_NCHW, parts, norm, training, activate, *rest)


def _refusal(
    x_NCHW: Tensor, parts: Parts, norm: Norm, training: bool, activate: bool = True, *following: Any
) -> str | None:
    if any(layer is not None for layer in following):
        return "mbconv has the excitation and the convolution after a normalization"
    return f"{len(parts.counts)} parts are more than {MOST_PARTS}" if len(parts.counts) > MOST_PARTS else None


bn_silu = Operation("bn_silu", reference, _gpu, _refusal, _cpu)


def bucketed_crops(crops: int, like: Tensor) -> int:
    """The number of crops that a batch is padded to on this device.

    On a GPU, cuDNN plans the stem's convolution anew for each new number of crops, forward and backward, so the number
    is rounded up to one of 16 buckets per power of two. A CPU needs no plans.
    """
    if backend_for(like) != "gpu":
        return crops
    step = max(1, (1 << crops.bit_length()) // (2 * BUCKETS))
    return -(-crops // step) * step
