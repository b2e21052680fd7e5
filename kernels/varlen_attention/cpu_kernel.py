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
    projected: tuple[Tensor, ...], bias: Tensor, queries: Packing, keys: Packing, heads: int, p: float
) -> Tensor:
    """See kernels/varlen_attention/reference.py."""
    width = projected[0].shape[1] // (3 if len(projected) == 1 else 1)
    parts = [part for x in projected for part in x.split(width, 1)]
    sequences = zip(*(x.split(packing.lengths) for x, packing in zip(parts, (queries, keys, keys))))
    biases = bias.expand(len(queries.lengths), -1, -1, -1).unbind()
    clips = (checkpoint(_attention, *clip, b, heads, p, use_reentrant=False) for clip, b in zip(sequences, biases))
    return torch.cat(list(clips))


def _attention(query_qD: Tensor, key_sD: Tensor, value_sD: Tensor, bias: Tensor, heads: int, p: float) -> Tensor:
    """[q, D] of one sequence."""
    query, key, value = (split_heads(x, heads) for x in (query_qD, key_sD, value_sD))
    bias = bias[:, : query.shape[1], : key.shape[1]]
    logits = torch.baddbmm(bias.expand(heads, query.shape[1], -1), query, key.mT)
    weights = dropout(logits.softmax(-1, dtype=torch.float32).to(value.dtype), p)
    return (weights @ value).transpose(0, 1).flatten(1)
