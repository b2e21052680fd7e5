"""Beam search with mT5's decoder: the same tokens as transformers' generate, in less time.

The beams of a clip share the keys and values of its frames and of all tokens that any beam generated. A mask marks a
beam's ancestors among those tokens, so reordering beams copies nothing. Finished clips leave the batch.

B unfinished clips, K beams of each, H heads, C channels of a head; S positions of the encoder, U = K t tokens so far.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import sdpa_kernel
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import MT5ForConditionalGeneration
from transformers.models.mt5.modeling_mt5 import MT5Attention

from unisign_fast.kernels.packing import Packing
from unisign_fast.kernels.varlen_attention.reference import split_heads
from unisign_fast.model.attention import BACKENDS
from unisign_fast.model.mt5 import norm, sublayers
from unisign_fast.text.tokenizer import END, PAD, until_end

NEVER = -1e9  # score of an absent hypothesis
DONE = -1
CACHE_GROWTH = 16  # steps
SHRINK_AT = 0.75  # the batch shrinks when at most this share of its clips is unfinished


class Hypothesis(NamedTuple):
    """One text of a clip: its tokens, and the mean of their log-probabilities."""

    tokens: list[int]
    score: float


@torch.no_grad()
def search_hypotheses(
    mt5: MT5ForConditionalGeneration, hidden_PD: Tensor, packing: Packing, beams: int, max_new_tokens: int
) -> list[list[Hypothesis]]:
    """Up to `beams` texts of each clip, best first, each of at most `max_new_tokens` tokens including the end token if
    reached.

    hidden_PD, packing: the encoded clips. Scores are log-probabilities divided by length. A clip is finished when none
    of its beams, ending now, would beat the worst of `beams` finished texts (transformers' early_stopping=False). A
    single beam is greedy search.
    """
    clips, device = len(packing.lengths), hidden_PD.device
    result: list[list[Hypothesis]] = [[]] * clips
    clip_of_row = list(range(clips))  # for each row of the batch: the clip, or DONE
    decoder = _Decoder(mt5, hidden_PD, packing, beams, max_new_tokens)
    tokens_BKt = torch.zeros(clips, beams, 0, dtype=torch.long, device=device)
    scores_BK = torch.full((clips, beams), NEVER, device=device)
    scores_BK[:, 0] = 0.0  # all beams start identical, so only one is extended
    texts_BKt, text_scores_BK = tokens_BKt, torch.full_like(scores_BK, NEVER)
    last_BK = torch.full((clips, beams), PAD, device=device)
    for length in range(1, max_new_tokens + 1):
        score_Bn, parent_Bn, token_Bn = _continuations(decoder.step(last_BK).float(), scores_BK)
        tokens_Bnt = torch.cat([_of_beams(tokens_BKt, parent_Bn), token_Bn[..., None]], 2)
        ends_Bn = (token_Bn == END) | (length == max_new_tokens)
        scores_BK, kept_BK = score_Bn.masked_fill(ends_Bn, NEVER).topk(beams, dim=1)
        tokens_BKt, last_BK = _of_beams(tokens_Bnt, kept_BK), token_Bn.gather(1, kept_BK)
        decoder.descend(parent_Bn.gather(1, kept_BK))

        ends_Bn[:, beams:] = False  # candidates beyond K only replace beams that end
        texts_BNt = torch.cat([pad(texts_BKt, (0, 1), value=PAD), tokens_Bnt], 1)
        text_scores_BN = torch.cat([text_scores_BK, (score_Bn / length).masked_fill(~ends_Bn, NEVER)], 1)
        text_scores_BK, kept_BK = text_scores_BN.topk(beams, dim=1)
        texts_BKt = _of_beams(texts_BNt, kept_BK)

        limit_B = scores_BK[:, 0] / length if beams > 1 else torch.full_like(scores_BK[:, 0], NEVER / 2)
        continues = ((text_scores_BK[:, -1] < limit_B) & (length < max_new_tokens)).tolist()
        for row, clip in enumerate(clip_of_row):
            if clip != DONE and not continues[row]:
                texts = zip(texts_BKt[row].tolist(), text_scores_BK[row].tolist(), strict=True)
                result[clip] = [Hypothesis(until_end(ids), score) for ids, score in texts if score > NEVER / 2]
                clip_of_row[row] = DONE
        rows = [row for row, clip in enumerate(clip_of_row) if clip != DONE]
        if not rows:
            break
        if len(rows) <= SHRINK_AT * len(clip_of_row):
            clip_of_row, rows_B = [clip_of_row[row] for row in rows], torch.tensor(rows, device=device)
            decoder.keep(rows_B)
            state = scores_BK, tokens_BKt, last_BK, texts_BKt, text_scores_BK
            scores_BK, tokens_BKt, last_BK, texts_BKt, text_scores_BK = (x[rows_B] for x in state)
    return result


def _continuations(logits_BKW: Tensor, scores_BK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The 2 K best continuations of each clip [B, 2 K], best first: score, parent beam, token.

    They are among the 2 K best of each beam, so only those are compared.
    """
    count = 2 * scores_BK.shape[1]
    best_BKn, token_BKn = logits_BKW.topk(min(count, logits_BKW.shape[2]), dim=2)
    best_BKn = best_BKn - logits_BKW.logsumexp(2, keepdim=True) + scores_BK[..., None]
    score_Bn, chosen_Bn = best_BKn.flatten(1).topk(min(count, best_BKn[0].numel()), dim=1)
    return score_Bn, chosen_Bn // best_BKn.shape[2], token_BKn.flatten(1).gather(1, chosen_Bn)


def _of_beams(x_BKt: Tensor, beam_Bn: Tensor) -> Tensor:
    """Row beam_Bn[b, n] of each x_BKt[b]: [B, n, t]."""
    return x_BKt.gather(1, beam_Bn[..., None].expand(-1, -1, x_BKt.shape[2]))


class _Decoder:
    """mT5's decoder, one token per step, for all beams of all unfinished clips."""

    def __init__(
        self, mt5: MT5ForConditionalGeneration, hidden_PD: Tensor, packing: Packing, beams: int, max_new_tokens: int
    ):
        self.mt5, self.beams = mt5, beams
        self._frames = []  # keys and values of each layer, [B, H, S, C]
        layers = sublayers(mt5.decoder)
        for _, across, _ in layers:
            module = across.EncDecAttention
            padded = (packing.pad(linear(hidden_PD)) for linear in (module.k, module.v))
            self._frames.append([split_heads(x_BSD, module.n_heads) for x_BSD in padded])
        self._real_B11S = packing.mask_BS[:, None, None]
        first = layers[0][0].SelfAttention
        self._position_Htt = first.compute_bias(max_new_tokens, max_new_tokens, device=hidden_PD.device)[0]
        clips = len(packing.lengths)
        empty = hidden_PD.new_zeros(clips, first.n_heads, 0, first.key_value_proj_dim)
        self._tokens = [[empty, empty] for _ in layers]  # keys and values [B, H, U or more, C]
        self._descent_BKU = torch.zeros(clips, beams, 0, dtype=torch.bool, device=hidden_PD.device)

    @sdpa_kernel(BACKENDS)
    def step(self, last_BK: Tensor) -> Tensor:
        """Logits [B, K, W] after each beam's last token."""
        first, own = self._descent_BKU.shape[2], torch.eye(self.beams, dtype=torch.bool, device=last_BK.device)
        self._descent_BKU = torch.cat([self._descent_BKU, own.expand(len(last_BK), -1, -1)], 2)
        step = first // self.beams
        bias_HU = self._position_Htt[:, step, : step + 1].repeat_interleave(self.beams, 1)
        bias_BHKU = bias_HU[:, None].where(self._descent_BKU[:, None], -torch.inf)
        x_BKD = self.mt5.shared(last_BK)
        for layers, frames, tokens in zip(sublayers(self.mt5.decoder), self._frames, self._tokens, strict=True):
            within, across, feed_forward = layers
            module, normed = within.SelfAttention, norm(within.layer_norm, x_BKD)
            for which, linear in enumerate((module.k, module.v)):
                tokens[which] = _append(tokens[which], split_heads(linear(normed), module.n_heads), first)
            key, value = (cache[:, :, : first + self.beams] for cache in tokens)
            x_BKD = x_BKD + _attend(module, normed, key, value, bias_BHKU)
            normed = norm(across.layer_norm, x_BKD)
            key, value = frames
            x_BKD = x_BKD + _attend(across.EncDecAttention, normed, key, value, self._real_B11S)
            x_BKD = x_BKD + feed_forward.DenseReluDense(norm(feed_forward.layer_norm, x_BKD))
        return self.mt5.lm_head(norm(self.mt5.decoder.final_layer_norm, x_BKD))

    def descend(self, parent_BK: Tensor) -> None:
        """Reorder the beams of each clip: beam k continues beam parent_BK[:, k]."""
        self._descent_BKU = _of_beams(self._descent_BKU, parent_BK)

    def keep(self, rows_B: Tensor) -> None:
        """Keep only these clips."""
        self._frames, self._tokens = (
            [[x[rows_B] for x in pair] for pair in each] for each in (self._frames, self._tokens)
        )
        self._real_B11S, self._descent_BKU = self._real_B11S[rows_B], self._descent_BKU[rows_B]


def _append(cache_BHUC: Tensor, new_BHKC: Tensor, first: int) -> Tensor:
    """The cache with new keys or values written from index `first`; grows if full."""
    end = first + new_BHKC.shape[2]
    if end > cache_BHUC.shape[2]:
        cache_BHUC = pad(cache_BHUC, (0, 0, 0, CACHE_GROWTH * new_BHKC.shape[2]))
    cache_BHUC[:, :, first:end] = new_BHKC
    return cache_BHUC


def _attend(module: MT5Attention, normed_BKD: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """The attention's output [B, K, D]; `mask` is a bias, or True where attention is allowed."""
    query_BHKC = split_heads(module.q(normed_BKD), module.n_heads)
    out_BHKC = scaled_dot_product_attention(query_BHKC, key, value, attn_mask=mask, scale=1.0)
    return module.o(out_BHKC.transpose(1, 2).flatten(2))
