"""Attention of packed sequences in plain PyTorch: the reference that every faster version is tested against."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import dropout

from ..packing import Packing


def split_heads(x_BSD: Tensor, heads: int) -> Tensor:
    """[B, H, S, C], a view: the channels of each head."""
    return x_BSD.unflatten(-1, (heads, -1)).transpose(-2, -3)


def padded_heads(padded: Sequence[Tensor], heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [B, H, S, C] of what `varlen_attention` takes as `projected`, once padded."""
    width = padded[0].shape[-1] // (3 if len(padded) == 1 else 1)
    query, key, value = (split_heads(part, heads) for x in padded for part in x.split(width, -1))
    return query, key, value


def allowed_pairs(queries: Packing, keys: Packing, causal: bool) -> Tensor:
    """[B, 1, S or 1, T], bool: True where a query may attend to a key."""
    mask_B11T = keys.mask_BS[:, None, None]
    if not causal:
        return mask_B11T
    ones = torch.ones(queries.longest, keys.longest, dtype=torch.bool, device=queries.device)
    return mask_B11T & ones.tril()


def varlen_attention(
    projected: tuple[Tensor, ...],
    bias: Tensor | None,
    queries: Packing,
    keys: Packing,
    heads: int,
    causal: bool,
    p: float,
    seed: Tensor | None,
) -> Tensor:
    """softmax(q k^T + bias) v of each sequence and head, with dropout of the weights (T5, Raffel et al. 2020: the
    logits are not scaled). Softmax in float32 at least.

    Args:
        projected: queries, keys and values side by side, [P, 3 D], of self-attention; of cross-attention the queries
            [Q, D] and then keys and values side by side [P, 2 D].
        bias: [H, S or more, T or more], added to the logits of all sequences; S and T are the longest sequence's
            queries and keys.
        queries, keys: the same packing for self-attention.
        causal: a query attends to no key after it; for self-attention.
        p: the probability of dropping a weight.
        seed: [1] int64, the seed from which the backward pass redraws the mask (kernels/dropout); None if torch's
            generator draws it.
    Returns:
        [Q, D], D = H C.
    """
    query, key, value = padded_heads([packing.pad(x) for x, packing in zip(projected, (queries, keys))], heads)
    logits_BHST = query @ key.mT
    if bias is not None:
        logits_BHST = logits_BHST + bias[:, : queries.longest, : keys.longest]
    logits_BHST = logits_BHST.masked_fill(~allowed_pairs(queries, keys, causal), -torch.inf)
    exact = torch.promote_types(logits_BHST.dtype, torch.float32)
    weights_BHST = dropout(logits_BHST.softmax(-1, dtype=exact).to(value.dtype), p)
    return queries.pack((weights_BHST @ value).transpose(1, 2).flatten(2))
