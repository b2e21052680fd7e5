"""Cases, FLOPs and bytes of mbconv, for tests and benchmarks.

A case: `parts`, crops of each part; `padding`, crops after them; C channels of S x S cells; E channels after the
expansion, equal to C without one; `hidden`, units of squeeze and excitation; O outputs; K, size of the depthwise
kernel; `stride`; `training`.
"""

# ruff: noqa: E741  (O: output channels, the shape suffix)
from typing import Any

import torch

from ..bn_silu.convolution import Conv
from ..bn_silu.reference import Excitation, Norm, Parts
from ..spec import Case, KernelSpec
from .op import mbconv
from .reference import Block, Layer


def case(
    parts: tuple[int, ...], C: int, S: int, E: int, O: int, reason: str, K=3, stride=1, padding=0, training=True
) -> Case:  # fmt: skip
    """One call's sizes, and why these."""
    sizes = {"parts": parts, "padding": padding, "C": C, "S": S, "E": E, "O": O, "hidden": max(1, C // 4), "K": K}
    return Case(sizes | {"stride": stride, "training": training}, reason)


CASES = (  # few crops: the interpreter is slow, and a batch of three has twelve programs a kernel
    case((1, 1), 8, 5, 24, 16, "two hands; odd sides; tiles not full"),
    case((1, 1), 16, 5, 24, 40, "k 5 with stride 2, odd sides; padding to a bucket", K=5, stride=2, padding=1),
    case((1, 1), 8, 6, 16, 8, "k 3 with stride 2, even sides", stride=2),
    case((1, 2), 24, 3, 24, 16, "no expansion; hands of different counts"),
    case((0, 1), 17, 3, 70, 33, "an empty part, one crop, blocks of channels not full; k 5", K=5),
    case((1, 1), 8, 3, 24, 8, "evaluation: statistics are constants", stride=2, training=False),
    case((0, 0), 8, 4, 16, 8, "no crops"),
)
TRAINING = (  # the crops of 16 clips at p_samp 0.1
    case((384, 384), 32, 56, 32, 16, "the first block, without expansion"),
    case((384, 384), 16, 56, 96, 24, "the largest expansion, k 3 with stride 2", stride=2),
    case((384, 384), 24, 28, 144, 40, "k 5 with stride 2", K=5, stride=2),
    case((384, 384), 40, 14, 240, 40, "14 x 14, k 5", K=5),
    case((384, 384), 80, 7, 480, 80, "7 x 7, k 3"),
    case((384, 384), 192, 4, 1152, 320, "the widest projection"),
    case((384, 384), 192, 4, 1152, 192, "the widest of k 5", K=5),
)


def _inputs(shape: dict[str, Any], random) -> tuple:
    """Arguments of `mbconv`; the running statistics are neither zero nor one, and want no gradient."""
    parts, side, channels, wide, outputs = (shape[name] for name in ("parts", "S", "C", "E", "O"))
    hidden, kernel_size = shape["hidden"], shape["K"]
    x_NCHW = random(sum(parts) + shape["padding"], side, side, channels).permute(0, 3, 1, 2)

    def layer(size: tuple[int, ...], stride: int = 1, groups: int = 1) -> Layer:
        conv = Conv(random(*size, scale=(size[1] * size[2] ** 2) ** -0.5), stride, groups)
        running = [random(len(parts) * size[0], exact=True).detach() for _ in range(2)]
        tracked = torch.zeros((), dtype=torch.int64, device=x_NCHW.device)
        scale = (random(size[0], scale=0.3).detach() + 1).requires_grad_()  # near zero, a channel's gradients cancel
        norm = Norm(scale, random(size[0]), running[0], running[1].square() + 0.5, tracked, 0.2)
        return Layer(conv, norm)

    expand = layer((wide, channels, 1, 1)) if wide != channels else None
    depthwise = layer((wide, 1, kernel_size, kernel_size), shape["stride"], wide)
    sizes = (hidden, wide), (hidden,), (wide, hidden), (wide,)
    excitation = Excitation(*(random(*size, scale=size[-1] ** -0.5) for size in sizes))
    block = Block(expand, depthwise, excitation, layer((outputs, wide, 1, 1)))
    return x_NCHW, Parts.of(parts, x_NCHW), block, shape["training"]


def _cells(shape: dict[str, Any]) -> tuple[int, int]:
    """Rows of the map that is read, and of the one that is written."""
    crops = sum(shape["parts"]) + shape["padding"]
    return crops * shape["S"] ** 2, crops * (-(-shape["S"] // shape["stride"])) ** 2


def _products(shape: dict[str, Any]) -> int:
    """Multiplications of all three convolutions."""
    rows, out_rows = _cells(shape)
    expand = rows * shape["C"] * shape["E"] if shape["E"] != shape["C"] else 0
    return expand + out_rows * shape["E"] * (shape["K"] ** 2 + shape["O"])


def _flops(shape: dict[str, Any]) -> int:
    """Two a multiplication; twelve for the normalization and SiLU of each value that the wide convolutions write."""
    rows, out_rows = _cells(shape)
    return 2 * _products(shape) + 12 * (rows + out_rows) * shape["E"]


def _backward_flops(shape: dict[str, Any]) -> int:
    """Twice those."""
    return 2 * _flops(shape)


def _bytes(shape: dict[str, Any], itemsize: int) -> int:
    """Statistics need all of a map before any of it is normalized: every convolution's output is written and read."""
    rows, out_rows = _cells(shape)
    wide = (rows if shape["E"] != shape["C"] else 0) + out_rows
    return itemsize * (rows * shape["C"] + 2 * wide * shape["E"] + 3 * out_rows * shape["O"])


def _backward_bytes(shape: dict[str, Any], itemsize: int) -> int:
    """The outputs, read, and their gradients before and after normalization, written and read; x and its gradient."""
    rows, out_rows = _cells(shape)
    wide = (rows if shape["E"] != shape["C"] else 0) + out_rows
    return itemsize * (2 * rows * shape["C"] + 4 * wide * shape["E"] + 4 * out_rows * shape["O"])


SPEC = KernelSpec(
    operation=mbconv,
    inputs=_inputs,
    cases=CASES,
    training=TRAINING,
    flops=_flops,
    backward_flops=_backward_flops,
    bytes=_bytes,
    backward_bytes=_backward_bytes,
)
