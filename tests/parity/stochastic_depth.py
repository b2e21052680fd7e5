"""Which crops the published code's EfficientNet dropped in a dumped training step.

Stochastic depth draws them at random and a case does not record the draws, but it records their effect: each residual
block is followed by a 1x1 convolution and a BatchNorm, whose updated mean and variance depend on which crops were kept.
With k_n = 1 for a kept crop, k_n^2 = k_n, so the first and second moments are linear in k: a few Gauss-Newton steps
find k, which is rounded to 0 or 1 and checked.
"""

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn

from unisign_fast.model.batch_norm import MOMENTUM
from unisign_fast.model.efficientnet import EfficientNet, MBConv
from unisign_fast.model.rgb_branch import RGBBranch
from unisign_fast.pipelines.batches.packed_batch import PackedBatch
from unisign_fast.pipelines.errors import InputError
from unisign_fast.published.layout import mixed

STEPS = 10
AGREEMENT = 1e-4  # of recovered and dumped statistics, in units of the channel's spread
BACKBONE = "rgb_support_backbone.0."


class KeptCrops(nn.Module):
    """Stands in for StochasticDepth: the given crops are kept, a 1 each; the others are 0.

    A call takes as many as it has crops, and the next call those after them; after the last crop it starts over.
    """

    def __init__(self, p: float, kept_N: Tensor):
        super().__init__()
        self.p, self.next_N = p, kept_N

    def forward(self, x_NCHW: Tensor) -> Tensor:
        kept_N = self.next_N[: len(x_NCHW)]
        self.next_N = self.next_N.roll(-len(x_NCHW))
        return x_NCHW * (kept_N / (1 - self.p)).to(x_NCHW.dtype).view(-1, 1, 1, 1)


@torch.no_grad()
def keep_crops_of_case(rgb: RGBBranch, batch: PackedBatch, after: dict[str, Tensor]) -> None:
    """Make forward passes in training of `rgb` drop the crops that the published step dropped.

    `after`: the published running statistics after that step. Raises InputError if the statistics do not determine
    them.
    """
    backbone: EfficientNet = copy.deepcopy(rgb.backbone).train()
    names = {module: name for name, module in backbone.named_modules()}
    blocks = [module for module in backbone.modules() if isinstance(module, MBConv)]
    both = batch.crops_per_hand
    hands = backbone[0](rgb.pixels(batch.crops), both).split(both)
    for block, following in pairwise([*blocks, backbone[-1]]):
        branches = block.branch(torch.cat(hands), both).split(both)
        depth = block.stochastic_depth
        if block.residual and depth.p > 0:
            conv, norm = following.block[0] if isinstance(following, MBConv) else following
            statistics = [after[f"{BACKBONE}{names[norm]}.running_{kind}"] for kind in ("mean", "var")]
            scaled = [branch / (1 - depth.p) for branch in branches]
            kept = _recover(conv, norm, hands, scaled, statistics)
            rgb.backbone.get_submodule(names[block]).stochastic_depth = KeptCrops(depth.p, torch.cat(kept))
            branches = [KeptCrops(depth.p, k)(b) + x for k, b, x in zip(kept, branches, hands)]
        hands = branches


def _recover(
    conv: nn.Conv2d, norm: nn.Module, inputs: list[Tensor], branches: list[Tensor], after: list[Tensor]
) -> list[Tensor]:
    """[N] of 0 and 1 for each hand, such that inputs + k * branches give the statistics `after` the step."""
    constant, linear = zip(*(_moments(conv, x, b) for x, b in zip(inputs, branches)))
    m, sizes = MOMENTUM, [x.shape[0] for x in inputs]
    weights = (m * (1 - m), m)  # the right hand's update followed the left hand's
    before = [mixed(running).double() for running in norm.running()]
    target_2C = torch.cat([a.double() - (1 - m) ** 2 * b for a, b in zip(after, before)])
    cells = [x.shape[0] * x.shape[2] * x.shape[3] for x in inputs]
    spread_C = after[1].double().sqrt()
    unit_2C = torch.cat([spread_C, spread_C.square()])

    def predict(kept_N: Tensor) -> tuple[Tensor, Tensor]:
        value, jacobian = 0.0, []
        for hand, k in enumerate(kept_N.split(sizes)):
            mean, square = (constant[hand] + linear[hand] @ k).chunk(2)
            mean_CN, square_CN = linear[hand].chunk(2)
            unbiased = cells[hand] / (cells[hand] - 1)
            value = value + weights[hand] * torch.cat([mean, unbiased * (square - mean.square())])
            var_CN = unbiased * (square_CN - 2 * mean[:, None] * mean_CN)
            jacobian.append(weights[hand] * torch.cat([mean_CN, var_CN]))
        return value, torch.cat(jacobian, 1)

    kept_N = torch.ones(sum(sizes), dtype=torch.float64)
    for _ in range(STEPS):
        value, jacobian = predict(kept_N)
        error_2C1 = ((target_2C - value) / unit_2C)[:, None]
        kept_N = kept_N + torch.linalg.lstsq(jacobian / unit_2C[:, None], error_2C1, driver="gelsd").solution[:, 0]
    kept_N = kept_N.round().clamp(0, 1)
    if not ((predict(kept_N)[0] - target_2C) / unit_2C).abs().max() < AGREEMENT:
        raise InputError(
            "CASE: train/bn_after", "does not tell which crops stochastic depth dropped", "dump a smaller batch"
        )
    return list(kept_N.split(sizes))


def _moments(conv: nn.Conv2d, x_NCHW: Tensor, branch_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """First and second moment of conv(x + k * branch) a channel: constant [2C] and what is linear in k [2C, N]."""
    a, b = (nn.functional.conv2d(t.double(), conv.weight.double()) for t in (x_NCHW, branch_NCHW))
    crops = x_NCHW.shape[0]
    constant_2C = torch.cat([a.mean((0, 2, 3)), a.square().mean((0, 2, 3))])
    linear_2CN = torch.cat([b.mean((2, 3)), (2 * a * b + b.square()).mean((2, 3))], 1).T / crops
    return constant_2C, linear_2CN
