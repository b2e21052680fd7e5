"""The passes of an inverted bottleneck on a GPU, as custom operators around the Triton kernels.

x [R, C] holds the rows of a map with `cells` cells per crop; `sides` are its height and width. bn_silu/triton_tiles.py
defines `bounds`, `stats` and the partial sums.
"""

from torch import Tensor

from ..launch import operator


@operator("mbconv_pointwise")
def pointwise(
    x_RC: Tensor, cells: int, bounds: Tensor, weight_OC: Tensor, stats: Tensor | None = None,
    gate_NC: Tensor | None = None, out_stats: Tensor | None = None,
) -> list[Tensor]:  # fmt: skip
    """x weight^T and its partial moments. With `stats` and a gate, x is normalized, activated and gated first.

    With `out_stats`, the result is SiLU of the normalized product, without moments.
    """
    from ..bn_silu.triton_tiles import Map
    from .triton_pointwise import forward

    return forward(Map(x_RC, cells, bounds), weight_OC, stats, gate_NC, out_stats)


@operator("mbconv_pointwise_weight_backward")
def pointwise_weight_backward(
    grad_RO: Tensor, x_RC: Tensor, cells: int, bounds: Tensor, stats: Tensor, gate_NC: Tensor
) -> Tensor:
    """The weight's gradient [O, C] of a product that normalized, activated and gated x on load."""
    from ..bn_silu.triton_tiles import Map
    from .triton_pointwise import weight_backward

    return weight_backward(Map(x_RC, cells, bounds), stats, gate_NC, grad_RO).to(grad_RO.dtype)


@operator("mbconv_depthwise")
def depthwise(x_RC: Tensor, sides: list[int], bounds: Tensor, weight_C1KK: Tensor, stride: int) -> list[Tensor]:
    """The convolution of an activated map, and its partial moments."""
    from ..bn_silu.triton_tiles import Map
    from .triton_depthwise import forward

    return forward(Map(x_RC, sides[0] * sides[1], bounds), sides, weight_C1KK.flatten(1).T.contiguous(), stride)


@operator("mbconv_depthwise_backward")
def depthwise_backward(
    grad_RC: Tensor, x_RC: Tensor, sides: list[int], bounds: Tensor, weight_C1KK: Tensor, stride: int,
    stats: Tensor | None,
) -> list[Tensor]:  # fmt: skip
    """The gradient of the normalized x (without `stats`: of x), its partial sums, and the weight's gradient."""
    from ..bn_silu.triton_tiles import Map
    from .triton_depthwise import backward

    x, weight_TC = Map(x_RC, sides[0] * sides[1], bounds), weight_C1KK.flatten(1).T.contiguous()
    grad_z_RC, partial, grad_TC = backward(x, sides, weight_TC, stride, stats, grad_RC)
    return [grad_z_RC, partial, grad_TC.T.to(weight_C1KK.dtype).contiguous().view_as(weight_C1KK)]


@operator("mbconv_gate_sums")
def gate_sums(grad_RC: Tensor, x_RC: Tensor, cells: int, stats: Tensor, bounds: Tensor) -> Tensor:
    """Five sums over the cells of each crop, [5, N, C]; the first is the gradient of the gate."""
    from ..bn_silu.triton_tiles import Map
    from .triton_gate import sums_of_crops

    return sums_of_crops(Map(x_RC, cells, bounds), stats, grad_RC)


@operator("mbconv_gated_sums")
def gated_sums(sums: Tensor, cells: int, bounds: Tensor, gate_NC: Tensor, grad_mean_NC: Tensor) -> Tensor:
    """Partial sums of the gradient of the normalized map, from the sums of the crops."""
    from ..bn_silu.triton_tiles import Map
    from .triton_gate import partial_sums

    return partial_sums(Map(gate_NC, 1, bounds), sums, cells, grad_mean_NC)
