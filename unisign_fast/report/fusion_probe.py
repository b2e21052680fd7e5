"""Gates and sampling points of the prior-guided fusion for each hand crop (paper, section 3.3)."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unisign_fast.model.fusion import KeypointAttention
from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.batches.packed_batch import PackedBatch


class Fusion(NamedTuple):
    """Gates and sampling points of the N crops of a batch, in order."""

    gate_NV: np.ndarray | None  # share of the fused feature in a joint's feature, 0 to 1 (equation 3)
    position_NGV2: np.ndarray | None  # x and y in the crop, [0, 1] inside it; None for fusion by cross-attention


def probe(model: UniSign, batch: PackedBatch) -> Fusion:
    """Runs the sign encoder in evaluation mode; the model must have an RGB branch and the batch crops."""
    assert model.rgb is not None and len(batch.crops)
    fusion = model.rgb.fusion
    seen: dict[str, Tensor] = {}
    hooks = [fusion.gate.register_forward_hook(lambda module, inputs, gate_NV1: seen.update(gate=gate_NV1))]
    if fusion.deformable:  # the position bias gets the sampling points as its second input
        assert isinstance(fusion.local, KeypointAttention)
        bias = fusion.local.position_bias
        hooks.append(bias.register_forward_hook(lambda module, inputs, out: seen.update(position=inputs[1])))
    model.eval()
    try:
        with torch.no_grad():
            model.sign_features(batch)
    finally:
        for hook in hooks:
            hook.remove()
    position = (seen["position"].float().cpu().numpy() + 1) / 2 if fusion.deformable else None
    return Fusion(seen["gate"].squeeze(-1).float().cpu().numpy(), position)
