"""Graph convolution over the joints, with the activation before it, the shortcut's 1x1 convolution beside it and
moments behind it: the operation the model calls.
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
from ..deferred_activation.reference import Activation
from ..dispatch import run
from ..launch import contiguous
from ..spec import Case, KernelSpec
from .cpu_kernel import graph_conv as on_cpu
from .reference import GraphConvOutput
from .reference import graph_conv as reference

MOST_JOINTS = 32


@torch.library.custom_op("unisign_fast::graph_conv", mutates_args=())
def _forward(
    x: list[Tensor],
    relu_before_residual: bool,
    adjacency_KVV: Tensor,
    weight_KOC: Tensor,
    bias_VO: Tensor,
    shortcut: list[Tensor],
    batch_stats: bool,
) -> list[Tensor]:
    from .triton_kernel import forward

    parameters = contiguous([adjacency_KVV, weight_KOC, bias_VO])
    return forward(contiguous(x), relu_before_residual, *parameters, contiguous(shortcut), batch_stats)


@_forward.register_fake
def _(x, relu_before_residual, adjacency_KVV, weight_KOC, bias_VO, shortcut, batch_stats):
    from .triton_kernel import tile_rows

    rows, (hops, outputs, _) = tile_rows(x[0].dtype), weight_KOC.shape
    result = [adjacency_KVV.new_empty(hops, rows, rows)]
    for _ in range(2 if shortcut else 1):
        result += [x[0].new_empty(*x[0].shape[:2], outputs)]
        result += [x[0].new_empty(outputs, dtype=torch.float32) for _ in range(2 if batch_stats else 0)]
    return result + [x[0].new_empty(x[0].shape)] * (len(x) > 1)


def _results(result: list, plain: bool, shortcut: bool, batch_stats: bool) -> tuple:
    """D, the output, the shortcut's (each with its batch_stats), and x_FVC or None, from the operator's list."""
    each = 3 if batch_stats else 1
    diagonal, out, rest = result[0], result[1 : 1 + each], result[1 + each :]
    return diagonal, out, rest[:each] if shortcut else [], None if plain else rest[-1]


@torch.library.custom_op("unisign_fast::graph_conv_backward", mutates_args=())
def _backward(
    grad_x_FVC: Tensor | None,
    grad_out: list[Tensor],
    grad_shortcut_out: list[Tensor],
    x_FVC: Tensor,
    diagonal: Tensor,
    out: list[Tensor],
    shortcut_out: list[Tensor],
    x: list[Tensor],
    relu_before_residual: bool,
    weight_KOC: Tensor,
    shortcut: list[Tensor],
) -> list[Tensor]:
    from .triton_kernel import backward

    grad_x_FVC = None if grad_x_FVC is None else grad_x_FVC.contiguous()
    gradients, x_FVC = (contiguous(grad_out), contiguous(grad_shortcut_out)), x_FVC.contiguous()
    inputs = contiguous(x), relu_before_residual, weight_KOC.contiguous(), contiguous(shortcut)
    return backward(grad_x_FVC, *gradients, x_FVC, diagonal, out, shortcut_out, *inputs)


@_backward.register_fake
def _(
    grad_x_FVC,
    grad_out,
    grad_shortcut_out,
    x_FVC,
    diagonal,
    out,
    shortcut_out,
    x,
    relu_before_residual,
    weight_KOC,
    shortcut,
):
    joints, outputs = out[0].shape[1:]
    grad_adjacency = weight_KOC.new_empty(weight_KOC.shape[0], joints, joints)
    grad_bias = weight_KOC.new_empty(joints, outputs, dtype=torch.float32)
    grad_shortcut = [tensor.new_empty(tensor.shape) for tensor in shortcut]
    return [grad_adjacency, torch.empty_like(weight_KOC), grad_bias, *grad_shortcut, *(y.new_empty(y.shape) for y in x)]


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
    diagonal, out, shortcut_out, x_FVC = _results(result, *layout)
    _, grad_out, grad_shortcut_out, grad_x_FVC = _results(gradients, *layout)
    whole = whole_gradient(grad_out, out), whole_gradient(grad_shortcut_out, shortcut_out)
    x_FVC = x[0] if x_FVC is None else x_FVC
    result = _backward(
        grad_x_FVC, *whole, x_FVC, diagonal, out, shortcut_out, x, ctx.relu_before_residual, weight_KOC, shortcut
    )
    grad_adjacency, grad_weight, grad_bias, *rest = result
    return rest[shortcuts:], None, grad_adjacency, grad_weight, grad_bias, rest[:shortcuts], None


_forward.register_autograd(_gradients, setup_context=_save)


def _triton(
    x: Activation,
    adjacency_KVV: Tensor,
    weight_KOC: Tensor,
    bias_KO: Tensor,
    shortcut: tuple[Tensor, Tensor] | None,
    batch_stats: bool,
) -> GraphConvOutput:
    # The bias goes through the adjacency: a small product that autograd can take care of, in float32.
    bias_VO = adjacency_KVV.sum(1, dtype=torch.float32).T @ bias_KO.float()
    result = _forward(
        x.tensors(), x.relu_before_residual, adjacency_KVV, weight_KOC, bias_VO, list(shortcut or ()), batch_stats
    )
    _, out, shortcut_out, x_FVC = _results(result, x.scale_C is None, shortcut is not None, batch_stats)
    x_FVC = x.conv_out_FVC if x_FVC is None else x_FVC
    return GraphConvOutput(x_FVC, as_conv_output(out), as_conv_output(shortcut_out) if shortcut else None)


def _refusal(x: Activation, adjacency_KVV: Tensor, *_) -> str | None:
    joints = adjacency_KVV.shape[1]
    return f"{joints} joints are more than {MOST_JOINTS}" if joints > MOST_JOINTS else None


def _inputs(shape: dict, random) -> tuple:
    joints, channels, outputs, hops = (shape[name] for name in ("V", "C", "O", "K"))
    shortcut = random(outputs, channels, scale=channels**-0.5), random(outputs)
    return (
        activation_inputs(shape, random),
        random(hops, joints, joints, scale=joints**-0.5),
        random(hops, outputs, channels, scale=(hops * channels) ** -0.5),
        random(hops, outputs),
        shortcut if shape["shortcut"] else None,
        shape["batch_stats"],
    )


def _products(shape: dict) -> tuple[int, int, int]:
    """FLOPs of aggregating, of mixing channels, and of the shortcut; two for each product and sum."""
    rows = shape["F"] * shape["V"] * 2
    mix = rows * shape["C"] * shape["O"]
    return rows * shape["K"] * shape["V"] * shape["C"], shape["K"] * mix, shape["shortcut"] * mix


def _backward_flops(shape: dict) -> int:
    """dY W_k serves x and adjacency; D_k X is computed again for the weight."""
    aggregate, mix, shortcut = _products(shape)
    return 3 * aggregate + 2 * mix + 2 * shortcut


def _outputs_and_weights(shape: dict, itemsize: int) -> tuple[int, int]:
    """Bytes of the outputs, and of all parameters."""
    outs, matrices = 1 + shape["shortcut"], shape["K"] + shape["shortcut"]
    weights = shape["K"] * shape["V"] ** 2 + matrices * shape["O"] * (shape["C"] + 1)
    return itemsize * outs * shape["F"] * shape["V"] * shape["O"], itemsize * weights


def _bytes(shape: dict, itemsize: int) -> int:
    """Reads the activation's tensors and the weights; writes x and the outputs."""
    return (
        activation_bytes(shape, itemsize)
        + activated_bytes(shape, itemsize)
        + sum(_outputs_and_weights(shape, itemsize))
    )


