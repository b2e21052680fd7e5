"""BatchNorm + SiLU + squeeze-and-excitation + the next convolution, in plain PyTorch.

Shapes: x [N, C, H, W]. Several parts (P; the two hands) share a layer: x holds part after part, and each part is
normalized by its own statistics. Maps after the last part pad the batch to a bucket: statistics
ignore them, and their normalized values and gradients are zero.
Sources: Ioffe and Szegedy 2015 (BatchNorm); Elfwing et al. 2018 (SiLU); Hu et al. 2018 (squeeze and excitation).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_reduce
from torch.nn.functional import batch_norm, linear, pad, silu

from .convolution import Conv, convolve

EPS = 1e-5  # torch's default and the published code's


@dataclass(frozen=True)
class Parts:
    """Which of N maps belong to which part."""

    counts: tuple[int, ...]  # maps of each part; the rest of the N is padding
    maps: int  # N
    bounds: Tensor  # int64 [P + 2], on the device: where each part starts, where the padding starts, N

    @staticmethod
    def of(counts: "Sequence[int] | Parts", x_NCHW: Tensor) -> "Parts":
        """The parts of the maps of x, without synchronizing with the device. A `Parts` is returned unchanged."""
        if isinstance(counts, Parts):
            return counts
        bounds = torch.tensor([0, *accumulate(counts), len(x_NCHW)], pin_memory=x_NCHW.is_cuda)
        return Parts(tuple(counts), len(x_NCHW), bounds.to(x_NCHW.device, non_blocking=True))


class Norm(NamedTuple):
    """A BatchNorm layer's tensors. The running statistics are float32, [P * C], updated in place while training."""

    weight_C: Tensor
    bias_C: Tensor
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor  # int64 scalar
    momentum: float

    def running(self) -> tuple[Tensor, Tensor]:
        """Mean and variance, [P, C]; the same memory."""
        channels = len(self.weight_C)
        return self.running_mean.view(-1, channels), self.running_var.view(-1, channels)


class Excitation(NamedTuple):
    """The two layers of squeeze and excitation: C -> E -> C."""

    squeeze_EC: Tensor
    squeeze_bias_E: Tensor
    excite_CE: Tensor
    excite_bias_C: Tensor


def is_alone() -> bool:
    """Whether this process is the only rank."""
    return not (dist.is_initialized() and dist.get_world_size() > 1)


def bn_silu(
    x_NCHW: Tensor,
    parts: Parts,
    norm: Norm,
    training: bool,
    activate: bool = True,
    excitation: Excitation | None = None,
    conv: Conv | None = None,
) -> Tensor:
    """BatchNorm; SiLU if `activate`; the channel gates of `excitation`; the convolution `conv`.

    Training normalizes by batch statistics over all ranks and updates the running ones; evaluation uses the running
    ones. Computed in float32 at least; the result has the dtype of x.
    """
    return after_norm(normalize(x_NCHW, parts, norm, training), activate, excitation, conv)


def after_norm(
    x_NCHW: Tensor, activate: bool = False, excitation: Excitation | None = None, conv: Conv | None = None
) -> Tensor:
    """Everything after the normalization."""
    if activate:
        x_NCHW = silu(x_NCHW)
    if excitation is not None:
        # Not mean(): its gradient is an expanded tensor, which slows down what reads it.
        mean_NC = x_NCHW.sum((2, 3)) / x_NCHW.shape[2:].numel()
        x_NCHW = x_NCHW * gate(mean_NC, excitation)[..., None, None]
    return x_NCHW if conv is None else convolve(x_NCHW, conv)


def gate(mean_NC: Tensor, excitation: Excitation) -> Tensor:
    """[N, C] in (0, 1)."""
    squeezed_NE = silu(linear(mean_NC, excitation.squeeze_EC, excitation.squeeze_bias_E))
    return linear(squeezed_NE, excitation.excite_CE, excitation.excite_bias_C).sigmoid()


