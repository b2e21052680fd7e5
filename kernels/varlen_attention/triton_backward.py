"""Attention of packed sequences in Triton, backward, without atomics: one launch for keys and values, which also stores
the gradient of the logits [B, H, S, T], one for the queries, and one for the bias. See triton_forward.py for the sizes.

As in FlashAttention-2, the sum over keys in the softmax's gradient comes from the rounded output: where one key has
nearly all the weight, so that the gradient of the logits cancels out, that rounding remains.
"""

import triton
import triton.language as tl

from ..dropout.triton_kernel import keeps, mixed_seed, row_keys
from .triton_forward import LOG2E, load_rows, sequence, store_rows


@triton.jit(
    do_not_specialize=["rows", "bias_queries", "bias_keys", "grad_queries", "grad_keys", "dropped"],
    do_not_specialize_on_alignment=["seed"],
)
def attention_backward_keys(
    q, kv, q_starts, kv_starts, bias, seed, out, lse, grad_out, grad_kv, grad_logits,
    rows, bias_queries, bias_keys, grad_queries, grad_keys, dropped, scale,
    BIAS: tl.constexpr, MULTIPLE: tl.constexpr, CAUSAL: tl.constexpr, DROPOUT: tl.constexpr,
    Q_WIDTH: tl.constexpr, KV_WIDTH: tl.constexpr, K_AT: tl.constexpr, V_AT: tl.constexpr,
    D: tl.constexpr, C: tl.constexpr, C_PADDED: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    READ_QUERIES: tl.constexpr,
):  # fmt: skip
    """Gradients of keys and values, in their places in grad_kv, and of the logits, in whole tiles of QUERIES x KEYS.

    Grid: tiles of keys, heads, sequences. Sizes of the bias and of grad_logits are given over MULTIPLE. READ_QUERIES:
    the queries of a tile of `attention_backward_queries`, which reads a tile if any of its pairs is allowed.
    """
    tile, head, number = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    kv_start, kv_length = sequence(kv_starts, number)
    if tile * KEYS < kv_length:
        q_start, q_length = sequence(q_starts, number)
        key, at = tile * KEYS + tl.arange(0, KEYS), head * C
        k_KC = load_rows(kv, kv_start, key, kv_length, K_AT + at, KV_WIDTH, C, C_PADDED)
        v_KC = load_rows(kv, kv_start, key, kv_length, V_AT + at, KV_WIDTH, C, C_PADDED)
        bias_start, bias_width = head * (bias_queries * MULTIPLE), bias_keys * MULTIPLE
        logits_start = (number * tl.num_programs(1) + head) * (grad_queries * MULTIPLE)
        grad_k, grad_v = tl.zeros((KEYS, C_PADDED), tl.float32), tl.zeros((KEYS, C_PADDED), tl.float32)
        if DROPOUT:
            seed_key = mixed_seed(seed)
        begin = 0
        if CAUSAL:
            begin = tile * KEYS // READ_QUERIES * READ_QUERIES
        for first in range(begin, q_length, QUERIES):
            query = first + tl.arange(0, QUERIES)
            inside = query < q_length
            q_QC = load_rows(q, q_start, query, q_length, at, Q_WIDTH, C, C_PADDED)
            upstream_QC = load_rows(grad_out, q_start, query, q_length, at, D, C, C_PADDED)
            out_QC = load_rows(out, q_start, query, q_length, at, D, C, C_PADDED)
            product_Q = tl.sum(upstream_QC.to(tl.float32) * out_QC.to(tl.float32), 1)
            lse_Q = tl.load(lse + head * rows + q_start + query, inside, float("inf"))
            logits_KQ = tl.dot(k_KC, tl.trans(q_QC), input_precision="ieee")
            if BIAS:
                place = (bias_start + query)[None, :] * bias_width + key[:, None]
                logits_KQ += tl.load(bias + place, inside[None, :], 0).to(tl.float32)
            allowed = (key < kv_length)[:, None]
            if CAUSAL:
                allowed = allowed & (key[:, None] <= query[None, :])
            weight_KQ = tl.where(allowed, tl.exp2((logits_KQ - lse_Q[None, :]) * LOG2E), 0)
            dropped_KQ = weight_KQ
            if DROPOUT:
                mask_key = row_keys(seed_key, head * rows + q_start + query)
                dropped_KQ = tl.where(keeps(mask_key[None, :], key[:, None], dropped), weight_KQ * scale, 0)
            # Before the next product, which is waited for: this one then no longer reads upstream_QC when the next tile
            # is copied there. On sm_90 Triton keeps one buffer of it, because it is read outside of products too.
            grad_v = tl.dot(dropped_KQ.to(upstream_QC.dtype), upstream_QC, grad_v, input_precision="ieee")
            grad_weight_KQ = tl.dot(v_KC, tl.trans(upstream_QC), input_precision="ieee")
            grad_KQ = (dropped_KQ * grad_weight_KQ - weight_KQ * product_Q[None, :]).to(q_QC.dtype)
            grad_k = tl.dot(grad_KQ, q_QC, grad_k, input_precision="ieee")
            place = (logits_start + query)[None, :] * (grad_keys * MULTIPLE) + key[:, None]
            tl.store(grad_logits + place, grad_KQ)
        store_rows(grad_kv, grad_k, kv_start, key, kv_length, K_AT + at, KV_WIDTH, C, C_PADDED)
        store_rows(grad_kv, grad_v, kv_start, key, kv_length, V_AT + at, KV_WIDTH, C, C_PADDED)


