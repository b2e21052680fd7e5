"""Attention of packed sequences, one after the other: what a CPU does in the place of padding.

A sequence's logits fit the cache, and nothing is computed for padding. Of the weights of attention only what dropout
keeps of them is remembered, a byte each; the backward pass computes them again.

P and Q packed rows of keys and queries; of one sequence s keys and q queries; H heads, C channels of a head.
"""

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from unisign_fast.kernels.cpu.exponential import ONE, exp
from unisign_fast.kernels.cpu.loops import array, parallel, run
from unisign_fast.model.dropout import drop, kept
from unisign_fast.model.packing import Packing

LEAST_LOGIT = np.float32(-87)  # beside the largest; the weight of smaller ones is zero


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

    bias_HST: for the longest sequence's queries and keys; of others their first rows and columns. Softmax in float32.
    """
    needed = heads, queries.longest, keys.longest
    assert bias_HST is None or all(has >= needs for has, needs in zip(bias_HST.shape, needed)), bias_HST.shape
    return _ClipAttention.apply(query_QD, key_PD, value_PD, bias_HST, queries, keys, heads, p)


class _ClipAttention(Function):
    @staticmethod
    def forward(ctx, query_QD, key_PD, value_PD, bias_HST, queries: Packing, keys: Packing, heads: int, p: float):
        out_QD = torch.empty_like(query_QD)
        ctx.sequences, ctx.heads, ctx.scale = list(zip(queries.slices, keys.slices)), heads, 1.0
        masks, bias = [], None if bias_HST is None else array(bias_HST)
        for q, s in ctx.sequences:
            query, key, value = _split(query_QD[q], heads), _split(key_PD[s], heads), _split(value_PD[s], heads)
            weight_Hqs, mask = (query @ key.mT).float(), None
            if p:
                mask, ctx.scale = kept(weight_Hqs.shape, p)
                masks.append(mask)
            run(_softmax, weight_Hqs, bias, mask, ctx.scale)
            _split(out_QD[q], heads).copy_(weight_Hqs.to(value.dtype) @ value)
        ctx.save_for_backward(query_QD, key_PD, value_PD, bias_HST, *masks)
        return out_QD

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out_QD: Tensor):
        """Of queries, keys, values and bias; the bias' is the sum over sequences."""
        query_QD, key_PD, value_PD, bias_HST, *masks = ctx.saved_tensors
        grad_query_QD, grad_key_PD, grad_value_PD = map(torch.empty_like, (query_QD, key_PD, value_PD))
        bias = None if bias_HST is None else array(bias_HST)
        grad_bias = np.zeros_like(bias) if ctx.needs_input_grad[3] else None
        for (q, s), mask in zip(ctx.sequences, masks or [None] * len(ctx.sequences)):
            query, key, value = (_split(x, ctx.heads) for x in (query_QD[q], key_PD[s], value_PD[s]))
            grad_out = _split(grad_out_QD[q], ctx.heads)
            weight_Hqs, grad_logits_Hqs = (query @ key.mT).float(), (grad_out @ value.mT).float()
            run(_softmax_backward, weight_Hqs, bias, mask, ctx.scale, grad_logits_Hqs, grad_bias)
            weight_Hqs, grad_logits_Hqs = weight_Hqs.to(value.dtype), grad_logits_Hqs.to(value.dtype)
            _split(grad_value_PD[s], ctx.heads).copy_(weight_Hqs.mT @ grad_out)
            _split(grad_query_QD[q], ctx.heads).copy_(grad_logits_Hqs @ key)
            _split(grad_key_PD[s], ctx.heads).copy_(grad_logits_Hqs.mT @ query)
        grad_bias_HST = None if grad_bias is None else torch.from_numpy(grad_bias).to(bias_HST.dtype)
        return grad_query_QD, grad_key_PD, grad_value_PD, grad_bias_HST, None, None, None, None


def _split(x_sD: Tensor, heads: int) -> Tensor:
    """[H, s, C], a view."""
    return x_sD.unflatten(-1, (heads, -1)).transpose(0, 1)


@numba.njit(fastmath={"nnan", "nsz"})  # eight numbers an instruction; what is no number shows in the sum
def _largest(x_S):
    largest = x_S[0]
    for s in range(1, len(x_S)):
        largest = max(largest, x_S[s])
    return largest


@numba.njit
def _softmax_row(logit_S, bias_T):
    """In place; bias_T: None, or at least as long."""
    if bias_T is not None:
        for s in range(len(logit_S)):
            logit_S[s] += bias_T[s]
    largest, total = _largest(logit_S), np.float32(0)
    for s in range(len(logit_S)):
        apart = logit_S[s] - largest
        logit_S[s] = np.float32(0) if apart < LEAST_LOGIT else exp(apart)
    for s in range(len(logit_S)):
        total += logit_S[s]
    share = ONE / total
    for s in range(len(logit_S)):
        logit_S[s] *= share


@parallel
def _softmax(weight_Hqs, bias_HST, mask_Hqs, scale):
    """Of logits in their place, with bias and dropout."""
    heads, queries, _ = weight_Hqs.shape
    for row in numba.prange(heads * queries):
        h, q = row // queries, row % queries
        _softmax_row(weight_Hqs[h, q], None if bias_HST is None else bias_HST[h, q])
        drop(weight_Hqs[h, q], None if mask_Hqs is None else mask_Hqs[h, q], scale)


@parallel
def _softmax_backward(weight_Hqs, bias_HST, mask_Hqs, scale, grad_Hqs, grad_bias_HST):
    """`_softmax` again, and the gradient of the logits in the place of the weights' gradient; added to grad_bias_HST."""
    heads, queries, keys = weight_Hqs.shape
    for row in numba.prange(heads * queries):
        h, q = row // queries, row % queries
        _softmax_row(weight_Hqs[h, q], None if bias_HST is None else bias_HST[h, q])
        drop(grad_Hqs[h, q], None if mask_Hqs is None else mask_Hqs[h, q], scale)
        mean = np.float32(0)
        for s in range(keys):
            mean += weight_Hqs[h, q, s] * grad_Hqs[h, q, s]
        for s in range(keys):
            grad_Hqs[h, q, s] = weight_Hqs[h, q, s] * (grad_Hqs[h, q, s] - mean)
        drop(weight_Hqs[h, q], None if mask_Hqs is None else mask_Hqs[h, q], scale)
        if grad_bias_HST is not None:
            for s in range(keys):
                grad_bias_HST[h, q, s] += grad_Hqs[h, q, s]