def normalize(x_NCHW: Tensor, parts: Parts, norm: Norm, training: bool) -> Tensor:
    """BatchNorm alone."""
    counts, cells = parts.counts, x_NCHW.shape[2:].numel()
    padding = parts.maps - sum(counts)
    exact_NCHW = x_NCHW[: sum(counts)] if padding else x_NCHW
    exact_NCHW = exact_NCHW.to(torch.promote_types(x_NCHW.dtype, torch.float32))
    # torch's own function where possible: the last bits of the published features depend on its order of operations.
    if not training or (is_alone() and any(counts) and all(n * cells != 1 for n in counts)):
        y_NCHW = _by_torch(exact_NCHW, counts, norm, training)
        if training:
            norm.num_batches_tracked.add_(sum(n > 0 for n in counts))
    else:
        y_NCHW = _over_all_ranks(exact_NCHW, counts, norm)
    y_NCHW = y_NCHW.to(x_NCHW.dtype)
    return pad(y_NCHW, (0, 0) * 3 + (0, padding)) if padding else y_NCHW


def _by_torch(x_NCHW: Tensor, counts: Sequence[int], norm: Norm, training: bool) -> Tensor:
    weight_C, bias_C = norm.weight_C.to(x_NCHW.dtype), norm.bias_C.to(x_NCHW.dtype)
    filled = [part for part, n in enumerate(counts) if n]
    if len(filled) > 1:
        maps = x_NCHW.split([counts[part] for part in filled])
    else:  # Not split(): it would copy the gradient and, with an empty part, lose its memory format.
        filled, maps = filled or [0], [x_NCHW]
    mean_PC, var_PC = norm.running()
    result = []
    for part, x in zip(filled, maps):
        result.append(batch_norm(x, mean_PC[part], var_PC[part], weight_C, bias_C, training, norm.momentum, EPS))
    return result[0] if len(result) == 1 else torch.cat(result)


def _over_all_ranks(x_NCHW: Tensor, counts: Sequence[int], norm: Norm) -> Tensor:
    """Training with statistics of all ranks; parts without maps, or with a single value, are legal."""
    rows = [n * x_NCHW.shape[2:].numel() for n in counts]

    def mean_of(x_NCHW: Tensor) -> Tensor:
        sums_NC = x_NCHW.sum((2, 3)).split(list(counts))
        return torch.stack([x.sum(0) / max(1, n) for x, n in zip(sums_NC, rows)])

    def per_map(v_PC: Tensor) -> Tensor:
        return torch.cat([v_C.expand(n, -1) for v_C, n in zip(v_PC, counts)])[..., None, None]

    mean_PC = mean_of(x_NCHW)
    var_PC = mean_of((x_NCHW - per_map(mean_PC)).square())
    count_P1 = torch.cat([mean_PC.new_full((1, 1), n) for n in rows])
    if not is_alone():
        mean_PC, var_PC, count_P1 = _merge_ranks(mean_PC, var_PC, count_P1, norm.running()[0])
    with torch.no_grad():
        norm.num_batches_tracked.add_((count_P1 > 0).sum())
        momentum_P1 = norm.momentum * (count_P1 > 1)  # one row has no variance
        unbiased_PC = var_PC * count_P1 / (count_P1 - 1).clamp(min=1)
        for running_PC, batch_PC in zip(norm.running(), (mean_PC, unbiased_PC)):
            running_PC += momentum_P1 * (batch_PC - running_PC)
    scale_PC = norm.weight_C.to(x_NCHW.dtype) * torch.rsqrt(var_PC + EPS)
    shift_PC = norm.bias_C.to(x_NCHW.dtype) - mean_PC * scale_PC
    return torch.addcmul(per_map(shift_PC), x_NCHW, per_map(scale_PC))


def _merge_ranks(mean_PC: Tensor, var_PC: Tensor, count_P1: Tensor, about_PC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased variance and count over all ranks by one differentiable reduction.

    Sums are taken about the running mean, which is the same on every rank: small squares lose fewer digits.
    """
    shift_PC = mean_PC - about_PC
    sums = all_reduce(torch.cat([count_P1 * shift_PC, count_P1 * (var_PC + shift_PC.square()), count_P1], 1))
    count_P1 = sums[:, -1:].detach()
    shift_PC, square_PC = (sums[:, :-1] / count_P1.clamp(min=1)).split(mean_PC.shape[1], 1)
    return about_PC + shift_PC, (square_PC - shift_PC.square()).clamp(min=0), count_P1
