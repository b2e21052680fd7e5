"""Batch normalisation with statistics in float32, shared by all ranks, on CPU and GPU alike.

torch.nn.SyncBatchNorm cannot train on a CPU, and with plain BatchNorm the result depends on how clips are
distributed over ranks. Rows are real frames only, since batches are packed; an empty rank contributes a count of zero.

Both hands share layers, but in training each is normalised by its own statistics (published code). Here each part also
has its own running statistics for evaluation. The published code keeps one running mixture of both
(published/layout.py), which scores worse (docs/experiments.md).
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from unisign_fast.kernels.batch_norm.op import batch_norm as scale_and_shift
from unisign_fast.kernels.batch_norm.reference import EPS
from unisign_fast.kernels.bn_silu.op import bn_silu
from unisign_fast.kernels.bn_silu.reference import Norm, Parts
from unisign_fast.kernels.deferred_activation.reference import ConvOutput

MOMENTUM = 0.1  # torch's default and the published code's


def alone() -> bool:
    """Whether this rank is the only one."""
    return not (dist.is_initialized() and dist.get_world_size() > 1)


class Float32Buffers(nn.Module):
    """A module whose own buffers move between devices with the model but keep their dtype and values."""

    def _apply(self, fn, recurse=True):
        kept = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, moved in self._buffers.items():
            before = kept[name]
            if before is not None and moved is not None and before.dtype != moved.dtype:
                self._buffers[name] = before.to(moved.device)
        return self


class BatchNorm(Float32Buffers):
    """Scale and shift of each channel, in training from the batch statistics of a convolution's output on all ranks.

    The next convolution applies them on load (kernels/deferred_activation). State names and defaults are torch's, but
    the running statistics of several `parts` that share the layer are [parts, C]. They stay in float32: in bfloat16,
    an update of a mean by 0.1 % rounds to nothing.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int, parts: int = 1):
        super().__init__()
        self.momentum = 1 - (1 - MOMENTUM) ** parts  # the published mixture's momentum after an update by each part
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        shape = (parts, channels) if parts > 1 else (channels,)
        self.register_buffer("running_mean", torch.zeros(shape))
        self.register_buffer("running_var", torch.ones(shape))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, out: ConvOutput, part: int = 0) -> tuple[Tensor, Tensor]:
        """Scale and shift [C], float32, for the convolution output `out` of `part`."""
        running_mean, running_var = self.running_mean, self.running_var
        if running_mean.ndim > 1:
            running_mean, running_var = running_mean[part], running_var[part]
        if not self.training:
            return self._scale_and_shift(running_mean, running_var)
        rows, mean_C, var_C = out.conv_out_FVO.shape[:2].numel(), out.mean_O, out.var_O
        assert mean_C is not None and var_C is not None, "in training a convolution returns its batch statistics"
        count: Tensor | None = None
        if not alone():
            every = self._over_ranks(mean_C[None], var_C[None], [rows], slice(part, part + 1))
            mean_C, var_C, count = (values_P[0] for values_P in every)
        running = running_mean, running_var, self.num_batches_tracked
        return scale_and_shift(mean_C, var_C, self.weight, self.bias, *running, count, rows, self.momentum)

    def running(self) -> tuple[Tensor, Tensor]:
        """Running mean and variance of each part, [P, C], as views of the buffers."""
        channels = len(self.weight)
        return self.running_mean.view(-1, channels), self.running_var.view(-1, channels)

    def _over_ranks(
        self, mean_PC: Tensor, var_PC: Tensor, rows: Sequence[int], parts: slice
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and biased variance [P, C] and number of rows [P, 1] over all ranks, by one all-reduce; differentiable.

        Sums are taken about the running mean, which is the same on every rank, so that the squares lose fewer digits.
        """
        count_P1 = torch.cat([mean_PC.new_full((1, 1), n) for n in rows])
        about_PC, channels = self.running()[0][parts], mean_PC.shape[1]
        shift_PC = mean_PC - about_PC
        sums = all_reduce(torch.cat([count_P1 * shift_PC, count_P1 * (var_PC + shift_PC.square()), count_P1], 1))
        count_P1 = sums[:, -1:].detach()
        shift_PC, square_PC = (sums[:, :-1] / count_P1.clamp(min=1)).split(channels, 1)
        return about_PC + shift_PC, (square_PC - shift_PC.square()).clamp(min=0), count_P1

    def _scale_and_shift(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.weight.float() * torch.rsqrt(var + EPS)
        return scale, self.bias.float() - mean * scale


class BatchNorm2d(BatchNorm):
    """Batch normalisation of feature maps [N, C, H, W], which hold the parts one after the other."""

    def forward(  # type: ignore[override]  # maps instead of a convolution's output
        self, x_NCHW: Tensor, parts: Parts | Sequence[int], activate: bool = False
    ) -> Tensor:
        """The normalised maps, followed by SiLU if `activate`.

        parts: the number of maps of each part; maps after the last part are padding.
        """
        return bn_silu(x_NCHW, Parts.of(parts, x_NCHW), self.norm, self.training, activate)

    @property
    def norm(self) -> Norm:
        """The layer in the form that operations take."""
        running = self.running_mean.view(-1), self.running_var.view(-1)
        return Norm(self.weight, self.bias, *running, self.num_batches_tracked, self.momentum)
