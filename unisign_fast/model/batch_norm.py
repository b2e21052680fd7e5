"""Batch normalisation with statistics in float32, shared by all ranks, on CPU and GPU alike.

torch.nn.SyncBatchNorm cannot train on a CPU, and plain BatchNorm lets a result depend on how clips fall to ranks.
Rows are real frames only, since batches are packed; an empty rank takes part with a count of zero.

Both hands go through the same layers, but each is normalised by statistics of its own while training (published code).
So it is here in evaluation too: of layers that several body parts share, each part has its running statistics. The
published code keeps one running mixture of both (published_layout.py), which scores worse (README).
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.functional import batch_norm

from unisign_fast.kernels.batch_norm.op import batch_norm as scale_and_shift
from unisign_fast.kernels.batch_norm.reference import EPS
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
            if kept[name].dtype != moved.dtype:
                self._buffers[name] = kept[name].to(moved.device)
        return self


class BatchNorm(Float32Buffers):
    """Scale and shift of each channel, from the moments of what a convolution wrote, over all ranks while training.

    The next convolution applies them to what it loads (kernels/deferred_activation). State names and defaults are torch's, but
    the running statistics of several `parts` that share the layer are [parts, C]. They stay in float32: in bfloat16 an
    update of 0.1 % of a mean rounds to nothing.
    """

    def __init__(self, channels: int, parts: int = 1):
        super().__init__()
        self.momentum = 1 - (1 - MOMENTUM) ** parts  # what the published mixture moves by when each part has moved it
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        shape = (parts, channels) if parts > 1 else (channels,)
        self.register_buffer("running_mean", torch.zeros(shape))
        self.register_buffer("running_var", torch.ones(shape))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, out: ConvOutput, part: int = 0) -> tuple[Tensor, Tensor]:
        """Scale and shift [C], float32, of an output that is measured while training, for the `part` it belongs to."""
        if not self.training:
            mean_PC, var_PC = self.running()
            return self._scale_and_shift(mean_PC[part], var_PC[part])
        rows, count = out.conv_out_FVO.shape[:2].numel(), None
        mean_C, var_C = out.mean_O, out.var_O
        running = [buffer_PC[part] for buffer_PC in self.running()]
        if alone():
            self.num_batches_tracked += rows > 0
        else:
            every = self._over_ranks(mean_C[None], var_C[None], [rows], slice(part, part + 1))
            mean_C, var_C, count = (of_one_part[0] for of_one_part in every)
            self.num_batches_tracked += (count[0] > 0).long()
        y = scale_and_shift(mean_C, var_C, self.weight, self.bias, *running, count, rows, self.momentum)
        with torch.no_grad():
            torch._foreach_copy_(running, [y.running_mean_C, y.running_var_C])
        return y.scale_C, y.shift_C

    def running(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of each part, [P, C]; their memory is the buffers'."""
        channels = len(self.weight)
        return self.running_mean.view(-1, channels), self.running_var.view(-1, channels)

    def _tracked(
        self, mean_PC: Tensor, var_PC: Tensor, rows: Sequence[int], parts: slice = slice(None)
    ) -> tuple[Tensor, Tensor]:
        """Mean and biased variance over the rows of all ranks, differentiable; the running ones of `parts` follow them."""
        count_P1 = torch.cat([mean_PC.new_full((1, 1), n) for n in rows])
        if not alone():
            mean_PC, var_PC, count_P1 = self._over_ranks(mean_PC, var_PC, rows, parts)
        self._track(mean_PC.detach(), var_PC.detach(), count_P1, parts)
        return mean_PC, var_PC

    def _over_ranks(
        self, mean_PC: Tensor, var_PC: Tensor, rows: Sequence[int], parts: slice
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, biased variance and number of rows [P, 1] of all ranks, by one reduction; differentiable.

        Sums are taken about the running mean, which is the same on every rank: a square of a small number loses less.
        """
        count_P1 = torch.cat([mean_PC.new_full((1, 1), n) for n in rows])
        about_PC, channels = self.running()[0][parts], mean_PC.shape[1]
        shift_PC = mean_PC - about_PC
        sums = all_reduce(torch.cat([count_P1 * shift_PC, count_P1 * (var_PC + shift_PC.square()), count_P1], 1))
        count_P1 = sums[:, -1:].detach()
        shift_PC, square_PC = (sums[:, :-1] / count_P1.clamp(min=1)).split(channels, 1)
        return about_PC + shift_PC, (square_PC - shift_PC.square()).clamp(min=0), count_P1

    @torch.no_grad()
    def _track(self, mean_PC: Tensor, var_PC: Tensor, count_P1: Tensor, parts: slice) -> None:
        self.num_batches_tracked += (count_P1 > 0).sum()
        momentum_P1 = self.momentum * (count_P1 > 1)  # one row has no variance
        unbiased_PC = var_PC * count_P1 / (count_P1 - 1).clamp(min=1)
        for running_PC, batch_PC in zip(self.running(), (mean_PC, unbiased_PC)):
            running_PC[parts] += momentum_P1 * (batch_PC - running_PC[parts])

    def _scale_and_shift(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.weight.float() * torch.rsqrt(var + EPS)
        return scale, self.bias.float() - mean * scale


class BatchNorm2d(BatchNorm):
    """The same for maps [N, C, H, W], which it normalises itself: those of all parts in one batch, part after part."""

    def forward(self, x_NCHW: Tensor, per_part: Sequence[int]) -> Tensor:
        """y_NCHW in the type of x; `per_part`: how many of the N maps each part has."""
        if not self.training or self.torch_can_train(x_NCHW, per_part):
            self.num_batches_tracked += sum(n > 0 for n in per_part) * self.training
            return self._by_torch(x_NCHW.float(), per_part).to(x_NCHW.dtype)
        exact = x_NCHW.float()
        rows = [n * x_NCHW.shape[2:].numel() for n in per_part]

        def mean_of(x_NCHW: Tensor) -> Tensor:
            sums_NC = x_NCHW.sum((2, 3)).split(list(per_part))
            return torch.stack([x.sum(0) / max(1, n) for x, n in zip(sums_NC, rows)])

        def of_each_map(v_PC: Tensor) -> Tensor:
            return torch.cat([v_C.expand(n, -1) for v_C, n in zip(v_PC, per_part)])[..., None, None]

        mean_PC = mean_of(exact)
        var_PC = mean_of((exact - of_each_map(mean_PC)).square())
        scale, shift = map(of_each_map, self._scale_and_shift(*self._tracked(mean_PC, var_PC, rows)))
        return torch.addcmul(shift, exact, scale).to(x_NCHW.dtype)

    def track(self, mean_C: Tensor, var_C: Tensor, rows: int, part: int) -> None:
        """Let the running statistics of a part follow those of its maps, this rank's alone."""
        self._track(mean_C[None], var_C[None], mean_C.new_full((1, 1), rows), slice(part, part + 1))

    def torch_can_train(self, x_NCHW: Tensor, per_part: Sequence[int]) -> bool:
        """Whether torch's own does in training what is wanted: maps of this rank alone, no part with a single value."""
        return alone() and len(x_NCHW) > 0 and all(n * x_NCHW.shape[2:].numel() != 1 for n in per_part)

    def _by_torch(self, x_NCHW: Tensor, per_part: Sequence[int]) -> Tensor:
        """torch's own batch normalisation of each part; the running statistics follow in training."""
        parameters = self.weight.float(), self.bias.float(), self.training, self.momentum, EPS
        filled = [place for place, n in enumerate(per_part) if n]
        if len(filled) > 1:
            parts = x_NCHW.split([per_part[place] for place in filled])
        else:  # as it is: a split copies the gradient, and gives up its layout beside that of an empty part
            filled, parts = filled or [0], [x_NCHW]
        maps = []
        for place, part_NCHW in zip(filled, parts):
            maps.append(batch_norm(part_NCHW, *(of_PC[place] for of_PC in self.running()), *parameters))
        return maps[0] if len(maps) == 1 else torch.cat(maps)