@triton.jit(do_not_specialize=["grad_queries", "grad_keys"])
def attention_backward_queries(
    kv, q_starts, kv_starts, grad_logits, grad_q, grad_queries, grad_keys,
    MULTIPLE: tl.constexpr, CAUSAL: tl.constexpr, Q_WIDTH: tl.constexpr, KV_WIDTH: tl.constexpr, K_AT: tl.constexpr,
    C: tl.constexpr, C_PADDED: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Gradients of the queries, in their places in grad_q. KEYS: as for `attention_backward_keys`.

    Grid: tiles of queries, heads, sequences.
    """
    tile, head, number = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    q_start, q_length = sequence(q_starts, number)
    if tile * QUERIES < q_length:
        kv_start, kv_length = sequence(kv_starts, number)
        query, at = tile * QUERIES + tl.arange(0, QUERIES), head * C
        row = (number * tl.num_programs(1) + head) * (grad_queries * MULTIPLE) + query
        total = tl.zeros((QUERIES, C_PADDED), tl.float32)
        end = kv_length
        if CAUSAL:
            end = tl.minimum(kv_length, (tile + 1) * QUERIES)
        for first in range(0, end, KEYS):
            key = first + tl.arange(0, KEYS)
            grad_QK = tl.load(grad_logits + row[:, None] * (grad_keys * MULTIPLE) + key[None, :])
            k_KC = load_rows(kv, kv_start, key, kv_length, K_AT + at, KV_WIDTH, C, C_PADDED)
            total = tl.dot(grad_QK, k_KC, total, input_precision="ieee")
        store_rows(grad_q, total, q_start, query, q_length, at, Q_WIDTH, C, C_PADDED)


@triton.jit(do_not_specialize=["sequences", "bias_queries", "bias_keys", "grad_queries", "grad_keys"])
def attention_bias_gradient(
    q_starts, kv_starts, grad_logits, grad_bias, sequences, bias_queries, bias_keys, grad_queries, grad_keys,
    MULTIPLE: tl.constexpr, CAUSAL: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    READ_QUERIES: tl.constexpr, TOGETHER: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The sum of the logits' gradients over all sequences, TOGETHER at a time; zero where no sequence has the pair.

    Grid: tiles of keys (COLUMNS), of queries (ROWS), heads. QUERIES, KEYS and READ_QUERIES are those of
    `attention_backward_keys`, and so are the tiles that hold anything.
    """
    head, query = tl.program_id(2), tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    key = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    tile_of_query, tile_of_key = tl.program_id(1) * ROWS // QUERIES * QUERIES, key // KEYS * KEYS
    total = tl.zeros((TOGETHER, ROWS, COLUMNS), tl.float32)
    for first in range(0, sequences, TOGETHER):
        number = first + tl.arange(0, TOGETHER)
        exists = number < sequences
        q_length = tl.load(q_starts + number + 1, exists, 0) - tl.load(q_starts + number, exists, 0)
        kv_length = tl.load(kv_starts + number + 1, exists, 0) - tl.load(kv_starts + number, exists, 0)
        stored = (tile_of_query < q_length)[:, None] & (tile_of_key[None, :] < kv_length[:, None])
        if CAUSAL:
            stored = stored & (tile_of_key // READ_QUERIES * READ_QUERIES <= tile_of_query)[None, :]
        row = ((number * tl.num_programs(2) + head) * (grad_queries * MULTIPLE))[:, None] + query[None, :]
        place = row[:, :, None] * (grad_keys * MULTIPLE) + key[None, None, :]
        total += tl.load(grad_logits + place, stored[:, None, :], 0).to(tl.float32)
    place = (head * (bias_queries * MULTIPLE) + query)[:, None] * (bias_keys * MULTIPLE) + key[None, :]
    tl.store(grad_bias + place, tl.sum(total, 0).to(grad_bias.dtype.element_ty))
