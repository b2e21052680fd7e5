"""The published code's evaluation of a pose-only model, reimplemented from its rules as a baseline.

Batches in the order of the data set, clips padded with their last frame, the padding inside the graph convolutions,
each hand's run on its own; a forward pass with the vocabulary loss computed twice; then generation, which runs mT5's
encoder once more. Reading clips and mT5 are ours, so that only the way of evaluating counts.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.baseline.forward import PublishedForward
from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.batches.packed_batch import PackedBatch
from unisign_fast.pipelines.batches.reader import ClipReader
from unisign_fast.pipelines.skeleton import PART_SLICES
from unisign_fast.published.convert import to_published
from unisign_fast.published.layout import PUBLISHED_PARTS
from unisign_fast.text.tokenizer import PAD, Tokenizer

BEAMS, SMOOTHING = 4, 0.2
PARTS = {"body": "body", "left": "left", "right": "right", "face": PUBLISHED_PARTS["face"][0]}  # ours -> published


class PublishedEvaluation:
    """The published way, with the weights of a model of ours."""

    def __init__(
        self, model: UniSign, tokenizer: Tokenizer, reader: ClipReader, device: torch.device, max_new_tokens: int
    ):
        self.mt5, self.tokenizer, self.reader, self.device = model.language_model.mt5, tokenizer, reader, device
        self.forward = PublishedForward(to_published(model.eval()), training=False)
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
        poses_BTJ3 = pad_with_last(batch)
        parts = {name: poses_BTJ3[:, :, PART_SLICES[part]] for part, name in PARTS.items()}
        features_BTD = self.forward.sign_features(parts)
        longest = features_BTD.shape[1]
        prompt_BPD, prompt_BP = self.mt5.shared(batch.prompt_ids), batch.prompt_ids != PAD
        length_B = torch.tensor(batch.lengths, device=self.device)
        mask_BS = torch.cat([prompt_BP, torch.arange(longest, device=self.device) < length_B[:, None]], 1).long()
        inputs = {"inputs_embeds": torch.cat([prompt_BPD, features_BTD], 1), "attention_mask": mask_BS}
        logits = self.mt5(**inputs, labels=batch.label_ids).logits
        cross_entropy(logits.flatten(0, 1), batch.label_ids.flatten(), label_smoothing=SMOOTHING).item()
        return self.mt5.generate(**inputs, num_beams=BEAMS, max_new_tokens=self.max_new_tokens)


def pad_with_last(batch: PackedBatch) -> Tensor:
    """Poses [B, T, J, 3], every clip as long as the longest, its last frame repeated."""
    longest = max(batch.lengths)
    clips = batch.poses.split(batch.lengths)
    return torch.stack([torch.cat([clip, clip[-1:].expand(longest - len(clip), -1, -1)]) for clip in clips])
