"""Attention of packed sequences on a CPU, one by one: nothing is computed for padding, and a sequence's logits fit the
cache. The backward pass recomputes the weights instead of saving them.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..dropout.cpu_kernel import dropout
from ..packing import Packing
from .reference import split_heads


def varlen_attention(
    projected: tuple[Tensor, ...],
    bias: Tensor | None,
    queries: Packing,
    keys: Packing,
    heads: int,
    causal: bool,
    p: float,
    _: Tensor | None,
) -> Tensor:
    """See kernels/varlen_attention/reference.py."""
    width = projected[0].shape[1] // (3 if len(projected) == 1 else 1)
    parts = [part for x in projected for part in x.split(width, 1)]
    sequences = zip(*(x.split(packing.lengths) for x, packing in zip(parts, (queries, keys, keys))))
    if causal:
        later = torch.full((queries.longest, keys.longest), -torch.inf, dtype=parts[0].dtype).triu(1)
        bias = later if bias is None else bias[:, : queries.longest, : keys.longest] + later
    clips = (checkpoint(_attention, *clip, bias, heads, p, use_reentrant=False) for clip in sequences)
    return torch.cat(list(clips))


def _attention(query_qD: Tensor, key_sD: Tensor, value_sD: Tensor, bias: Tensor | None, heads: int, p: float) -> Tensor:
    """[q, D] of one sequence."""
    query, key, value = (split_heads(x, heads) for x in (query_qD, key_sD, value_sD))
    if bias is None:
        logits = query @ key.mT
    else:
        bias = bias[..., : query.shape[1], : key.shape[1]]
        logits = torch.baddbmm(bias.expand(heads, -1, -1), query, key.mT)
    weights = dropout(logits.softmax(-1, dtype=torch.float32).to(value.dtype), p)
    return (weights @ value).transpose(0, 1).flatten(1)