def _backward_bytes(shape: dict, itemsize: int) -> int:
    """Reads what the activation is made of, x, the outputs, their gradients and the weights; writes the gradients of
    the activation's tensors and of the weights.
    """
    outs, weights = _outputs_and_weights(shape, itemsize)
    return 2 * (activation_bytes(shape, itemsize) + outs + weights) + activated_bytes(shape, itemsize)


def _case(
    reason: str, frames: int, joints: int, sizes: tuple[int, int, int], x: str, shortcut: bool, batch_stats: bool = True
) -> Case:
    shape = {
        "F": frames,
        "V": joints,
        **dict(zip("COK", sizes)),
        "X": x,
        "shortcut": shortcut,
        "batch_stats": batch_stats,
    }
    return Case(shape, reason)


# The model's layers: embedding to block 1, block 1 to 2, 2 to 3, and those of the temporal encoder.
_LAYERS = (
    ((64, 64, 2), "plain", False),
    ((64, 128, 2), "ReLU, then added", True),
    ((128, 256, 2), "relu_before_residual, both scaled", True),
    ((256, 256, 2), "plain", False),
    ((256, 256, 2), "added", False),
)

SPEC = KernelSpec(
    name="graph_conv",
    reference=reference,
    triton=_triton,
    cpu=on_cpu,
    refusal=_refusal,
    inputs=_inputs,
    cases=(
        _case("hands: six frames a tile, the last not full", 13, 21, (64, 64, 2), "ReLU, then added", False),
        _case(
            "body: fourteen frames a tile, a shortcut", 15, 9, (64, 130, 2), "relu_before_residual, both scaled", True
        ),
        _case("face: exactly one tile, odd channels", 7, 18, (20, 37, 2), "scaled", True, batch_stats=False),
        _case("the most joints, one hop", 5, 32, (16, 16, 1), "plain", False),
        _case("one frame, one joint, three hops", 1, 1, (3, 2, 3), "plain", True),
        _case("no frames", 0, 21, (64, 64, 2), "both scaled", True),
    ),
    training=tuple(
        _case(f"16 clips of 240 frames, {v} joints, {c} to {o} channels, input {x}", 3840, v, (c, o, k), x, shortcut)
        for v in (9, 18, 21)
        for (c, o, k), x, shortcut in _LAYERS
    ),
    flops=lambda shape: sum(_products(shape)),
    backward_flops=_backward_flops,
    bytes=_bytes,
    backward_bytes=_backward_bytes,
)


def graph_conv(
    x: Activation,
    adjacency_KVV: Tensor,
    weight_KOC: Tensor,
    bias_KO: Tensor,
    shortcut: tuple[Tensor, Tensor] | None,
    batch_stats: bool,
) -> GraphConvOutput:
    """See kernels/graph_conv/reference.py."""
    return run(SPEC, x, adjacency_KVV, weight_KOC, bias_KO, shortcut, batch_stats)
