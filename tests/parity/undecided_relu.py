"""How strongly a gradient depends on ReLUs that rounding decides.

Two correct float32 runs of one model put a few units on different sides of zero, and each such unit sends its whole
gradient or nothing: gradients differ by 1e-3 where features differ by 1e-6. Redrawing those slopes measures it.
"""

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class UndecidedReLU(TorchFunctionMode):
    """While active, the slope of every ReLU whose input is within `band` of zero is drawn at random, 0 or 1.

    The same `seed` with the other `side` inverts every draw, so a pair of passes tries both slopes of each unit.
    """

    def __init__(self, band: float, seed: int, side: bool):
        super().__init__()
        self.band, self.side = band, side
        self.coins = torch.Generator().manual_seed(seed)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func not in (Tensor.relu, torch.relu, torch.nn.functional.relu):
            return func(*args, **(kwargs or {}))
        x = args[0]
        heads = (torch.rand(x.shape, generator=self.coins) < 0.5).to(x.device) ^ self.side
        return x * torch.where(x.abs() < self.band, heads, x > 0).to(x.dtype)
