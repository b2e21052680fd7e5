"""mT5 after the sign encoder: prompt, packed encoder and decoder, loss per token (paper, section 3.2).

Uses Hugging Face's weights and gives its results, but on packed sequences. The attention bias (relative positions) is
built once per stack.

D model width; P packed positions of the encoder (prompts and frames), L target tokens; B clips, S and T their padded
lengths; H heads.
"""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm
from transformers import MT5Config, MT5ForConditionalGeneration
from transformers.models.mt5.modeling_mt5 import MT5Attention, MT5LayerFF, MT5LayerNorm, MT5LayerSelfAttention, MT5Stack

from unisign_fast.kernels.cross_entropy.op import cross_entropy
from unisign_fast.kernels.dropout.op import dropout_seeds
from unisign_fast.kernels.geglu.op import geglu
from unisign_fast.kernels.packing import Packing
from unisign_fast.kernels.projections.op import projections
from unisign_fast.kernels.residual_rms_norm.op import residual_rms_norm
from unisign_fast.kernels.varlen_attention.op import bias_size, varlen_attention
from unisign_fast.model.config import MT5Shape
from unisign_fast.model.dropout import Dropout, replace_dropout
from unisign_fast.text.tokenizer import END, PAD


def build_mt5(shape: MT5Shape) -> MT5ForConditionalGeneration:
    """An mT5 with random weights and, as in the published models, an untied output head."""
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
        """The embeddings [n, D] of several sequences of tokens [n].

        A single lookup for all of them: every lookup has a gradient as large as the whole embedding matrix.
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
        """The cross entropy with label smoothing, summed over all target tokens: a float32 scalar (equation 5).

        hidden_PD, packing: the encoded clips; labels_L, targets: their target tokens; inputs_LD: the embeddings of the
        `decoder_inputs`, if already computed.
        """
        if inputs_LD is None:
            (inputs_LD,) = self.embed(decoder_inputs(labels_L, targets))
        decoded_LD = decode(self.mt5.decoder, inputs_LD, targets, hidden_PD, packing)
        return cross_entropy(decoded_LD, self.mt5.lm_head.weight, labels_L, self.label_smoothing)


def decoder_inputs(labels_L: Tensor, targets: Packing) -> Tensor:
    """The decoder's input tokens [L]: the token before each target token, and the start token before a clip's first."""
    return labels_L.roll(1).masked_fill(targets.position_P == 0, PAD)


def sublayers(stack: MT5Stack) -> list[tuple[Any, ...]]:
    """Each block's self-attention, cross-attention (decoder only) and feed-forward."""
    blocks: Any = stack.block
    return [tuple(block.layer) for block in blocks]


def encode(stack: MT5Stack, x_PD: Tensor, packing: Packing) -> Tensor:
    """Hidden states [P, D] of the encoder, from embeddings [P, D]."""
    bias_HSS, stream = _position_bias(stack, packing), _Stream(stack, x_PD)
    for attention, feed_forward in sublayers(stack):
        stream.add(_self_attention(attention, stream, packing, bias_HSS, causal=False), attention.dropout)
        stream.add(_feed_forward(feed_forward, stream), feed_forward.dropout)
    return stack.dropout(stream.normed_PD)


def decode(stack: MT5Stack, x_LD: Tensor, packing: Packing, hidden_PD: Tensor, encoder_packing: Packing) -> Tensor:
    """Hidden states [L, D] of the decoder, from embeddings [L, D] of the target and the encoder's hidden states."""
    bias_HSS, stream = _position_bias(stack, packing), _Stream(stack, x_LD)
    for layers, key_value_P2D in zip(sublayers(stack), _keys_and_values(stack, hidden_PD), strict=True):
        attention, cross_attention, feed_forward = layers
        stream.add(_self_attention(attention, stream, packing, bias_HSS, causal=True), attention.dropout)
        module = cross_attention.EncDecAttention
        projected = projections(stream.normed_PD, (module.q.weight,)), key_value_P2D
        attended_LD = _attend(module, stream, projected, None, packing, encoder_packing, causal=False)
        stream.add(attended_LD, cross_attention.dropout)
        stream.add(_feed_forward(feed_forward, stream), feed_forward.dropout)
    return stack.dropout(stream.normed_PD)


