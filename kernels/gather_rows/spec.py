"""Cases and bytes of rows by their index. T: lengths of the sequences, padded to the multiple M; W columns."""

import torch

from ..packing import Packing
from ..spec import Case, KernelSpec
from .op import gather_rows


def _inputs(shape: dict, random) -> tuple:
    """From packed to padded, or if `pack` from padded to packed."""
    packing = Packing(shape["T"], torch.device("cpu"), shape["M"])
    indices = [packing.row_N, packing.slot_P]
    index, inverse = indices[::-1] if shape["pack"] else indices
    x_RW = random(len(inverse), shape["W"])
    return x_RW, index.to(x_RW.device), inverse.to(x_RW.device)


def _bytes(shape: dict, itemsize: int) -> int:
    """Reads the packed rows and writes the padded ones, or the other way round."""
    padded = len(shape["T"]) * -(-max(shape["T"]) // shape["M"]) * shape["M"]
    return (sum(shape["T"]) * 2 + (0 if shape["pack"] else padded - sum(shape["T"]))) * shape["W"] * itemsize


def _backward_bytes(shape: dict, itemsize: int) -> int:
    return _bytes(shape | {"pack": not shape["pack"]}, itemsize)


_TRAINING = {"T": [200, 240, 260, 270] * 4, "M": 16}

SPEC = KernelSpec(
    operation=gather_rows,
    inputs=_inputs,
    cases=(
        Case({"T": [3, 1, 17], "M": 16, "W": 300, "pack": False}, "padding; a tile not full either way"),
        Case({"T": [3, 1, 17], "M": 16, "W": 300, "pack": True}, "packing"),
        Case({"T": [5, 5], "M": 1, "W": 7, "pack": False}, "nothing is padded"),
    ),
    training=(
        Case({**_TRAINING, "W": 2304, "pack": False}, "queries, keys and values of 16 clips"),
        Case({**_TRAINING, "W": 768, "pack": True}, "what attention returns for 16 clips"),
    ),
    flops=lambda shape: 0,
    backward_flops=lambda shape: 0,
    bytes=_bytes,
    backward_bytes=_backward_bytes,
)
