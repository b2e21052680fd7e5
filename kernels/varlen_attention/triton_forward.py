"""Attention of packed sequences in Triton, forward: softmax and both products of a tile of queries in one pass over the
keys (FlashAttention-2, Dao 2023). No padding is computed but that of the last tile of a sequence.

C channels of a head, padded to C_PADDED; the tile of a program has QUERIES rows and walks over the keys in steps of
KEYS. Rows of `q` have Q_WIDTH elements; rows of `kv` KV_WIDTH, a head's keys from K_AT and its values from V_AT on.
"""

import triton
import triton.language as tl

from ..dropout.triton_kernel import keeps, mixed_seed, row_keys

LOG2E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-3.4e38)  # finite: a tile whose logits are all -inf weighs nothing, instead of -inf - -inf


@triton.jit
def sequence(cu_seqlens, number):
    """First row of a sequence, and its length."""
    start = tl.load(cu_seqlens + number)
    return start.to(tl.int32), (tl.load(cu_seqlens + number + 1) - start).to(tl.int32)


@triton.jit
def load_rows(x, start, row, length, at, WIDTH: tl.constexpr, C: tl.constexpr, C_PADDED: tl.constexpr):
    """[rows, C_PADDED] of a head whose channels begin at `at`; zeros beyond the sequence."""
    channel = tl.arange(0, C_PADDED)
    place = (start + row)[:, None] * WIDTH + (at + channel)[None, :]
    return tl.load(x + place, (row < length)[:, None] & (channel < C)[None, :], 0)


@triton.jit
def store_rows(x, value, start, row, length, at, WIDTH: tl.constexpr, C: tl.constexpr, C_PADDED: tl.constexpr):
    """The reverse of `load_rows`; nothing beyond the sequence."""
    channel = tl.arange(0, C_PADDED)
    place = (start + row)[:, None] * WIDTH + (at + channel)[None, :]
    tl.store(x + place, value.to(x.dtype.element_ty), (row < length)[:, None] & (channel < C)[None, :])


@triton.jit(do_not_specialize=["rows", "bias_queries", "bias_keys", "dropped"], do_not_specialize_on_alignment=["seed"])
def attention_forward(
    q, kv, q_starts, kv_starts, bias, seed, out, lse, rows, bias_queries, bias_keys, dropped, scale,
    BIAS: tl.constexpr, MULTIPLE: tl.constexpr, CAUSAL: tl.constexpr, DROPOUT: tl.constexpr,
    Q_WIDTH: tl.constexpr, KV_WIDTH: tl.constexpr, K_AT: tl.constexpr, V_AT: tl.constexpr,
    D: tl.constexpr, C: tl.constexpr, C_PADDED: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """out [rows, D]; lse [heads, rows] float32: the logarithm of each query's sum of exponentials.

    Grid: tiles of queries, heads, sequences. bias_queries, bias_keys: the bias's sizes over MULTIPLE, of which Triton
    thus knows that they are multiples.
    """
    tile, head, number = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    q_start, q_length = sequence(q_starts, number)
    if tile * QUERIES < q_length:
        kv_start, kv_length = sequence(kv_starts, number)
        query, at = tile * QUERIES + tl.arange(0, QUERIES), head * C
        q_QC = load_rows(q, q_start, query, q_length, at, Q_WIDTH, C, C_PADDED)
        width = bias_keys * MULTIPLE
        bias_row = (head * (bias_queries * MULTIPLE) + query) * width
        if DROPOUT:
            mask_key = row_keys(mixed_seed(seed), head * rows + q_start + query)
        total = tl.zeros((QUERIES, C_PADDED), tl.float32)
        weight_sum, largest = tl.zeros((QUERIES,), tl.float32), tl.full((QUERIES,), LOWEST, tl.float32)
        end = kv_length
        if CAUSAL:
            end = tl.minimum(kv_length, (tile + 1) * QUERIES)
        for first in range(0, end, KEYS):
            key = first + tl.arange(0, KEYS)
            k_KC = load_rows(kv, kv_start, key, kv_length, K_AT + at, KV_WIDTH, C, C_PADDED)
            logits = tl.dot(q_QC, tl.trans(k_KC), input_precision="ieee")
            if BIAS:
                place = bias_row[:, None] + key[None, :]
                logits += tl.load(bias + place, (query < q_length)[:, None], 0).to(tl.float32)
            allowed = (key < kv_length)[None, :]
            if CAUSAL:
                allowed = allowed & (key[None, :] <= query[:, None])
            logits = tl.where(allowed, logits, float("-inf"))
            now_largest = tl.maximum(largest, tl.max(logits, 1))
            shrink = tl.exp2((largest - now_largest) * LOG2E)
            weight = tl.exp2((logits - now_largest[:, None]) * LOG2E)
            weight_sum = weight_sum * shrink + tl.sum(weight, 1)
            if DROPOUT:
                weight = tl.where(keeps(mask_key[:, None], key[None, :], dropped), weight, 0)
            v_KC = load_rows(kv, kv_start, key, kv_length, V_AT + at, KV_WIDTH, C, C_PADDED)
            total = tl.dot(weight.to(v_KC.dtype), v_KC, total * shrink[:, None], input_precision="ieee")
            largest = now_largest
        store_rows(out, total * (scale / weight_sum)[:, None], q_start, query, q_length, at, D, C, C_PADDED)
        tl.store(lse + head * rows + q_start + query, largest + tl.log(weight_sum), query < q_length)
