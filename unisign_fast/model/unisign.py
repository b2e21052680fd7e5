"""Uni-Sign (ICLR 2025): keypoints and sampled hand crops to text. This file shows the whole path of a batch.

Shapes as in pipelines/batches/packed_batch.py, except P: packed positions of mT5's encoder (prompts and frames).
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from unisign_fast.checkpoints.model_folder import ModelFolderMixin
from unisign_fast.kernels.packing import Packing
from unisign_fast.kernels.temporal_conv.reference import Clips
from unisign_fast.model.beam_search import Hypothesis, search_hypotheses
from unisign_fast.model.config import ModelConfig
from unisign_fast.model.mt5 import LanguageModel, decoder_inputs
from unisign_fast.model.rgb_branch import RGBBranch
from unisign_fast.model.st_gcn import PoseEncoder, TemporalEncoder
from unisign_fast.model.task_heads import build_head
from unisign_fast.pipelines.batches.packed_batch import PackedBatch
from unisign_fast.pipelines.skeleton import HANDS
from unisign_fast.text.tokenizer import END

# The parts that each encoder takes: both hands share one (published code; the paper counts three).
ENCODER_PARTS = {"body": ("body",), "hand": HANDS, "face": ("face",)}
# The encoder of each part, and the part's index within it.
ENCODER_OF = {part: (name, index) for name, parts in ENCODER_PARTS.items() for index, part in enumerate(parts)}


class UniSign(ModelFolderMixin):
    """The model of the paper's Figure 5, with random weights; `from_pretrained` loads trained ones."""

    config_class = ModelConfig

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        width = config.pose_channels[-1]
        parts = config.part_names
        self.skeleton = config.joints
        self.pose_encoders, self.temporal_encoders = nn.ModuleDict(), nn.ModuleDict()
        graphs = {  # adjacency of each encoder, and how many parts share it
            name: (torch.from_numpy(self.skeleton.adjacency(shared[0])), len(shared))
            for name, shared in ENCODER_PARTS.items()
            if shared[0] in parts
        }
        # All pose encoders first: the initial weights of a seed depend on the order of the draws.
        for name, (adjacency_KVV, count) in graphs.items():
            self.pose_encoders[name] = PoseEncoder(adjacency_KVV, config.pose_channels, count)
        for name, (adjacency_KVV, count) in graphs.items():
            self.temporal_encoders[name] = TemporalEncoder(adjacency_KVV, width, count)
        self.rgb = RGBBranch(config) if config.rgb else None
        self.part_bias = nn.Parameter(torch.zeros(width * len(parts))) if config.part_bias else None
        self.projection = nn.Linear(width * len(parts), config.mt5.d_model)
        nn.init.trunc_normal_(self.projection.weight, std=config.projection_std)
        nn.init.zeros_(self.projection.bias)
        needs_mt5 = config.head == "language_model" or config.head_features == "encoder"
        self.language_model = LanguageModel(config.mt5, config.label_smoothing) if needs_mt5 else None
        self.head = build_head(config) if config.head != "language_model" else None

    def forward(self, batch: PackedBatch) -> Tensor:
        """[2] float32: the sum of the targets' losses, and the number of targets (`target_count`).

        A sum instead of a mean, so that ranks and micro-batches can be weighted by their tokens. Every parameter in use
        gets a gradient, even from a batch without clips or crops, as ZeRO requires on every rank.
        """
        filled = _never_empty(batch)
        if self.head is not None:
            loss = self.head.loss(*self._head_input(self._features(batch), filled), filled.texts)
        else:
            targets = Packing(filled.label_lengths, batch.poses.device)
            labels_L = targets.pack(filled.label_ids)
            # Before the sign encoder: the embedding's gradient, the largest, is allocated after the maps are freed.
            inputs_L = decoder_inputs(labels_L, targets)
            prompt_PD, inputs_LD = self._mt5.embed(_prompt_ids(filled), inputs_L)
            hidden_PD, packing = self.encode(self._features(batch), filled, prompt_PD)
            loss = self._mt5.token_loss(hidden_PD, packing, labels_L, targets, inputs_LD)
        return bool(batch.lengths) * torch.stack([loss, torch.full_like(loss, self.target_count(filled))])

    def target_count(self, batch: PackedBatch) -> int:
        """The denominator of the mean loss, known on the host: target tokens, or a task head's clips or glosses."""
        return sum(batch.label_lengths) if self.head is None else self.head.count(batch.texts)

    def generate(self, batch: PackedBatch, beams: int = 4, max_new_tokens: int = 100) -> list[list[int]] | list[str]:
        """Beam search: each clip's tokens, for Tokenizer.decode; a task head returns texts instead."""
        if self.head is not None:
            return self._predict(batch)
        return [texts[0].tokens for texts in self.hypotheses(batch, beams, max_new_tokens)]

    @torch.no_grad()
    def hypotheses(self, batch: PackedBatch, beams: int = 4, max_new_tokens: int = 100) -> list[list[Hypothesis]]:
        """Beam search: up to `beams` texts of each clip, best first, as tokens with scores. Not for task heads."""
        assert self.head is None, "a task head has no beams"
        encoded = self.encode(self._features(batch), _never_empty(batch))
        result = search_hypotheses(self._mt5.mt5, *encoded, beams, max_new_tokens)
        return result[: len(batch.lengths)]

    @torch.no_grad()
    def _predict(self, batch: PackedBatch) -> list[str]:
        assert self.head is not None
        result = self.head.predict(*self._head_input(self._features(batch), _never_empty(batch)))
        return result[: len(batch.lengths)]

    def sign_features(self, batch: PackedBatch) -> Tensor:
        """[F, D]: one feature per frame, all parts together, projected to the language model's width."""
        clips = Clips.of(Packing(batch.lengths, batch.poses.device).cu_seqlens, len(batch.poses))
        poses_FJ3 = batch.poses.to(self.projection.weight.dtype)
        pose_FVC = {}
        for part in self.config.part_names:
            name, index = ENCODER_OF[part]
            pose_FVC[part] = self.pose_encoders[name](poses_FJ3[:, self.skeleton.slices[part]], index)
        if self.rgb is not None:
            pose_FVC |= zip(HANDS, self.rgb([pose_FVC[hand] for hand in HANDS], batch))
        pooled = []
        for part, x_FVC in pose_FVC.items():
            if part != "body" and "body" in pose_FVC and self.config.body_anchors:
                x_FVC = x_FVC + pose_FVC["body"][:, self.skeleton.parts[part].anchor, None].detach()
            name, index = ENCODER_OF[part]
            pooled.append(self.temporal_encoders[name](x_FVC, clips, index))
        features = torch.cat(pooled, -1)
        return self.projection(features if self.part_bias is None else features + self.part_bias)

    def embed(self, features_FD: Tensor, batch: PackedBatch, prompt_PD: Tensor | None = None) -> tuple[Tensor, Packing]:
        """The input of mT5's encoder, packed [P, D]: each clip's prompt, then its frames.

        There is no gap between prompt and frames, since mT5 sees only the distances between positions.
        `prompt_PD`: the embedded prompts, if already computed.
        """
        device = features_FD.device
        prompts, frames = Packing(batch.prompt_lengths, device), Packing(batch.lengths, device)
        packing = Packing([p + t for p, t in zip(batch.prompt_lengths, batch.lengths)], device)
        if prompt_PD is None:
            (prompt_PD,) = self._mt5.embed(_prompt_ids(batch))
        prompt_rows = packing.cu_seqlens[prompts.seq_ids_P] + prompts.position_P
        frame_rows = (
            packing.cu_seqlens[frames.seq_ids_P] + prompts.cu_seqlens.diff()[frames.seq_ids_P] + frames.position_P
        )
        packed_PD = features_FD.new_zeros(packing.rows, features_FD.shape[1])
        return packed_PD.index_copy(0, prompt_rows, prompt_PD).index_copy(0, frame_rows, features_FD), packing

    def encode(
        self, features_FD: Tensor, batch: PackedBatch, prompt_PD: Tensor | None = None
    ) -> tuple[Tensor, Packing]:
        """mT5's hidden states for the output of `embed`, packed [P, D]."""
        embeddings_PD, packing = self.embed(features_FD, batch, prompt_PD)
        return self._mt5.encode(embeddings_PD, packing), packing

    @property
    def _mt5(self) -> LanguageModel:
        assert self.language_model is not None, "the configuration has no language model"
        return self.language_model

    def _features(self, batch: PackedBatch) -> Tensor:
        """The sign features [F, D]; for a batch without clips, a zero frame that gives every parameter a gradient."""
        features_FD = self.sign_features(batch)
        if batch.lengths:
            return features_FD
        return features_FD.new_zeros(1, features_FD.shape[1]) + features_FD.sum()

    def _head_input(self, features_FD: Tensor, batch: PackedBatch) -> tuple[Tensor, Packing]:
        """A task head's input, padded [B, T, D], and the frames' packing: sign features, or mT5's hidden states."""
        frames = Packing(batch.lengths, features_FD.device)
        if self.config.head_features == "encoder":
            hidden_PD, packing = self.encode(features_FD, batch)
            prompt_B = packing.cu_seqlens.diff() - frames.cu_seqlens.diff()
            rows_F = packing.cu_seqlens[frames.seq_ids_P] + prompt_B[frames.seq_ids_P] + frames.position_P
            features_FD = hidden_PD[rows_F]
        return frames.pad(features_FD), frames


def _never_empty(batch: PackedBatch) -> PackedBatch:
    """Replace a batch without clips, which mT5 rejects, with one clip of one frame and one token."""
    if batch.lengths:
        return batch
    one = batch.prompt_ids.new_full((1, 1), END)
    return replace(
        batch, clip_ids=[""], texts=[""], lengths=[1],
        prompt_ids=one, prompt_lengths=[1], label_ids=one, label_lengths=[1],
    )  # fmt: skip


def _prompt_ids(batch: PackedBatch) -> Tensor:
    """The tokens of all prompts, packed."""
    return Packing(batch.prompt_lengths, batch.prompt_ids.device).pack(batch.prompt_ids)
