"""mT5 behind the sign encoder: prompt, encoder, loss per token, beam generation (paper, section 3.2).

D model width, W vocabulary; B clips, S prompt and frames together, L target tokens.
"""

from dataclasses import asdict

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import MT5Config, MT5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from unisign_fast.config import MT5Shape
from unisign_fast.text_codec import END, PAD

IGNORED = -100  # padding among the labels


def build_mt5(shape: MT5Shape) -> MT5ForConditionalGeneration:
    """An mT5 with random weights and, as in the published ones, an output head of its own."""
    config = MT5Config(
        **asdict(shape), tie_word_embeddings=False, pad_token_id=PAD, eos_token_id=END, decoder_start_token_id=PAD
    )
    mt5 = MT5ForConditionalGeneration(config)
    if mt5.lm_head.weight is mt5.shared.weight:  # transformers ties them whatever the configuration says
        mt5.lm_head.weight = nn.Parameter(torch.randn_like(mt5.shared.weight) * shape.d_model**-0.5)
    mt5.config.tie_word_embeddings = False
    return mt5


class LanguageModel(nn.Module):
    """mT5, fed with embeddings instead of tokens."""

    def __init__(self, shape: MT5Shape, label_smoothing: float):
        super().__init__()
        self.mt5 = build_mt5(shape)
        self.label_smoothing = label_smoothing

    def embed(self, ids: Tensor) -> Tensor:
        """[B, P] tokens to [B, P, D]."""
        return self.mt5.shared(ids)

    def encode(self, embeddings_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        """Hidden states [B, S, D] of mT5's encoder; the mask is true at real positions."""
        return self.mt5.encoder(inputs_embeds=embeddings_BSD, attention_mask=mask_BS.long()).last_hidden_state

    def token_loss(self, hidden_BSD: Tensor, mask_BS: Tensor, labels_BL: Tensor) -> Tensor:
        """Sum of the smoothed cross entropies of all target tokens, a float32 scalar (equation 5)."""
        decoded_BLD = self.mt5.decoder(
            input_ids=self.mt5._shift_right(labels_BL),
            encoder_hidden_states=hidden_BSD,
            encoder_attention_mask=mask_BS.long(),
            use_cache=False,
        ).last_hidden_state
        logits_BLW = self.mt5.lm_head(decoded_BLD)
        return cross_entropy(
            logits_BLW.flatten(0, 1).float(),
            labels_BL.flatten(),
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )

    @torch.no_grad()
    def generate(
        self, hidden_BSD: Tensor, mask_BS: Tensor, beams: int, max_new_tokens: int, synced_ranks: bool = False
    ) -> Tensor:
        """Beam search from encoded clips: [B, at most 1 + max_new_tokens] tokens, the start token first."""
        return self.mt5.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden_BSD),
            attention_mask=mask_BS.long(),
            num_beams=beams,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            synced_gpus=synced_ranks,
        )
