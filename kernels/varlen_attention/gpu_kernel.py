"""Attention of packed sequences on a GPU: the launches of the Triton kernels, forward and backward."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..launch import cdiv, compute_capability, launch, operator, padded
from ..packing import Packing
from .op import BIAS_MULTIPLE, bias_size
from .triton_backward import attention_backward_keys, attention_backward_queries, attention_bias_gradient
from .triton_forward import attention_forward

TOGETHER, ROWS, BIAS_WARPS = 8, 16, 4  # sequences and queries of a tile of the bias's gradient
STAGES = 2


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
    """See kernels/varlen_attention/reference.py. A bias whose sizes are no multiples of `BIAS_MULTIPLE` is copied."""
    if bias is not None:
        short = [-size % BIAS_MULTIPLE for size in bias.shape[1:]]
        bias = pad(bias, (0, short[1], 0, short[0])) if any(short) else bias
    query, key_value = (*(x.contiguous() for x in projected), None)[:2]  # copied here, or backward copies it again
    sizes = queries.longest, keys.longest, heads, causal, p
    return forward(query, key_value, bias, queries.cu_seqlens, keys.cu_seqlens, seed, *sizes)[0]


def _constants(query: Tensor, key_value: Tensor | None, heads: int, causal: bool) -> dict[str, Any]:
    """Sizes that the kernels are compiled for."""
    width = query.shape[1] // (3 if key_value is None else 1)
    assert width % heads == 0, f"{width} channels do not divide by {heads} heads"
    return {
        "MULTIPLE": BIAS_MULTIPLE,
        "CAUSAL": causal,
        "Q_WIDTH": query.shape[1],
        "KV_WIDTH": (3 if key_value is None else 2) * width,
        "K_AT": width if key_value is None else 0,
        "V_AT": 2 * width if key_value is None else width,
        "D": width,
        "C": width // heads,
        "C_PADDED": padded(width // heads),
        "stages": STAGES,
    }


def _tiles(dtype: torch.dtype) -> dict[str, int]:
    """Queries and keys of a tile of the forward pass, and warps."""
    side = 32 if dtype == torch.float32 else 64
    return {"QUERIES": side, "KEYS": side, "warps": 4}


def _backward_tiles(dtype: torch.dtype) -> dict[str, int]:
    """For the gradients of keys and values, which need more registers: the largest tiles that do not spill."""
    if dtype == torch.float32:
        return {"QUERIES": 32, "KEYS": 32, "warps": 8}
    return {"QUERIES": 32, "KEYS": 64 if compute_capability() >= 90 else 32, "warps": 4}


def _bias_sizes(bias: Tensor | None) -> tuple[int, int]:
    return (0, 0) if bias is None else (bias.shape[1] // BIAS_MULTIPLE, bias.shape[2] // BIAS_MULTIPLE)


def _dropout(p: float) -> tuple[int, float]:
    """The probability in units of 2^-31, and the factor of the weights that are kept."""
    return min(round(p * 2**31), 2**31 - 1), 1 / (1 - p) if p < 1 else 0.0


@operator("varlen_attention")
def forward(
    query: Tensor, key_value: Tensor | None, bias: Tensor | None, q_starts: Tensor, kv_starts: Tensor,
    seed: Tensor | None, q_longest: int, kv_longest: int, heads: int, causal: bool, p: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """[Q, D], and [H, Q] float32: the logarithm of each query's sum of exponentials.

    query: with keys and values beside it if key_value is None. q_starts, kv_starts: as `Packing.cu_seqlens`.
    """
    assert seed is not None or not p, "dropout on a GPU needs a seed"
    assert bias is None or (bias.shape[1] >= q_longest and bias.shape[2] >= kv_longest), "the bias is too small"
    constants = _constants(query, key_value, heads, causal)
    rows, kv = len(query), query if key_value is None else key_value
    out = query.new_empty(rows, constants["D"])
    lse = torch.empty(heads, rows, dtype=torch.float32, device=query.device)
    tiles = _tiles(query.dtype)
    grid = cdiv(q_longest, tiles["QUERIES"]), heads, len(q_starts) - 1
    launch(
        attention_forward, grid, query, kv, q_starts, kv_starts, query if bias is None else bias,
        q_starts if seed is None else seed, out, lse, rows, *_bias_sizes(bias), *_dropout(p),
        BIAS=bias is not None, DROPOUT=p > 0, **constants, **tiles,
    )  # fmt: skip
    return out, lse


@operator("varlen_attention_backward")
def backward(
    grad_out: Tensor, query: Tensor, key_value: Tensor | None, bias: Tensor | None, q_starts: Tensor,
    kv_starts: Tensor, seed: Tensor | None, out: Tensor, lse: Tensor, q_longest: int, kv_longest: int, heads: int,
    causal: bool, p: float, bias_needs_grad: bool,
) -> list[Tensor]:  # fmt: skip
    """Gradients of `query`, of `key_value` unless it is None, and of the bias if it needs one."""
    constants = _constants(query, key_value, heads, causal)
    tiles, read, sequences = _backward_tiles(query.dtype), _tiles(query.dtype), len(q_starts) - 1
    kv, dropped = query if key_value is None else key_value, _dropout(p)
    grad_query = torch.empty_like(query)
    grad_kv = grad_query if key_value is None else torch.empty_like(key_value)
    grad_logits = query.new_empty(sequences, heads, bias_size(q_longest), bias_size(kv_longest))
    grad_sizes = grad_logits.shape[2] // BIAS_MULTIPLE, grad_logits.shape[3] // BIAS_MULTIPLE
    launch(
        attention_backward_keys, (cdiv(kv_longest, tiles["KEYS"]), heads, sequences), query, kv, q_starts,
        kv_starts, query if bias is None else bias, q_starts if seed is None else seed, out, lse, grad_out, grad_kv,
        grad_logits, len(query), *_bias_sizes(bias), *grad_sizes, *dropped, BIAS=bias is not None, DROPOUT=p > 0,
        **constants, **tiles, READ_QUERIES=read["QUERIES"],
    )  # fmt: skip
    names = "MULTIPLE", "CAUSAL", "Q_WIDTH", "KV_WIDTH", "K_AT", "C", "C_PADDED", "stages"
    launch(
        attention_backward_queries, (cdiv(q_longest, read["QUERIES"]), heads, sequences), kv, q_starts, kv_starts,
        grad_logits, grad_query, *grad_sizes, **read | {"KEYS": tiles["KEYS"]},
        **{name: constants[name] for name in names},
    )  # fmt: skip
    grads = [grad_query] if key_value is None else [grad_query, grad_kv]
    if bias is None or not bias_needs_grad:
        return grads
    grad_bias = torch.empty_like(bias)
    launch(
        attention_bias_gradient, (bias.shape[2] // BIAS_MULTIPLE, bias.shape[1] // ROWS, heads), q_starts, kv_starts,
        grad_logits, grad_bias, sequences, *_bias_sizes(bias), *grad_sizes, MULTIPLE=BIAS_MULTIPLE, CAUSAL=causal,
        QUERIES=tiles["QUERIES"], KEYS=tiles["KEYS"], READ_QUERIES=read["QUERIES"], TOGETHER=TOGETHER, ROWS=ROWS,
        COLUMNS=BIAS_MULTIPLE, warps=BIAS_WARPS, stages=STAGES,
    )  # fmt: skip
    return [*grads, grad_bias]


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.q_longest, ctx.kv_longest, ctx.heads, ctx.causal, ctx.p = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # of `lse`


def _gradients(ctx, grad_out: Tensor, _):
    query, key_value, bias, *others = ctx.saved_tensors
    sizes = ctx.q_longest, ctx.kv_longest, ctx.heads, ctx.causal, ctx.p
    grads = iter(backward(grad_out, query, key_value, bias, *others, *sizes, ctx.needs_input_grad[2]))
    grad_query, grad_kv = next(grads), None if key_value is None else next(grads)
    return grad_query, grad_kv, next(grads, None), *[None] * 8


forward.register_autograd(_gradients, setup_context=_save)