class _Stream:
    """The residual stream [P, D] of a stack, and its normalized values, which the next sublayer reads."""

    def __init__(self, stack: MT5Stack, x_PD: Tensor):
        layers = [layer for block in sublayers(stack) for layer in block]
        self._norms = iter([*(layer.layer_norm for layer in layers), stack.final_layer_norm])
        masks = 2 * len(layers)  # of a sublayer's output, and of its attention weights or its feed-forward's gate
        self._seeds = iter(dropout_seeds(masks, x_PD) if stack.training else [None] * masks)
        self.x_PD = stack.dropout(x_PD)
        self.normed_PD = norm(next(self._norms), self.x_PD)

    def add(self, branch_PD: Tensor, dropout: nn.Dropout) -> None:
        """Add a sublayer's output."""
        layer = next(self._norms)
        inputs = self.x_PD, branch_PD, layer.weight, layer.variance_epsilon
        self.x_PD, self.normed_PD = residual_rms_norm(*inputs, *self.mask(dropout.p, dropout.training))

    def mask(self, p: float, training: bool) -> tuple[float, Tensor | None]:
        """The dropout probability, and the seed of the next mask."""
        return p if training else 0.0, next(self._seeds)


def _keys_and_values(stack: MT5Stack, hidden_PD: Tensor) -> tuple[Tensor, ...]:
    """Keys and values [P, 2 D] of each layer's cross-attention, concatenated; one matrix product for all layers."""
    modules = [cross_attention.EncDecAttention for _, cross_attention, _ in sublayers(stack)]
    weights = [projection.weight for module in modules for projection in (module.k, module.v)]
    return linear(hidden_PD, torch.cat(weights)).chunk(len(modules), 1)


def _self_attention(
    layer: MT5LayerSelfAttention, stream: _Stream, packing: Packing, bias_HSS: Tensor, causal: bool
) -> Tensor:
    module = layer.SelfAttention
    qkv_P3D = projections(stream.normed_PD, (module.q.weight, module.k.weight, module.v.weight))
    return _attend(module, stream, (qkv_P3D,), bias_HSS, packing, packing, causal)


def _attend(
    module: MT5Attention,
    stream: _Stream,
    projected: tuple[Tensor, ...],
    bias_HSS: Tensor | None,
    queries: Packing,
    keys: Packing,
    causal: bool,
) -> Tensor:
    mask = stream.mask(module.dropout, module.training)
    return module.o(varlen_attention(projected, bias_HSS, queries, keys, module.n_heads, causal, *mask))


def _feed_forward(layer: MT5LayerFF, stream: _Stream) -> Tensor:
    module = layer.DenseReluDense
    gate_up_P2F = projections(stream.normed_PD, (module.wi_0.weight, module.wi_1.weight))
    return module.wo(geglu(gate_up_P2F, *stream.mask(module.dropout.p, module.dropout.training)))


def norm(layer: MT5LayerNorm, x: Tensor) -> Tensor:
    """mT5's layer norm (RMS norm) of [..., D], in one pass."""
    return rms_norm(x, layer.weight.shape, layer.weight, layer.variance_epsilon)


def _position_bias(stack: MT5Stack, packing: Packing) -> Tensor:
    """[H, S, S], contiguous, S as `bias_size` gives it: the bias on every layer's attention logits by the distance from
    query to key.
    """
    first, size = sublayers(stack)[0][0].SelfAttention, bias_size(packing.longest)
    return first.compute_bias(size, size, device=packing.device)[0].contiguous()
