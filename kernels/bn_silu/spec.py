"""Cases, FLOPs, bytes and launches of bn_silu, for tests and benchmarks.

A case: `parts`, crops of each part; `padding`, crops after them; C channels; S cells a side; and of what follows the
normalization: `E`, hidden units of squeeze and excitation, 0 without; `O`, outputs of a 1x1 convolution, -k for a
depthwise k x k one, 0 without; `activate`; `training`.
"""

from typing import Any

import torch

from ..spec import Case, KernelSpec
from .convolution import Conv
from .op import bn_silu
from .reference import Excitation, Norm, Parts


def case(
    parts: tuple[int, ...], C: int, S: int, reason: str, padding=0, E=0, outputs=0, activate=True, training=True
) -> Case:
    """One call's sizes, and why these."""
    sizes = {
        "parts": parts,
        "padding": padding,
        "C": C,
        "S": S,
        "E": E,
        "O": outputs,
        "activate": activate,
        "training": training,
    }
    return Case(sizes, reason)


CASES = (
    case((2, 3), 24, 9, "two hands of different counts; tiles not full; the next convolution depthwise", outputs=-3),
    case(
        (2, 1), 40, 5, "squeeze and excitation, then a 1x1 convolution; padding to a bucket", padding=2, E=6, outputs=16
    ),
    case((0, 3), 70, 4, "an empty part; a block of columns not full", E=5),
    case((1, 2), 33, 1, "a single value a channel; odd channels", padding=1, outputs=8),
    case((3, 2), 16, 7, "without SiLU", activate=False, padding=1),
    case((2, 2), 130, 3, "evaluation: statistics are constants", E=8, outputs=-5, training=False),
    case((5,), 8, 12, "one part; more tiles than one"),
    case((0, 0), 16, 4, "no crops", outputs=8),
)
TRAINING = (  # the crops of 16 clips at p_samp 0.1; a layer of each kind and size of map
    case((384, 384), 96, 56, "the largest expansion, before its depthwise convolution", outputs=-3),
    case((384, 384), 144, 28, "the widest gated map of 28 x 28, before its projection", E=6, outputs=40),
    case((384, 384), 80, 7, "a projection: no SiLU", activate=False),
    case((384, 384), 1152, 4, "the widest map, gated, before its projection", E=48, outputs=192),
    case((384, 384), 1280, 4, "the head"),
)


def _inputs(shape: dict[str, Any], random) -> tuple:
    """Arguments of `bn_silu`; the running statistics are neither zero nor one, and want no gradient."""
    parts, channels, side, hidden, outputs = (shape[name] for name in ("parts", "C", "S", "E", "O"))
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


def _products(shape: dict[str, Any]) -> int:
    """Multiplications of the convolution for each value of the map: its outputs, or k * k."""
    return shape["O"] if shape["O"] >= 0 else shape["O"] ** 2


def _written(shape: dict[str, Any]) -> int:
    """Values of the result."""
    return _values(shape) * shape["O"] // shape["C"] if shape["O"] > 0 else _values(shape)


def _flops(shape: dict[str, Any]) -> int:
    """Scale, shift and SiLU as four a value, the moments as four, and the convolution."""
    return _values(shape) * (8 + 2 * _products(shape))


def _backward_flops(shape: dict[str, Any]) -> int:
    """Twice the convolution, and twelve a value for the gradient through SiLU and the statistics."""
    return _values(shape) * (12 + 4 * _products(shape))


def _forward_bytes(shape: dict[str, Any], itemsize: int) -> int:
    """Read x, write the result: that of the convolution where there is one."""
    return itemsize * (_values(shape) + _written(shape))


def _backward_bytes(shape: dict[str, Any], itemsize: int) -> int:
    """Read x and the result's gradient, write the gradient of x."""
    return _forward_bytes(shape, itemsize) + itemsize * _values(shape)


SPEC = KernelSpec(
    operation=bn_silu,
    inputs=_inputs,
    cases=CASES,
    training=TRAINING,
    flops=_flops,
    backward_flops=_backward_flops,
    bytes=_forward_bytes,
    backward_bytes=_backward_bytes,
)
