"""The decoder's cache for beam search: what the beams of a clip have in common is computed once.

transformers computes the cross-attention's keys and values from encodings copied for every beam, and reorders them
after every token, though all beams of a clip attend to the same frames. The tokens found are the same.
"""

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, MT5ForConditionalGeneration


class BeamCache(EncoderDecoderCache):
    """Cross-attention keys and values are there from the start, and stay in place when beams change places."""

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Beams change places within their clip."""
        self.self_attention_cache.reorder_cache(beam_idx)


@torch.no_grad()
def beam_cache(mt5: MT5ForConditionalGeneration, hidden_BSD: Tensor, beams: int) -> BeamCache:
    """A cache to begin the generation from encoded clips with."""
    across = DynamicCache()
    for number, block in enumerate(mt5.decoder.block):
        attention = block.layer[1].EncDecAttention
        across.update(*(_heads(linear, hidden_BSD, attention, beams) for linear in (attention.k, attention.v)), number)
    return BeamCache(DynamicCache(), across)


def _heads(linear: torch.nn.Linear, hidden_BSD: Tensor, attention: torch.nn.Module, beams: int) -> Tensor:
    """[B * beams, heads, S, channels of a head]."""
    split = linear(hidden_BSD).unflatten(-1, (-1, attention.key_value_proj_dim)).transpose(1, 2)
    return split.repeat_interleave(beams, dim=0)
