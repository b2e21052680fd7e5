"""BatchNorm's per-channel arithmetic in plain PyTorch: the reference that every faster version is tested against."""

import torch
from torch import Tensor

EPS = 1e-5  # torch's default and the published code's


def batch_norm(
    mean_C: Tensor,
    var_C: Tensor,
    weight_C: Tensor,
    bias_C: Tensor,
    running_mean_C: Tensor,
    running_var_C: Tensor,
    batches: Tensor,
    count: Tensor | None,
    rows: int,
    momentum: float,
) -> tuple[Tensor, Tensor]:
    """scale = weight / sqrt(var + eps) and shift = bias - mean * scale (Ioffe and Szegedy 2015, algorithm 1), in
    float32 at least. Updates the running statistics in place, unless the batch has a single row, which has no variance.

    Args:
        mean_C, var_C: of the batch, in float32 at least; var biased.
        weight_C, bias_C: the learned scale and shift.
        running_mean_C, running_var_C: float32, contiguous; var unbiased.
        batches: int64 scalar, the number of batches with rows so far.
        count: number of rows, [1], if only the device knows it (summed over ranks), otherwise None.
        rows: number of rows, unless `count` is given.
        momentum: weight of the batch in the new running statistics.
    """
    exact = mean_C.dtype
    scale_C = weight_C.to(exact) * torch.rsqrt(var_C + EPS)
    shift_C = bias_C.to(exact) - mean_C * scale_C
    with torch.no_grad():
        count = mean_C.new_full((1,), rows) if count is None else count
        share = momentum * (count > 1)
        running_mean_C += share * (mean_C - running_mean_C)
        running_var_C += share * (var_C * count / (count - 1).clamp(min=1) - running_var_C)
        batches += (count[0] > 0).long()
    return scale_C, shift_C
