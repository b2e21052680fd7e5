"""mT5 behind the sign encoder: prompt, packed encoder and decoder, loss per token (paper, section 3.2).

Hugging Face's weights and results over packed sequences. Everything but the attention itself runs over real positions
only. On a GPU the attention pads queries, keys and values; its mask and position bias are made once for all layers, and
cross-attention has a plain mask, which leaves its fast path open. On a CPU it takes the clips one by one
(clip_attention.py), and needs no mask but the decoder's.

D model width; P packed positions of the encoder (prompts and frames), L target tokens; B clips, S and T their padded
lengths; H heads.
"""

from dataclasses import asdict

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, scaled_dot_product_attention
from transformers import MT5Config, MT5ForConditionalGeneration
from transformers.models.mt5.modeling_mt5 import MT5Attention, MT5LayerFF, MT5LayerNorm, MT5Stack

from unisign_fast.model.clip_attention import clip_attention
from unisign_fast.model.config import MT5Shape
from unisign_fast.model.dropout import Dropout, replace_dropout
from unisign_fast.model.gated_product import gated_product
from unisign_fast.model.normed_projections import normed_projections
from unisign_fast.model.packing import Packing
from unisign_fast.model.vocabulary_loss import vocabulary_loss
from unisign_fast.text.tokenizer import END, PAD


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


def decoder_inputs(labels_L: Tensor, targets: Packing) -> Tensor:
    """The token before each target token [L], which the decoder reads: the start token before the first of a clip."""
    return labels_L.roll(1).masked_fill(targets.position_P == 0, PAD)


def encode(stack: MT5Stack, x_PD: Tensor, packing: Packing) -> Tensor:
    """Hidden states [P, D] of the encoder, from embeddings [P, D]."""
    bias = _position_bias(stack, packing, causal=False)
    x_PD = stack.dropout(x_PD)
    for block in stack.block:
        attention, feed_forward = block.layer
        x_PD = _self_attention(attention, x_PD, packing, bias)
        x_PD = _feed_forward(feed_forward, x_PD)
    return stack.dropout(norm(stack.final_layer_norm, x_PD))


def decode(stack: MT5Stack, x_LD: Tensor, packing: Packing, hidden_PD: Tensor, encoder_packing: Packing) -> Tensor:
    """Hidden states [L, D] of the decoder, from embeddings [L, D] of the target and the encoder's hidden states."""
    bias = _position_bias(stack, packing, causal=True)
    keys_B11S = None if _on_cpu(packing.device) else _additive(encoder_packing.mask_BS[:, None, None], x_LD.dtype)
    x_LD = stack.dropout(x_LD)
    for block in stack.block:
        attention, cross_attention, feed_forward = block.layer
        x_LD = _self_attention(attention, x_LD, packing, bias)
        module = cross_attention.EncDecAttention
        (query,) = _projected(cross_attention.layer_norm, x_LD, module.q)
        key, value = module.k(hidden_PD), module.v(hidden_PD)
        attended = _attend(module, query, key, value, packing, encoder_packing, keys_B11S)
        x_LD = x_LD + cross_attention.dropout(attended)
        x_LD = _feed_forward(feed_forward, x_LD)
    return stack.dropout(norm(stack.final_layer_norm, x_LD))


def _self_attention(layer: nn.Module, x_PD: Tensor, packing: Packing, bias: Tensor) -> Tensor:
    module = layer.SelfAttention
    query, key, value = _projected(layer.layer_norm, x_PD, module.q, module.k, module.v)
    return x_PD + layer.dropout(_attend(module, query, key, value, packing, packing, bias))


def _attend(
    module: MT5Attention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Packing,
    keys: Packing,
    bias: Tensor | None,
) -> Tensor:
    """Attention with projected queries and keys; mT5 does not scale its logits."""
    p = module.dropout if module.training else 0.0
    if _on_cpu(queries.device):
        return module.o(clip_attention(query, key, value, queries, keys, module.n_heads, bias, p))
    pairs = (query, queries), (key, keys), (value, keys)
    padded = [heads(packing.pad(x), module) for x, packing in pairs]
    out_BHSC = scaled_dot_product_attention(*padded, attn_mask=bias, dropout_p=p, scale=1.0)
    return module.o(queries.pack(out_BHSC.transpose(1, 2).flatten(2)))


def _feed_forward(layer: MT5LayerFF, x_PD: Tensor) -> Tensor:
    module = layer.DenseReluDense
    if not _on_cpu(x_PD.device):
        return x_PD + layer.dropout(module(norm(layer.layer_norm, x_PD)))
    gate_PF, up_PF = _projected(layer.layer_norm, x_PD, module.wi_0, module.wi_1)
    p = module.dropout.p if module.training else 0.0
    return x_PD + layer.dropout(gated_product(gate_PF, up_PF, module.wo.weight, p))


def _projected(layer: MT5LayerNorm, x_PD: Tensor, *projections: nn.Linear) -> tuple[Tensor, ...]:
    """What each makes of the normalised x."""
    if _on_cpu(x_PD.device):
        weights = (projection.weight for projection in projections)
        return normed_projections(x_PD, layer.weight, layer.variance_epsilon, *weights)
    normed_PD = norm(layer, x_PD)
    return tuple(projection(normed_PD) for projection in projections)


def norm(layer: MT5LayerNorm, x: Tensor) -> Tensor:
    """mT5's layer norm of [..., D], in one pass."""
    return rms_norm(x, layer.weight.shape, layer.weight, layer.variance_epsilon)


def heads(x_BSD: Tensor, module: MT5Attention) -> Tensor:
    """[B, H, S, C], a view: the channels of each head."""
    return x_BSD.unflatten(-1, (module.n_heads, module.key_value_proj_dim)).transpose(1, 2)


def _on_cpu(device: torch.device) -> bool:
    """Clips one by one, and what is cheap computed again."""
    return device.type == "cpu"


def _position_bias(stack: MT5Stack, packing: Packing, causal: bool) -> Tensor:
    """To be added to the logits of every layer: position bias, and what may not be attended to. [B, H, S, S], or
    [H, S, S] where clips are taken one by one.
    """
    first, longest = stack.block[0].layer[0].SelfAttention, packing.longest
    bias = first.compute_bias(longest, longest, device=packing.device)
    if causal:
        bias = bias + _additive(torch.ones(longest, longest, dtype=torch.bool, device=bias.device).tril(), bias.dtype)
    if _on_cpu(packing.device):
        return bias[0].contiguous()
    return bias + _additive(packing.mask_BS[:, None, None], bias.dtype)


def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where attention is allowed, elsewhere half the least finite number, so that two of them stay finite."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(
        ~allowed, torch.finfo(dtype).min / 2
    )
