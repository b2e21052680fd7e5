"""What the published code does to evaluate a pose-only model, written from its rules, to be compared with.

Batches in the order of the data set, clips padded with their last frame, the padding inside the graph convolutions,
each hand's run on its own; a forward pass with the vocabulary loss computed twice; then generation, which runs mT5's
encoder once more. Reading clips and mT5 are ours, so that only the way of evaluating counts.
"""

import torch
from torch import Tensor
from torch.nn.functional import batch_norm, conv2d, cross_entropy, linear

from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.batches.packed_batch import PackedBatch
from unisign_fast.pipelines.batches.reader import ClipReader
from unisign_fast.pipelines.skeleton import ANCHOR_JOINT, PART_SLICES
from unisign_fast.published.convert import to_published
from unisign_fast.published.layout import PUBLISHED_PARTS
from unisign_fast.text.tokenizer import PAD, Tokenizer

BEAMS, SMOOTHING = 4, 0.2
EPS = 1e-5  # of batch normalisation
PARTS = {"body": "body", "left": "left", "right": "right", "face": PUBLISHED_PARTS["face"][0]}  # ours -> published


class PublishedEvaluation:
    """The published way, with the weights of a model of ours."""

    def __init__(
        self, model: UniSign, tokenizer: Tokenizer, reader: ClipReader, device: torch.device, max_new_tokens: int
    ):
        self.mt5, self.tokenizer, self.reader, self.device = model.language_model.mt5, tokenizer, reader, device
        self.weights = to_published(model.eval())
        self.max_new_tokens = max_new_tokens

    def texts(self, split: str, clips_per_batch: int) -> list[str]:
        """The texts of a split in the order of its clips, which must all be good."""
        clips, texts = self.reader.clips(split), []
        for first in range(0, len(clips), clips_per_batch):
            numbers = range(first, min(first + clips_per_batch, len(clips)))
            loaded = self.reader.batch(clips, numbers, epoch=0, training=False)
            if loaded.bad:
                raise loaded.bad[0].error
            texts += [self.tokenizer.decode(row[1:]) for row in self.tokens(loaded.batch.to(self.device)).tolist()]
        return texts

    @torch.no_grad()
    def tokens(self, batch: PackedBatch) -> Tensor:
        """[B, at most 1 + max_new_tokens]."""
        features_BTD = self.features(pad_with_last(batch))
        longest = features_BTD.shape[1]
        prompt_BPD, prompt_BP = self.mt5.shared(batch.prompt_ids), batch.prompt_ids != PAD
        length_B = torch.tensor(batch.lengths, device=self.device)
        mask_BS = torch.cat([prompt_BP, torch.arange(longest, device=self.device) < length_B[:, None]], 1).long()
        inputs = {"inputs_embeds": torch.cat([prompt_BPD, features_BTD], 1), "attention_mask": mask_BS}
        logits = self.mt5(**inputs, labels=batch.label_ids).logits
        cross_entropy(logits.flatten(0, 1), batch.label_ids.flatten(), label_smoothing=SMOOTHING).item()
        return self.mt5.generate(**inputs, num_beams=BEAMS, max_new_tokens=self.max_new_tokens)

    def features(self, poses_BTJ3: Tensor) -> Tensor:
        """[B, T, D]: one feature a frame, all parts together."""
        weights, pooled, body = self.weights, [], None
        for part, name in PARTS.items():
            layer = f"proj_linear.{name}"
            x_BTVC = linear(poses_BTJ3[:, :, PART_SLICES[part]], weights[f"{layer}.weight"], weights[f"{layer}.bias"])
            x_BCTV = x_BTVC.permute(0, 3, 1, 2)
            for level in range(3):
                x_BCTV = self._block(x_BCTV, f"gcn_modules.{name}.layer{level}_0")
            if part == "body":
                body = x_BCTV
            else:
                x_BCTV = x_BCTV + body[..., ANCHOR_JOINT[part], None]
            for level in range(3):
                x_BCTV = self._block(x_BCTV, f"fusion_gcn_modules.{name}.layer0_{level}")
            pooled.append(x_BCTV.mean(-1).transpose(1, 2))
        features = torch.cat(pooled, -1) + weights["part_para"]
        return linear(features, weights["pose_proj.weight"], weights["pose_proj.bias"])

    def _block(self, x_BCTV: Tensor, name: str) -> Tensor:
        """Graph convolution, batch norm, ReLU; in temporal blocks a convolution over frames; residual, ReLU."""
        y = self._conv(x_BCTV, f"{name}.gcn.conv")
        hops = y.unflatten(1, (2, -1))
        y = torch.einsum("bkctv,kvw->bctw", hops, self.weights[f"{name}.gcn.A"])
        y = self._norm(y, f"{name}.gcn.bn").relu()
        if f"{name}.tcn.0.weight" in self.weights:
            y = self._norm(self._conv(y, f"{name}.tcn.0", padding=(2, 0)), f"{name}.tcn.1")
        residual = x_BCTV
        if f"{name}.residual.0.weight" in self.weights:
            residual = self._norm(self._conv(x_BCTV, f"{name}.residual.0"), f"{name}.residual.1")
        return (y + residual).relu()

    def _conv(self, x: Tensor, name: str, padding: tuple[int, int] = (0, 0)) -> Tensor:
        return conv2d(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], padding=padding)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        of = {entry: self.weights[f"{name}.{entry}"] for entry in ("running_mean", "running_var", "weight", "bias")}
        return batch_norm(x, *of.values(), training=False, eps=EPS)


def pad_with_last(batch: PackedBatch) -> Tensor:
    """Poses [B, T, J, 3], every clip as long as the longest, its last frame repeated."""
    longest = max(batch.lengths)
    clips = batch.poses.split(batch.lengths)
    return torch.stack([torch.cat([clip, clip[-1:].expand(longest - len(clip), -1, -1)]) for clip in clips])
