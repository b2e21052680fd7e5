"""Cases, FLOPs and bytes of attention. Q and S: lengths of each sequence's queries and keys; H heads of C channels.

Without S it is self-attention. padded: the bias has the sizes that GPU kernels take without a copy.
"""

import torch

from ..packing import Packing
from ..spec import Case, KernelSpec
from .op import bias_size, varlen_attention


def _inputs(shape: dict, random) -> tuple:
    heads, width = shape["H"], shape["H"] * shape["C"]
    rows = random(sum(shape["Q"]), (1 if "S" in shape else 3) * width)
    queries = Packing(shape["Q"], rows.device)
    keys = Packing(shape["S"], rows.device) if "S" in shape else queries
    for packing in (queries, keys):
        _ = packing.cu_seqlens  # computed before the call, as in the model: torch.compile traces no cached_property
    projected = (rows, random(sum(shape["S"]), 2 * width)) if "S" in shape else (rows,)
    longest = queries.longest, keys.longest
    size = map(bias_size, longest) if shape.get("padded", True) else longest
    bias = random(heads, *size) if shape["bias"] else None
    p = shape.get("p", 0.0)
    seed = torch.full((1,), 5, device=rows.device) if p else None
    return projected, bias, queries, keys, heads, shape.get("causal", False), p, seed


def _pairs(shape: dict) -> int:
    pairs = sum(q * s for q, s in zip(shape["Q"], shape.get("S", shape["Q"])))
    return (pairs + sum(shape["Q"])) // 2 if shape.get("causal") else pairs


def _flops(shape: dict) -> int:
    return 4 * _pairs(shape) * shape["H"] * shape["C"]


def _bytes(shape: dict, itemsize: int) -> int:
    rows = 2 * sum(shape["Q"]) + 2 * sum(shape.get("S", shape["Q"]))
    bias = max(shape["Q"]) * max(shape.get("S", shape["Q"])) if shape["bias"] else 0
    return itemsize * shape["H"] * (rows * shape["C"] + bias)


_MODEL = {"H": 12, "C": 64}
_ENCODER = {"Q": [260] * 16, **_MODEL, "bias": True}
_RAGGED = [256 + 10, 91, 150, 64, 203, 128, 266, 77] * 8  # positions of 64 clips
_DECODER = {"Q": [35] * 16, **_MODEL, "bias": True, "causal": True}
_CROSS = {"Q": [35] * 16, "S": [260] * 16, **_MODEL, "bias": False}

SPEC = KernelSpec(
    operation=varlen_attention,
    inputs=_inputs,
    cases=(
        Case({"Q": [70, 1, 130], "H": 2, "C": 8, "bias": True}, "self-attention of ragged sequences, several tiles"),
        Case({"Q": [3, 70, 5], "S": [140, 6, 2], "H": 2, "C": 8, "bias": False}, "cross-attention without a bias"),
        Case({"Q": [70, 2, 65], "H": 2, "C": 12, "bias": True, "causal": True}, "causal self-attention"),
        Case({"Q": [33, 64] * 5, "H": 1, "C": 16, "bias": True}, "many sequences: the bias's gradient in two rounds"),
        Case({"Q": [3, 17], "H": 2, "C": 8, "bias": True, "padded": False}, "a bias without padding"),
        Case({"Q": [1], "S": [1], "H": 3, "C": 16, "bias": True}, "a single pair"),
    ),
    training=(
        Case(_ENCODER, "encoder: 16 clips of 260 positions"),
        Case({**_ENCODER, "Q": _RAGGED}, "encoder: 64 clips of different lengths"),
        Case(_DECODER, "decoder: 35 tokens"),
        Case(_CROSS, "cross-attention of 35 tokens"),
    ),
    random=tuple(Case({**shape, "p": 0.1}, "with dropout") for shape in (_ENCODER, _DECODER, _CROSS)),
    flops=_flops,
    backward_flops=lambda shape: 5 * _flops(shape) // 2,
    bytes=_bytes,
    backward_bytes=lambda shape, itemsize: 2 * _bytes(shape, itemsize),
)
