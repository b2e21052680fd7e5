"""Cases, FLOPs, bytes and launches of bn_silu, for tests and benchmarks.

A case: `parts`, crops of each part; `padding`, crops after them; C channels; S cells a side; `activate`; `training`.
What a CPU alone fuses behind the normalization: `E`, hidden units of squeeze and excitation; `O`, outputs of a 1x1
convolution, -k for a depthwise k x k one.
"""

from typing import Any

import torch

from ..spec import Case, KernelSpec
from .convolution import Conv
from .op import bn_silu
from .reference import Excitation, Norm, Parts


def case(parts: tuple[int, ...], C: int, S: int, reason: str, padding=0, activate=True, training=True) -> Case:
    """One call's sizes, and why these."""
    return Case(
        {"parts": parts, "padding": padding, "C": C, "S": S, "activate": activate, "training": training}, reason
    )


CASES = (
    case((2, 3), 24, 9, "two hands of different counts; tiles not full"),
    case((2, 1), 40, 5, "padding to a bucket", padding=2),
    case((0, 3), 70, 4, "an empty part; a block of columns not full"),
    case((1, 2), 33, 1, "a single value a channel; odd channels", padding=1),
    case((3, 2), 16, 7, "without SiLU", activate=False, padding=1),
    case((2, 2), 130, 3, "evaluation: statistics are constants", training=False),
    case((5,), 8, 12, "one part; more tiles than one"),
    case((0, 0), 16, 4, "no crops"),
)
TRAINING = (  # the crops of 16 clips at p_samp 0.1
    case((384, 384), 32, 56, "the stem"),
    case((384, 384), 1280, 4, "the head"),
)


def _inputs(shape: dict[str, Any], random) -> tuple:
    """Arguments of `bn_silu`; the running statistics are neither zero nor one, and want no gradient."""
    parts, channels, side, hidden, outputs = (shape.get(name, 0) for name in ("parts", "C", "S", "E", "O"))
    x_NCHW = random(sum(parts) + shape["padding"], side, side, channels).permute(0, 3, 1, 2)
    running = [random(len(parts) * channels, exact=True).detach() for _ in range(2)]
    weight_C, bias_C = random(channels), random(channels)
    tracked = torch.zeros((), dtype=torch.int64, device=x_NCHW.device)
    norm = Norm(weight_C, bias_C, running[0], running[1].square() + 0.5, tracked, 0.2)
    excitation = conv = None
    if hidden:
        sizes = (hidden, channels), (hidden,), (channels, hidden), (channels,)
        excitation = Excitation(*(random(*size, scale=size[-1] ** -0.5) for size in sizes))
    if outputs > 0:
        conv = Conv(random(outputs, channels, 1, 1, scale=channels**-0.5))
    elif outputs:
        conv = Conv(random(channels, 1, -outputs, -outputs, scale=0.3), groups=channels)
    return x_NCHW, Parts.of(parts, x_NCHW), norm, shape["training"], shape["activate"], excitation, conv


def _values(shape: dict[str, Any]) -> int:
    return (sum(shape["parts"]) + shape["padding"]) * shape["C"] * shape["S"] ** 2


def _forward_bytes(shape: dict[str, Any], itemsize: int) -> int:
    """Read x, write the result."""
    return 2 * itemsize * _values(shape)


def _backward_bytes(shape: dict[str, Any], itemsize: int) -> int:
    """Read x and the result's gradient, write the gradient of x."""
    return 3 * itemsize * _values(shape)


SPEC = KernelSpec(
    operation=bn_silu,
    inputs=_inputs,
    cases=CASES,
    training=TRAINING,
    flops=lambda shape: 8 * _values(shape),  # scale, shift and SiLU as four, the moments as four
    backward_flops=lambda shape: 12 * _values(shape),  # through SiLU and the statistics
    bytes=_forward_bytes,
    backward_bytes=_backward_bytes,
)
