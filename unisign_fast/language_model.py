"""mT5 behind the sign encoder: prompt, encoder, loss per token, beam generation (paper, section 3.2).

D model width; B clips, P packed positions of the encoder (prompts and frames), L target tokens.
"""

from dataclasses import asdict

import torch
from torch import Tensor, nn
from transformers import MT5Config, MT5ForConditionalGeneration

from unisign_fast.beam_search import beam_search
from unisign_fast.config import MT5Shape
from unisign_fast.dropout import Dropout, replace_dropout
from unisign_fast.packed_mt5 import decode, encode
from unisign_fast.packing import Packing
from unisign_fast.text_codec import END, PAD
from unisign_fast.vocabulary_loss import vocabulary_loss


def build_mt5(shape: MT5Shape) -> MT5ForConditionalGeneration:
    """An mT5 with random weights and, as in the published ones, an output head of its own."""
    config = MT5Config(
        **asdict(shape), tie_word_embeddings=False, pad_token_id=PAD, eos_token_id=END, decoder_start_token_id=PAD
    )
    mt5 = MT5ForConditionalGeneration(config)
    if mt5.lm_head.weight is mt5.shared.weight:  # transformers ties them whatever the configuration says
        mt5.lm_head.weight = nn.Parameter(torch.randn_like(mt5.shared.weight) * shape.d_model**-0.5)
    mt5.config.tie_word_embeddings = False
    for block in (*mt5.encoder.block, *mt5.decoder.block):
        block.layer[-1].DenseReluDense.act = nn.GELU("tanh")  # the same function in one pass instead of eight
    replace_dropout(mt5, Dropout)
    return mt5


class LanguageModel(nn.Module):
    """mT5, fed with embeddings instead of tokens."""

    def __init__(self, shape: MT5Shape, label_smoothing: float):
        super().__init__()
        self.mt5 = build_mt5(shape)
        self.label_smoothing = label_smoothing

    def embed(self, *ids: Tensor) -> tuple[Tensor, ...]:
        """Embeddings [n, D] of several sequences of tokens [n].

        All in one look-up: each would have a gradient of its own, the size of the whole matrix.
        """
        return self.mt5.shared(torch.cat(ids)).split([len(some) for some in ids])

    def encode(self, embeddings_PD: Tensor, packing: Packing) -> Tensor:
        """Hidden states [P, D] of mT5's encoder."""
        return encode(self.mt5.encoder, embeddings_PD, packing)

    def token_loss(
        self,
        hidden_PD: Tensor,
        packing: Packing,
        labels_L: Tensor,
        targets: Packing,
        inputs_LD: Tensor | None = None,
    ) -> Tensor:
        """Sum of the smoothed cross entropies of all target tokens, a float32 scalar (equation 5).

        hidden_PD, packing: the encoded clips; labels_L, targets: the tokens of each; inputs_LD: the embeddings of their
        `decoder_inputs`, where they are at hand.
        """
        if inputs_LD is None:
            (inputs_LD,) = self.embed(decoder_inputs(labels_L, targets))
        decoded_LD = decode(self.mt5.decoder, inputs_LD, targets, hidden_PD, packing)
        return vocabulary_loss(decoded_LD, self.mt5.lm_head.weight, labels_L, self.label_smoothing)

    def generate(self, hidden_PD: Tensor, packing: Packing, beams: int, max_new_tokens: int) -> list[list[int]]:
        """Beam search from encoded clips: the tokens of each, the end token the last if there was room for it."""
        return beam_search(self.mt5, hidden_PD, packing, beams, max_new_tokens)


def decoder_inputs(labels_L: Tensor, targets: Packing) -> Tensor:
    """The token before each target token [L], which the decoder reads: the start token before the first of a clip."""
    return labels_L.roll(1).masked_fill(targets.position_P == 0, PAD)
