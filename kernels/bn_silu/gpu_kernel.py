"""Passes over a map on a GPU, and their reductions over ranks. cpu_kernel.py has the passes for a CPU.

x [R, C] are the rows of a map of `cells` cells a crop; `bounds` [P + 2] and `stats` [P, 5, C] are those of
triton_tiles.py.
"""

import torch.distributed as dist
from torch import Tensor

from .reference import Norm, is_alone
from .triton_backward import backward_map, backward_sums
from .triton_forward import apply, mean
from .triton_stats import partial_moments, rank_sums, stats_alone, stats_of_sums

__all__ = ["apply", "backward", "batch_stats", "mean", "merged_stats", "sum_over_ranks"]


def merged_stats(partial: Tensor, cells: int, bounds: Tensor, norm: Norm) -> Tensor:
    """`stats` over all ranks from partial moments [P, 2, programs, C], by one reduction; updates running statistics."""
    if is_alone():
        return stats_alone(partial, cells, bounds, *norm)
    sums = rank_sums(partial, cells, bounds, *norm[:5])
    dist.all_reduce(sums)
    return stats_of_sums(sums, *norm)


def batch_stats(x_RC: Tensor, cells: int, bounds: Tensor, norm: Norm) -> Tensor:
    """The `stats` of a map over all ranks. Updates the running statistics."""
    return merged_stats(partial_moments(x_RC, cells, bounds), cells, bounds, norm)


def backward(
    grad_RC: Tensor, x_RC: Tensor, cells: int, stats: Tensor, bounds: Tensor, activate: bool, weight_C: Tensor,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, weight and bias.

    In training, the sums that the statistics' gradients need are those of all ranks, by one reduction.
    """
    values = grad_RC, x_RC, cells, stats, bounds
    sums, *grads = backward_sums(*values, activate, weight_C)
    sum_over_ranks(sums, training)
    return backward_map(*values, [], activate, sums), *grads


def sum_over_ranks(sums: Tensor, training: bool) -> None:
    """Add up the sums of all ranks in place; in evaluation no gradient needs them."""
    if training and not is_alone():
        dist.all_reduce(sums)
