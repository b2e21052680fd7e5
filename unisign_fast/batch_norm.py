"""Batch normalisation with statistics in float32, shared by all ranks, on CPU and GPU alike.

torch.nn.SyncBatchNorm cannot train on a CPU, and plain BatchNorm lets a result depend on how clips fall to ranks.
Rows are real frames only, since batches are packed; an empty rank takes part with a count of zero.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.functional import batch_norm

from kernels.activation.reference import Measured
from unisign_fast.float32_buffers import Float32Buffers


def alone() -> bool:
    """Whether this rank is the only one."""
    return not (dist.is_initialized() and dist.get_world_size() > 1)


class BatchNorm(Float32Buffers):
    """Scale and shift of each channel, from the moments of what a convolution wrote, over all ranks while training.

    The next convolution applies them to what it loads (kernels/activation). State names and defaults are torch's.
    Running statistics stay in float32: in bfloat16 an update of 0.1 % of a mean rounds to nothing.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, out: Measured) -> tuple[Tensor, Tensor]:
        """Scale and shift [C], float32, of an output that is measured while training."""
        if not self.training:
            return self._scale_and_shift(self.running_mean, self.running_var)
        rows = out.raw_FVO.shape[:2].numel()
        return self._scale_and_shift(*self._tracked(out.mean_O, out.var_O, rows))

    def _tracked(self, mean: Tensor, var: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Mean and biased variance over the rows of all ranks, differentiable; the running ones follow them.

        Sums are taken about the running mean, which is the same on every rank: a square of a small number loses less.
        """
        count = mean.new_full((1,), rows)
        if not alone():
            shift = mean - self.running_mean
            sums = all_reduce(torch.cat([count * shift, count * (var + shift.square()), count]))
            count = sums[-1:].detach()
            shift, square = (sums[:-1] / count.clamp(min=1)).chunk(2)
            mean, var = self.running_mean + shift, (square - shift.square()).clamp(min=0)
        self._track(mean.detach(), var.detach(), count)
        return mean, var

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        self.num_batches_tracked += 1
        momentum = self.momentum * (count > 1)  # one row has no variance
        unbiased = var * count / (count - 1).clamp(min=1)
        self.running_mean += momentum * (mean - self.running_mean)
        self.running_var += momentum * (unbiased - self.running_var)

    def _scale_and_shift(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.weight.float() * torch.rsqrt(var + self.eps)
        return scale, self.bias.float() - mean * scale


class BatchNorm2d(BatchNorm):
    """The same for maps [N, C, H, W], which it normalises itself."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """y_NCHW in the type of x."""
        rows = x_NCHW.numel() // self.weight.numel()
        if not self.training or (alone() and rows > 1):
            self.num_batches_tracked += self.training
            running = self.running_mean, self.running_var
            parameters = self.weight.float(), self.bias.float()
            y_NCHW = batch_norm(x_NCHW.float(), *running, *parameters, self.training, self.momentum, self.eps)
            return y_NCHW.to(x_NCHW.dtype)
        exact = x_NCHW.float()
        mean = exact.sum((0, 2, 3)) / max(1, rows)
        var = (exact - mean[:, None, None]).square().sum((0, 2, 3)) / max(1, rows)
        scale, shift = (v[:, None, None] for v in self._scale_and_shift(*self._tracked(mean, var, rows)))
        return torch.addcmul(shift, exact, scale).to(x_NCHW.dtype)
