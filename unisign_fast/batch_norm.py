"""Batch normalisation over packed rows, its statistics in float32 and shared by all ranks, on CPU and GPU alike.

torch.nn.SyncBatchNorm cannot train on a CPU, and plain BatchNorm lets a result depend on how clips fall to ranks.
Rows are real frames only, since batches are packed; an empty rank takes part with a count of zero.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.functional import batch_norm

from unisign_fast.float32_buffers import Float32Buffers

ROWS_AT_ONCE = 2048  # fit a core's cache


def _row_statistics(rows_RC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased variance [C] and count [1] of rows.

    torch's CPU batch_norm adds rows up one after the other in float32: at 30,000 rows its result is off by 2e-5 or
    more, 40 times what the published layout has. Its sum() adds pairwise: 5e-7, in the same time.
    """
    mean_C = rows_RC.mean(0)
    squares_C = sum((rows - mean_C).square_().sum(0) for rows in rows_RC.split(ROWS_AT_ONCE))
    return mean_C, squares_C / rows_RC.shape[0], rows_RC.new_full((1,), rows_RC.shape[0])


class _NormalizedRows(torch.autograd.Function):
    """Batch normalisation by statistics of the very rows [R, C], through which the gradient flows too."""

    @staticmethod
    def forward(ctx, rows_RC, weight, bias, mean, var, eps):
        ctx.save_for_backward(rows_RC, weight, mean, torch.rsqrt(var + eps))
        ctx.eps = eps
        return batch_norm(rows_RC, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx, grad_RC):
        rows_RC, weight, mean, rstd = ctx.saved_tensors
        grads = torch.ops.aten.native_batch_norm_backward(
            grad_RC, rows_RC, weight, None, None, mean, rstd, True, ctx.eps, [True, True, True]
        )
        return *grads, None, None, None


class BatchNorm(Float32Buffers):
    """Normalises each channel of `channel_dim` over all other dimensions, of all ranks' tensors while training.

    State names and defaults are torch's. Running statistics stay in float32: in bfloat16 an update of 0.1 % of a mean
    rounds to nothing.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1, channel_dim: int = -1):
        super().__init__()
        self.eps, self.momentum, self.channel_dim = eps, momentum, channel_dim
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        """x: any shape with `channels` in `channel_dim`; the result has its shape and dtype."""
        if not self.training:
            return self._local(x)
        self.num_batches_tracked += 1
        if dist.is_initialized() and dist.get_world_size() > 1:
            mean, var, count = self._global_statistics(x)
            self._track(mean, var, count)
            return self._normalize(x, mean, var)
        if x.numel() == 0:
            return x + 0 * (self.weight.sum() + self.bias.sum()).to(x.dtype)
        if x.numel() == self.weight.numel():  # one row, which torch refuses: its variance is zero
            return self._normalize(x, x.float().reshape(-1), torch.zeros_like(self.running_var))
        return self._local(x)

    def _local(self, x: Tensor) -> Tensor:
        """One rank's batch, in float32; torch's arithmetic except for the statistics of rows on a CPU."""
        rows = x if self.channel_dim == 1 else x.reshape(-1, x.shape[-1])
        rows, weight, bias = rows.float(), self.weight.float(), self.bias.float()
        if self.training and self.channel_dim != 1 and not rows.is_cuda:
            mean, var, count = _row_statistics(rows.detach())
            self._track(mean, var, count)
            y = _NormalizedRows.apply(rows, weight, bias, mean, var, self.eps)
        else:
            y = batch_norm(
                rows, self.running_mean, self.running_var, weight, bias, self.training, self.momentum, self.eps
            )
        return y.to(x.dtype).view_as(x)

    def _global_statistics(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, biased variance [C] and count [1] over all ranks, differentiable, in float32, by one all_reduce.

        Sums are taken about the running mean, which is the same on every rank: a square of a small number loses less.
        """
        dims = [d for d in range(x.dim()) if d != self.channel_dim % x.dim()]
        pivot = self._shaped(self.running_mean, x)
        centred = x.float() - pivot
        count = x.new_full((1,), x.numel() // self.weight.numel(), dtype=torch.float32)
        sums = all_reduce(torch.cat([centred.sum(dims), centred.square().sum(dims), count]))
        channels = self.weight.numel()
        count = sums[-1:].detach()
        shift = sums[:channels] / count.clamp(min=1)
        var = (sums[channels:-1] / count.clamp(min=1) - shift.square()).clamp(min=0)
        return self.running_mean + shift, var, count

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        momentum = self.momentum * (count > 1)  # one row has no variance
        unbiased = var * count / (count - 1).clamp(min=1)
        self.running_mean += momentum * (mean - self.running_mean)
        self.running_var += momentum * (unbiased - self.running_var)

    def _normalize(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        scale = self.weight.float() * torch.rsqrt(var + self.eps)
        shift = self.bias.float() - mean * scale
        return torch.addcmul(self._shaped(shift, x), x.float(), self._shaped(scale, x)).to(x.dtype)

    def _shaped(self, per_channel: Tensor, x: Tensor) -> Tensor:
        shape = [1] * x.dim()
        shape[self.channel_dim] = -1
        return per_channel.view(shape)
