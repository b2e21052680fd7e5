"""Dropout whose random numbers cost little on a CPU.

torch draws them there one by one, 11 ns each in a single thread: a tenth of mT5-Base's training step. Here a compiled
loop draws 64 bits for four elements (SplitMix64: Steele, Lea and Flood, 2014), from a seed that is torch's next number.
"""

import numba
import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from unisign_fast.kernels.cpu.loops import parallel, run

_LEVELS = 2**16  # of the probability
_STEP, _FACTOR_1, _FACTOR_2 = map(np.uint64, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_BITS_27, _BITS_30, _BITS_31, _BITS_16 = map(np.uint64, (27, 30, 31, 16))


class Dropout(nn.Dropout):
    """torch's, but on a CPU its probability is rounded to 1 / 65,536; the mean of the result is that of x."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0 or x.device.type != "cpu":
            return super().forward(x)
        return _Dropout.apply(x, self.p)


def replace_dropout(model: nn.Module, kind: type[nn.Dropout]) -> None:
    """Every dropout inside becomes one of this kind."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout):
                setattr(module, name, kind(child.p))


def kept(shape: torch.Size, p: float) -> tuple[Tensor, float]:
    """What is kept, uint8 ones on the CPU, and what it is multiplied by to make up for the rest."""
    dropped = max(1, round(p * _LEVELS))
    kept_N4 = torch.empty(-(-shape.numel() // 4), 4, dtype=torch.uint8)
    run(_draw, np.uint64(torch.randint(2**63 - 1, ()).item()), np.uint64(dropped), kept_N4)
    return kept_N4.view(-1)[: shape.numel()].view(shape), _LEVELS / max(1, _LEVELS - dropped)


@parallel
def _draw(seed, dropped, kept_N4):
    for n in numba.prange(len(kept_N4)):
        bits = seed + np.uint64(n) * _STEP
        bits = (bits ^ (bits >> _BITS_30)) * _FACTOR_1
        bits = (bits ^ (bits >> _BITS_27)) * _FACTOR_2
        bits ^= bits >> _BITS_31
        for place in range(4):
            kept_N4[n, place] = np.uint16(bits) >= dropped
            bits >>= _BITS_16


@numba.njit
def drop(x_N, mask_N, scale):
    """Within compiled loops: dropout in place by what is `kept`; nothing where the mask is None."""
    if mask_N is not None:
        for n in range(len(x_N)):
            x_N[n] *= mask_N[n] * scale


class _Dropout(Function):
    @staticmethod
    def forward(ctx, x: Tensor, p: float) -> Tensor:
        mask, ctx.scale = kept(x.shape, p)
        ctx.save_for_backward(mask)
        return (x * mask).mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y: Tensor):
        return (grad_y * ctx.saved_tensors[0]).mul_(ctx.scale), None
