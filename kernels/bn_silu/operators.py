"""Passes over a map on a GPU, as custom operators around the Triton kernels. cpu_kernel.py has the passes for a CPU.

x [R, C] are the rows of a map of `cells` cells a crop; `bounds` [P + 2] and `stats` [P, 5, C] are those of
triton_tiles.py.
"""

import torch.distributed as dist
from torch import Tensor

from ..launch import operator
from .reference import EPS, Norm, is_alone


@operator("bn_partial_moments")
def _partial_moments(x_RC: Tensor, cells: int, bounds: Tensor) -> Tensor:
    from .triton_stats import partial_moments
    from .triton_tiles import Map

    return partial_moments(Map(x_RC, cells, bounds))


@operator("bn_stats_alone", mutates=("running_mean", "running_var", "tracked"))
def _stats_alone(
    partial: Tensor, cells: int, bounds: Tensor, weight_C: Tensor, bias_C: Tensor,
    running_mean: Tensor, running_var: Tensor, tracked: Tensor, momentum: float,
) -> Tensor:  # fmt: skip
    from .triton_stats import stats_alone

    return stats_alone(partial, cells, bounds, [weight_C, bias_C, running_mean, running_var, tracked], momentum, EPS)


@operator("bn_rank_sums")
def _rank_sums(
    partial: Tensor, cells: int, bounds: Tensor, weight_C: Tensor, bias_C: Tensor,
    running_mean: Tensor, running_var: Tensor, tracked: Tensor,
) -> Tensor:  # fmt: skip
    from .triton_stats import rank_sums

    return rank_sums(partial, cells, bounds, [weight_C, bias_C, running_mean, running_var, tracked])


@operator("bn_stats_of_sums", mutates=("running_mean", "running_var", "tracked"))
def _stats_of_sums(
    sums: Tensor, weight_C: Tensor, bias_C: Tensor, running_mean: Tensor, running_var: Tensor, tracked: Tensor,
    momentum: float,
) -> Tensor:  # fmt: skip
    from .triton_stats import stats_of_sums

    return stats_of_sums(sums, [weight_C, bias_C, running_mean, running_var, tracked], momentum, EPS)


def merged_stats(partial: Tensor, cells: int, bounds: Tensor, norm: Norm) -> Tensor:
    """`stats` over all ranks from partial moments [P, 2, programs, C], by one reduction; updates running statistics."""
    if is_alone():
        return _stats_alone(partial, cells, bounds, *norm)
    sums = _rank_sums(partial, cells, bounds, *norm[:5])
    dist.all_reduce(sums)
    return _stats_of_sums(sums, *norm)


def batch_stats(x_RC: Tensor, cells: int, bounds: Tensor, norm: Norm) -> Tensor:
    """The `stats` of a map over all ranks. Updates the running statistics."""
    return merged_stats(_partial_moments(x_RC, cells, bounds), cells, bounds, norm)


@operator("bn_silu_apply")
def apply(x_RC: Tensor, cells: int, stats: Tensor, bounds: Tensor, activate: bool) -> Tensor:
    """y [R, C] = silu(scale * x + shift), without SiLU as asked."""
    from .triton_forward import apply
    from .triton_tiles import Map

    return apply(Map(x_RC, cells, bounds), stats, activate)


@operator("bn_silu_mean")
def mean(x_RC: Tensor, cells: int, stats: Tensor, bounds: Tensor) -> Tensor:
    """[N, C] float32: the means of the activated map."""
    from .triton_forward import mean
    from .triton_tiles import Map

    return mean(Map(x_RC, cells, bounds), stats)


@operator("bn_silu_backward_sums")
def _backward_sums(
    grad_RC: Tensor, x_RC: Tensor, cells: int, stats: Tensor, bounds: Tensor, activate: bool, weight_C: Tensor
) -> list[Tensor]:  # fmt: skip
    from .triton_backward import backward_sums
    from .triton_tiles import Map

    return backward_sums(Map(x_RC, cells, bounds), stats, grad_RC, activate, weight_C)


@operator("bn_silu_backward")
def backward_map(
    grad_RC: Tensor, x_RC: Tensor, cells: int, stats: Tensor, bounds: Tensor, gate: list[Tensor], activate: bool,
    sums: Tensor,
) -> Tensor:  # fmt: skip
    """The gradient of x from `sums` of all ranks. gate: empty, or the gate [N, C] and the gradient of the activated
    map's mean; the other arguments are those of `backward`.
    """
    from .triton_backward import backward_map
    from .triton_tiles import Map

    return backward_map(Map(x_RC, cells, bounds), stats, grad_RC, gate, activate, sums)


@operator("bn_merged_sums")
def merged_sums(partial: Tensor, weight_C: Tensor) -> list[Tensor]:
    """`sums` [P, 2, C] of this rank, and the gradients of weight and bias, from partial sums [P, 2, programs, C]."""
    from .triton_backward import merged_sums

    return merged_sums(partial, weight_C)


def backward(
    grad_RC: Tensor, x_RC: Tensor, cells: int, stats: Tensor, bounds: Tensor, activate: bool, weight_C: Tensor,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, weight and bias.

    In training, the sums that the statistics' gradients need are those of all ranks, by one reduction.
    """
    values = grad_RC, x_RC, cells, stats, bounds
    sums, *grads = _backward_sums(*values, activate, weight_C)
    sum_over_ranks(sums, training)
    return backward_map(*values, [], activate, sums), *grads


def sum_over_ranks(sums: Tensor, training: bool) -> None:
    """Add up the sums of all ranks in place; in evaluation no gradient needs them."""
    if training and not is_alone():
        dist.all_reduce(sums)
