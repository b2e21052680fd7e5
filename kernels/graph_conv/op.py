"""The graph convolution that the model calls, fused with the preceding activation, the shortcut's 1x1 convolution and
the batch statistics.
"""

from typing import Any

from torch import Tensor

from ..deferred_activation.op import as_conv_output, by_tensor, whole_gradient
from ..deferred_activation.reference import DeferredActivation
from ..dispatch import Operation
from ..launch import contiguous, operator
from .reference import GraphConvOutput
from .reference import graph_conv as reference

MOST_JOINTS, MOST_HOPS = 32, 2


@operator("graph_conv")
def _forward(
    x: list[Tensor],
    relu_before_residual: bool,
    adjacency_KVV: Tensor,
    weight_KOC: Tensor,
    bias_KO: Tensor,
    shortcut: list[Tensor],
    batch_stats: bool,
) -> list[Tensor]:
    from .triton_kernel import forward

    x, shortcut = contiguous(x), contiguous(shortcut)
    adjacency_KVV, weight_KOC, bias_KO = contiguous([adjacency_KVV, weight_KOC, bias_KO])
    return forward(x, relu_before_residual, adjacency_KVV, weight_KOC, bias_KO, shortcut, batch_stats)


def _results(result: list, plain: bool, shortcut: bool, batch_stats: bool) -> tuple:
    """Split the operator's list into D and the sums of A; the output and the shortcut's output, each with its batch
    statistics; and x_FVC or None.
    """
    each = 3 if batch_stats else 1
    graph, out, rest = result[:2], result[2 : 2 + each], result[2 + each :]
    return graph, out, rest[:each] if shortcut else [], None if plain else rest[-1]


@operator("graph_conv_backward")
def _backward(
    grad_x_FVC: Tensor | None,
    grad_out: list[Tensor],
    grad_shortcut_out: list[Tensor],
    x_FVC: Tensor,
    graph: list[Tensor],
    out: list[Tensor],
    shortcut_out: list[Tensor],
    x: list[Tensor],
    relu_before_residual: bool,
    weight_KOC: Tensor,
    bias_KO: Tensor,
    shortcut: list[Tensor],
) -> list[Tensor]:
    from .triton_backward import backward

    grad_x_FVC = None if grad_x_FVC is None else grad_x_FVC.contiguous()
    grad_out, grad_shortcut_out = contiguous(grad_out), contiguous(grad_shortcut_out)
    x_FVC, weight_KOC, bias_KO = contiguous([x_FVC, weight_KOC, bias_KO])
    x, shortcut = contiguous(x), contiguous(shortcut)
    return backward(
        grad_x_FVC, grad_out, grad_shortcut_out, x_FVC, graph, out, shortcut_out,
        x, relu_before_residual, weight_KOC, bias_KO, shortcut,
    )  # fmt: skip


def _save(ctx, inputs, output) -> None:
    x, ctx.relu_before_residual, _, weight_KOC, bias_KO, shortcut, batch_stats = inputs
    ctx.set_materialize_grads(False)
    ctx.sizes, ctx.batch_stats = (len(x), len(shortcut)), batch_stats
    ctx.save_for_backward(weight_KOC, bias_KO, *x, *shortcut, *output)


def _gradients(ctx, gradients: list[Tensor | None]):
    weight_KOC, bias_KO, *saved = ctx.saved_tensors
    xs, shortcuts = ctx.sizes
    x, shortcut, result = saved[:xs], saved[xs : xs + shortcuts], saved[xs + shortcuts :]
    layout = xs == 1, shortcuts > 0, ctx.batch_stats
    graph, out, shortcut_out, x_FVC = _results(result, *layout)
    _, grad_out, grad_shortcut_out, grad_x_FVC = _results(gradients, *layout)
    whole = whole_gradient(grad_out, out), whole_gradient(grad_shortcut_out, shortcut_out)
    x_FVC = x[0] if x_FVC is None else x_FVC
    results = x_FVC, graph, out, shortcut_out
    parameters = weight_KOC, bias_KO, shortcut
    result = _backward(grad_x_FVC, *whole, *results, x, ctx.relu_before_residual, *parameters)
    grad_adjacency, grad_weight, grad_bias, *rest = result
    return by_tensor(rest[shortcuts:]), None, grad_adjacency, grad_weight, grad_bias, rest[:shortcuts], None


_forward.register_autograd(_gradients, setup_context=_save)


def _gpu(x: DeferredActivation, *arguments: Any) -> GraphConvOutput:
    *parameters, shortcut, batch_stats = arguments
    result = _forward(x.tensors(), x.relu_before_residual, *parameters, list(shortcut or ()), batch_stats)
    _, out, shortcut_out, x_FVC = _results(result, x.plain, shortcut is not None, batch_stats)
    x_FVC = x.conv_out_FVC if x_FVC is None else x_FVC
    return GraphConvOutput(x_FVC, as_conv_output(out), as_conv_output(shortcut_out) if shortcut else None)


def _refusal(x: DeferredActivation, adjacency_KVV: Tensor, *_) -> str | None:
    hops, joints = adjacency_KVV.shape[:2]
    if hops > MOST_HOPS:
        return f"{hops} hops are more than {MOST_HOPS}"
    return f"{joints} joints are more than {MOST_JOINTS}" if joints > MOST_JOINTS else None


def _cpu(*arguments: Any) -> GraphConvOutput:
    from .cpu_kernel import graph_conv

    return graph_conv(*arguments)


graph_conv = Operation("graph_conv", reference, _gpu, _refusal, _cpu)
