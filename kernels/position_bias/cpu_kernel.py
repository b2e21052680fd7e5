"""Continuous position bias on a CPU, in chunks of crops, so that the hidden units of all pairs never reach memory."""

from torch import Tensor

from ..cpu.chunks import chunks, in_chunks
from .reference import position_bias as reference

PAIRS = 16384  # of a chunk; 4 MiB in float32 at 64 hidden units


def position_bias(reference_NV2: Tensor, position_NGV2: Tensor, layers: list[tuple[Tensor, Tensor]]) -> Tensor:
    """See kernels/position_bias/reference.py."""
    crops, groups, joints, _ = position_NGV2.shape

    def bias(reference_NV2: Tensor, position_NGV2: Tensor, *tensors: Tensor) -> Tensor:
        return reference(reference_NV2, position_NGV2, list(zip(tensors[::2], tensors[1::2])))

    slices = chunks(crops, PAIRS // (groups * joints**2))
    return in_chunks(bias, slices, (reference_NV2, position_NGV2), [t for layer in layers for t in layer])
