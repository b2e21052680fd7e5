"""Continuous position bias: the operation that the model calls."""

from typing import Any

from torch import Tensor

from ..dispatch import Operation
from .reference import position_bias as reference

MOST_HIDDEN = 64  # the backward pass holds an H x H sum in registers


def _gpu(*arguments: Any) -> Tensor:
    from .triton_kernel import forward

    *positions, layers = arguments
    return forward(*positions, [tensor for layer in layers for tensor in layer])


def _refusal(_: Tensor, __: Tensor, layers: list[tuple[Tensor, Tensor]]) -> str | None:
    hidden = [weight.shape[0] for weight, _ in layers]
    if len(layers) != 3 or hidden[0] != hidden[1] or hidden[0] > MOST_HIDDEN:
        return f"the network must be 2 -> H -> H -> 1 with H up to {MOST_HIDDEN}, not {hidden}"
    return None


def _cpu(*arguments: Any) -> Tensor:
    from .cpu_kernel import position_bias

    return position_bias(*arguments)


position_bias = Operation("position_bias", reference, _gpu, _refusal, _cpu)
