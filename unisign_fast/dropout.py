"""Dropout whose random numbers cost little on a CPU.

torch draws them there one by one, 11 ns each in a single thread: a tenth of mT5-Base's training step. Here one draw
gives 64 bits, which serve four elements.
"""

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

_LEVELS = 2**16  # of the probability


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
    count = shape.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count]
    return (bits > dropped - _LEVELS // 2 - 1).view(torch.uint8).view(shape), _LEVELS / max(1, _LEVELS - dropped)


class _Dropout(Function):
    @staticmethod
    def forward(ctx, x: Tensor, p: float) -> Tensor:
        mask, ctx.scale = kept(x.shape, p)
        ctx.save_for_backward(mask)
        return (x * mask).mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx, of_y: Tensor):
        return (of_y * ctx.saved_tensors[0]).mul_(ctx.scale), None
