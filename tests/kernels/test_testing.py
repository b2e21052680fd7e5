"""What `check` allows in bfloat16."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from unisign_fast.kernels.dispatch import Operation
from unisign_fast.kernels.geglu.spec import SPEC
from unisign_fast.kernels.testing import check


class _Repeat(torch.autograd.Function):
    """A scalar four times; in bfloat16 its gradient is off by `error(upstream)`."""

    @staticmethod
    def forward(ctx, scalar: Tensor, error: Callable[[Tensor], float]) -> Tensor:
        ctx.error = error
        return scalar.repeat(4)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        error = ctx.error(grad) if grad.dtype == torch.bfloat16 else 0
        return grad.double().sum().add(error).to(grad.dtype), None


def _right_by_chance(upstream: Tensor) -> float:
    """The reference's error: zero for the first of the upstream gradients that `check` draws, not for the second."""
    return 0.0 if upstream[1] > 0 else 0.125


@pytest.mark.parametrize("error, correct", [(0.125, True), (0.5, False)])
def test_a_reference_that_is_right_by_chance_refuses_no_kernel_that_errs_alike(error, correct):
    operation = Operation(
        "repeat",
        lambda scalar: _Repeat.apply(scalar, _right_by_chance),
        lambda scalar: _Repeat.apply(scalar, lambda _: error),
    )
    spec = replace(SPEC, operation=operation, inputs=lambda _, random: (random(),))
    rows = check(spec, "gpu", {}, torch.bfloat16, "cpu")
    assert [off <= allowed for off, allowed in rows] == [True, correct]
