"""Graph convolution on a GPU: the Triton kernels of both passes as one differentiable function."""

from typing import Any

from torch import Tensor

from ..deferred_activation.reference import ConvOutput, DeferredActivation
from ..deferred_activation.triton_kernel import by_tensor
from ..deferred_activation.triton_stats import whole_gradient
from .reference import GraphConvOutput
from .triton_backward import backward
from .triton_kernel import forward


def graph_conv(x: DeferredActivation, *arguments: Any) -> GraphConvOutput:
    """See kernels/graph_conv/reference.py."""
    *parameters, shortcut, batch_stats = arguments
    result = forward(x.tensors(), x.relu_before_residual, *parameters, list(shortcut or ()), batch_stats)
    _, out, shortcut_out, x_FVC = _results(result, x.plain, shortcut is not None, batch_stats)
    x_FVC = x.conv_out_FVC if x_FVC is None else x_FVC
    return GraphConvOutput(x_FVC, ConvOutput(*out), ConvOutput(*shortcut_out) if shortcut else None)


def _results(result: list, plain: bool, shortcut: bool, batch_stats: bool) -> tuple:
    """Split the operator's list into what `_graph` returns; the output and the shortcut's output, each with its batch
    statistics; and x_FVC or None.
    """
    each = 3 if batch_stats else 1
    graph, out, rest = result[:3], result[3 : 3 + each], result[3 + each :]
    return graph, out, rest[:each] if shortcut else [], None if plain else rest[-1]


def _save(ctx, inputs, output) -> None:
    x, ctx.relu_before_residual, _, weight_KOC, _, shortcut, batch_stats = inputs
    ctx.set_materialize_grads(False)
    ctx.sizes, ctx.batch_stats = (len(x), len(shortcut)), batch_stats
    ctx.save_for_backward(weight_KOC, *x, *shortcut, *output)


def _gradients(ctx, gradients: list[Tensor | None]):
    weight_KOC, *saved = ctx.saved_tensors
    xs, shortcuts = ctx.sizes
    x, shortcut, result = saved[:xs], saved[xs : xs + shortcuts], saved[xs + shortcuts :]
    layout = xs == 1, shortcuts > 0, ctx.batch_stats
    graph, out, shortcut_out, x_FVC = _results(result, *layout)
    _, grad_out, grad_shortcut_out, grad_x_FVC = _results(gradients, *layout)
    whole = whole_gradient(grad_out, out), whole_gradient(grad_shortcut_out, shortcut_out)
    x_FVC = x[0] if x_FVC is None else x_FVC
    results = x_FVC, graph, out, shortcut_out
    result = backward(grad_x_FVC, *whole, *results, x, ctx.relu_before_residual, weight_KOC, shortcut)
    grad_adjacency, grad_weight, grad_bias, *rest = result
    return by_tensor(rest[shortcuts:]), None, grad_adjacency, grad_weight, grad_bias, rest[:shortcuts], None


forward.register_autograd(_gradients, setup_context=_save)
