"""Cases, FLOPs and bytes of attention. Q and S: lengths of each sequence's queries and keys; H heads of C channels.

Without S it is self-attention.
"""

import torch

from ..packing import Packing
from ..spec import Case, KernelSpec
from .op import varlen_attention


def _inputs(shape: dict, random) -> tuple:
    heads, width = shape["H"], shape["H"] * shape["C"]
    rows = random(sum(shape["Q"]), 3 * width) if "S" not in shape else random(sum(shape["Q"]), width)
    queries = Packing(shape["Q"], rows.device).aligned()
    keys = Packing(shape["S"], rows.device).aligned() if "S" in shape else queries
    projected = (rows,) if "S" not in shape else (rows, random(sum(shape["S"]), 2 * width))
    mask_BS = keys.mask_BS if not rows.is_meta else torch.ones(len(keys.lengths), keys.longest, device="meta").bool()
    sizes = (len(queries.lengths), heads, queries.longest, keys.longest) if shape["bias"] else (1, 1, 1, 1)
    bias = random(*sizes)
    masked = torch.zeros(mask_BS.shape, dtype=bias.dtype, device=bias.device).masked_fill(~mask_BS, -1e30)
    return projected, (bias + masked[:, None, None]).detach().requires_grad_(), queries, keys, heads, 0.0


def _pairs(shape: dict) -> int:
    return sum(q * s for q, s in zip(shape["Q"], shape.get("S", shape["Q"])))


def _flops(shape: dict) -> int:
    return 4 * _pairs(shape) * shape["H"] * shape["C"]


def _bytes(shape: dict, itemsize: int) -> int:
    rows = 2 * sum(shape["Q"]) + 2 * sum(shape.get("S", shape["Q"]))
    return itemsize * (rows * shape["H"] * shape["C"] + shape["bias"] * _pairs(shape) * shape["H"])


_MODEL = {"H": 12, "C": 64}

SPEC = KernelSpec(
    operation=varlen_attention,
    inputs=_inputs,
    cases=(
        Case({"Q": [3, 1, 17], "H": 2, "C": 8, "bias": True}, "self-attention of ragged sequences"),
        Case({"Q": [3, 1, 5], "S": [4, 6, 2], "H": 2, "C": 8, "bias": False}, "cross-attention, a mask of keys alone"),
        Case({"Q": [16, 16], "H": 1, "C": 8, "bias": True}, "nothing is padded"),
        Case({"Q": [1], "S": [1], "H": 3, "C": 16, "bias": True}, "a single pair"),
    ),
    training=(
        Case({"Q": [260] * 16, **_MODEL, "bias": True}, "encoder: 16 clips of 260 positions"),
        Case({"Q": [35] * 16, "S": [260] * 16, **_MODEL, "bias": False}, "cross-attention of 35 tokens"),
    ),
    flops=_flops,
    backward_flops=lambda shape: 5 * _flops(shape) // 2,
    bytes=_bytes,
    backward_bytes=lambda shape, itemsize: 2 * _bytes(shape, itemsize),
)
