"""Attention of packed sequences on a GPU: PyTorch's memory-efficient attention, chosen by name.

scaled_dot_product_attention would choose by itself: cuDNN first on Hopper, which has no gradient for a bias and raises,
and flash attention takes no bias. The memory-efficient kernel has both, forward and backward. Its bias must be
contiguous in rows whose stride is a multiple of 8: an aligned `Packing` makes it so once for all layers. From sm_80 on,
PyTorch has it only for heads of a multiple of 16 bytes.
"""

import torch
from torch import Tensor

from ..gather_rows.op import gather_rows
from ..packing import Packing
from .reference import padded_heads

BIAS_ALIGNMENT = 8  # elements
HEAD_ALIGNMENT = 16  # bytes


def varlen_attention(
    projected: tuple[Tensor, ...], bias: Tensor, queries: Packing, keys: Packing, heads: int, p: float
) -> Tensor:
    """See kernels/varlen_attention/reference.py."""
    query, key, value = padded_heads([_pad(x, packing) for x, packing in zip(projected, (queries, keys))], heads)
    bias = bias.to(query.dtype).expand(*query.shape[:3], key.shape[2])
    out_ND = efficient_attention(query, key, value, bias, p).transpose(1, 2).flatten(0, 1).flatten(1)
    return out_ND if queries.rows == len(out_ND) else gather_rows(out_ND, queries.slot_P, queries.row_N)


def _pad(x_PC: Tensor, packing: Packing) -> Tensor:
    """[B, S, C], like `Packing.pad`; forward and backward are one launch each."""
    shape = len(packing.lengths), packing.longest, x_PC.shape[1]
    full = packing.rows == shape[0] * shape[1]
    return (x_PC if full else gather_rows(x_PC, packing.row_N, packing.slot_P)).view(shape)


def efficient_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, p: float) -> Tensor:
    """[B, H, S, C]"""
    needs_grad = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value, bias))
    out, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, needs_grad, p, is_causal=False, scale=1.0
    )
    return out


def refusal(
    projected: tuple[Tensor, ...], bias: Tensor, queries: Packing, keys: Packing, heads: int, _: float
) -> str | None:
    """Why the kernel cannot take these arguments, or None if it can."""
    channels = projected[0].shape[1] // ((3 if len(projected) == 1 else 1) * heads)
    multiple = HEAD_ALIGNMENT // projected[0].element_size()
    if channels % multiple:
        return f"{channels} channels of a head are not a multiple of {multiple}"
    if bias.stride(-1) != 1 or any(stride % BIAS_ALIGNMENT for stride in bias.stride()[:-1]):
        return f"the bias has strides {bias.stride()}: rows must be contiguous, {BIAS_ALIGNMENT} elements apart or more"
    return None
