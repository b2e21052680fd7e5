"""Cases, FLOPs and bytes of the temporal convolution."""

import torch

from ..deferred_activation.spec import activated_bytes, activation_bytes, activation_inputs
from ..spec import Case, KernelSpec
from .op import temporal_conv
from .reference import Clips


def _inputs(shape: dict, random) -> tuple:
    channels, outputs, kernel_size = (shape[name] for name in ("C", "O", "K"))
    x = activation_inputs(_flat(shape), random)
    cu_seqlens = torch.tensor([0, *shape["T"]]).cumsum(0).to(x.conv_out_FVC.device)
    weight_TOC = random(kernel_size, outputs, channels, scale=(channels * kernel_size) ** -0.5)
    return x, Clips.of(cu_seqlens, sum(shape["T"])), weight_TOC, random(outputs), shape["batch_stats"]


def _flat(shape: dict) -> dict:
    return shape | {"F": sum(shape["T"])}


def _flops(shape: dict) -> int:
    """Two for each product and sum; taps beyond the ends of a clip are not counted."""
    reach = shape["K"] // 2
    pairs = sum(max(0, t - abs(shift)) for t in shape["T"] for shift in range(-reach, reach + 1))
    return 2 * pairs * shape["V"] * shape["C"] * shape["O"]


def _weights(shape: dict, itemsize: int) -> int:
    return itemsize * (shape["K"] * shape["C"] * shape["O"] + shape["O"])


def _out(shape: dict, itemsize: int) -> int:
    return itemsize * sum(shape["T"]) * shape["V"] * shape["O"]


def _bytes(shape: dict, itemsize: int) -> int:
    """Reads the activation's tensors and the weights; writes x and the output."""
    x = activated_bytes(_flat(shape), itemsize)
    return activation_bytes(_flat(shape), itemsize) + x + _weights(shape, itemsize) + _out(shape, itemsize)


def _backward_bytes(shape: dict, itemsize: int) -> int:
    """Reads what the activation is made of, x, the output, its gradient and the weights; writes the gradients of the
    activation's tensors and of the weights.
    """
    twice = activation_bytes(_flat(shape), itemsize) + _weights(shape, itemsize) + _out(shape, itemsize)
    return 2 * twice + activated_bytes(_flat(shape), itemsize)


_MODEL = {"C": 256, "O": 256, "K": 5, "X": "scaled", "batch_stats": True}

SPEC = KernelSpec(
    operation=temporal_conv,
    inputs=_inputs,
    cases=(
        Case(
            {"T": [6, 1, 9, 2], "V": 21, "C": 40, "O": 24, "K": 5, "X": "scaled", "batch_stats": True},
            "ragged clips, one of a single frame",
        ),
        Case({"T": [8, 3], "V": 9, **_MODEL}, "the model's channels"),
        Case(
            {"T": [5], "V": 18, "C": 3, "O": 130, "K": 3, "X": "both scaled", "batch_stats": True},
            "few inputs; one output more than a tile",
        ),
        Case(
            {"T": [3, 0, 4], "V": 1, "C": 16, "O": 16, "K": 1, "X": "plain", "batch_stats": False},
            "an empty clip, one joint, one tap",
        ),
        Case({"T": [], "V": 21, "C": 16, "O": 16, "K": 5, "X": "added", "batch_stats": True}, "no clips"),
    ),
    training=tuple(
        Case({"T": [240] * 16, "V": v, **_MODEL}, f"16 clips of 240 frames, {v} joints") for v in (9, 18, 21)
    ),
    flops=_flops,
    backward_flops=lambda shape: 2 * _flops(shape),
    bytes=_bytes,
    backward_bytes=_backward_bytes,
)
