"""Attention of packed sequences, one after the other: what a CPU does in the place of padding.

A sequence's logits fit the cache, and nothing is computed for padding. Of the weights of attention only what dropout
keeps of them is remembered, a byte each; the backward pass computes them again.

P and Q packed rows of keys and queries; of one sequence s keys and q queries; H heads, C channels of a head.
"""

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from unisign_fast.dropout import kept
from unisign_fast.packing import Packing


def clip_attention(
    query_QD: Tensor,
    key_PD: Tensor,
    value_PD: Tensor,
    queries: Packing,
    keys: Packing,
    heads: int,
    bias_HST: Tensor | None,
    p: float,
) -> Tensor:
    """[Q, D]: softmax(query key^T + bias) value of each sequence and head, with dropout `p`; D = H C.

    bias_HST: for the longest sequence's queries and keys; of others their first rows and columns.
    """
    return _ClipAttention.apply(query_QD, key_PD, value_PD, bias_HST, queries, keys, heads, p)


class _ClipAttention(Function):
    @staticmethod
    def forward(ctx, query_QD, key_PD, value_PD, bias_HST, queries: Packing, keys: Packing, heads: int, p: float):
        out_QD = torch.empty_like(query_QD)
        ctx.sequences, ctx.heads, ctx.scale = list(zip(queries.slices, keys.slices)), heads, 1.0
        masks = []
        for q, s in ctx.sequences:
            query, key, value = _split(query_QD[q], heads), _split(key_PD[s], heads), _split(value_PD[s], heads)
            weight_Hqs = _weights(query, key, bias_HST)
            if p:
                mask, ctx.scale = kept(weight_Hqs.shape, p)
                masks.append(mask)
                weight_Hqs.mul_(mask).mul_(ctx.scale)
            _split(out_QD[q], heads).copy_(weight_Hqs @ value)
        ctx.save_for_backward(query_QD, key_PD, value_PD, bias_HST, *masks)
        return out_QD

    @staticmethod
    @once_differentiable
    def backward(ctx, of_out_QD: Tensor):
        """Of queries, keys, values and bias; the bias' is the sum over sequences."""
        query_QD, key_PD, value_PD, bias_HST, *masks = ctx.saved_tensors
        of_query_QD, of_key_PD, of_value_PD = map(torch.empty_like, (query_QD, key_PD, value_PD))
        of_bias_HST = torch.zeros_like(bias_HST) if ctx.needs_input_grad[3] else None
        for number, (q, s) in enumerate(ctx.sequences):
            query, key, value = (_split(x, ctx.heads) for x in (query_QD[q], key_PD[s], value_PD[s]))
            of_out, weight_Hqs = _split(of_out_QD[q], ctx.heads), _weights(query, key, bias_HST)
            of_weight_Hqs, dropped_Hqs = of_out @ value.mT, weight_Hqs
            if masks:
                of_weight_Hqs = of_weight_Hqs.mul_(masks[number]).mul_(ctx.scale)
                dropped_Hqs = (weight_Hqs * masks[number]).mul_(ctx.scale)
            _split(of_value_PD[s], ctx.heads).copy_(dropped_Hqs.mT @ of_out)
            of_logits_Hqs = torch._softmax_backward_data(of_weight_Hqs, weight_Hqs, -1, weight_Hqs.dtype)
            _split(of_query_QD[q], ctx.heads).copy_(of_logits_Hqs @ key)
            _split(of_key_PD[s], ctx.heads).copy_(of_logits_Hqs.mT @ query)
            if of_bias_HST is not None:
                of_bias_HST[:, : of_logits_Hqs.shape[1], : of_logits_Hqs.shape[2]] += of_logits_Hqs
        return of_query_QD, of_key_PD, of_value_PD, of_bias_HST, None, None, None, None


def _split(x_sD: Tensor, heads: int) -> Tensor:
    """[H, s, C], a view."""
    return x_sD.unflatten(-1, (heads, -1)).transpose(0, 1)


def _weights(query_HqC: Tensor, key_HsC: Tensor, bias_HST: Tensor | None) -> Tensor:
    """[H, q, s]"""
    if bias_HST is None:
        return (query_HqC @ key_HsC.mT).softmax(-1)
    bias_Hqs = bias_HST[:, : query_HqC.shape[1], : key_HsC.shape[1]]
    return torch.baddbmm(bias_Hqs, query_HqC, key_HsC.mT).softmax(-1)
