"""The published code's training step, reimplemented from its rules: the baseline.

Clips padded with their last frame; graph convolutions over [B, C, T, V], padding too; backbone and hand encoder once a
hand; a loop over the clips in the fusion that copies the whole feature tensor each time; texts tokenised in the forward
pass; Hugging Face's mT5 with a padding mask; all logits, and the loss from them twice; the loss fetched each time.
What does not change its cost is this project's: weights, the fusion's arithmetic, EfficientNet, the optimiser.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers.activations import ACT2FN

from benchmarks.baseline.data import pad
from unisign_fast.kernels.bn_silu.reference import Parts, after_norm
from unisign_fast.kernels.mbconv.reference import Block, Layer, layer_by_layer
from unisign_fast.model.dropout import replace_dropout
from unisign_fast.model.efficientnet import EfficientNet, MBConv
from unisign_fast.model.st_gcn import GraphBlock
from unisign_fast.model.unisign import ENCODER_OF, UniSign
from unisign_fast.pipelines.batches.collate import Sample
from unisign_fast.pipelines.batches.packed_batch import IGNORED
from unisign_fast.pipelines.skeleton import ANCHOR_JOINT, HANDS
from unisign_fast.published.layout import without_parts
from unisign_fast.text.tokenizer import PAD, Tokenizer


@dataclass(frozen=True)
class PublishedBatch:
    """Padded clips. Of each hand (left, right): the crops of all clips, and how many each clip has."""

    texts: list[str]  # B
    languages: list[str]  # B
    lengths: list[int]  # B
    parts: dict[str, Tensor]  # [B, T, V, 3]
    crops: tuple[Tensor, Tensor]  # [n, 3, S, S] float32, normalised
    crop_counts: tuple[list[int], list[int]]  # B each
    crop_frame: tuple[Tensor, Tensor]  # [n] frames of their clips
    crop_points: tuple[Tensor, Tensor]  # [n, 21, 2] in [0, 1]

    def to(self, device: torch.device) -> "PublishedBatch":
        """The same batch with every tensor on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "PublishedBatch":
        """What torch's DataLoader asks for, so that copies to a GPU need not wait."""
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> "PublishedBatch":
        pairs = {name: tuple(map(function, getattr(self, name))) for name in ("crops", "crop_frame", "crop_points")}
        return replace(self, parts={part: function(x) for part, x in self.parts.items()}, **pairs)


def published_batch(
    samples: Sequence[Sample], languages: Sequence[str], parts: Sequence[dict[str, Tensor]], crops: Sequence[Tensor]
) -> PublishedBatch:
    """From what the rules chose of each clip, its parts [T, V, 3], and its crops [n, 3, S, S], left hands first."""
    both = range(len(HANDS))
    rows = [[sample.rows(hand) for sample in samples] for hand in both]
    return PublishedBatch(
        texts=[sample.text for sample in samples],
        languages=list(languages),
        lengths=[len(sample.poses) for sample in samples],
        parts=pad(list(parts)),
        crops=tuple(torch.cat([x[r] for x, r in zip(crops, rows[hand])]) for hand in both),
        crop_counts=tuple([sample.crops_per_hand[hand] for sample in samples] for hand in both),
        crop_frame=tuple(
            torch.cat([torch.from_numpy(s.crop_frame[r]) for s, r in zip(samples, rows[hand])]) for hand in both
        ),
        crop_points=tuple(
            torch.cat([torch.from_numpy(s.crop_points[r]) for s, r in zip(samples, rows[hand])]) for hand in both
        ),
    )


def _conv(weight: Tensor, bias: Tensor, padding: tuple[int, int] = (0, 0)) -> nn.Conv2d:
    """A convolution with these weights [O, C, h, w]."""
    outputs, inputs, *kernel = weight.shape
    conv = nn.Conv2d(inputs, outputs, kernel, padding=padding)
    conv.load_state_dict({"weight": weight, "bias": bias})
    return conv


class TorchBatchNorm(nn.BatchNorm2d):
    """torch's own BatchNorm: one set of statistics, one part per call."""

    def __init__(self, channels: int, parts: int):
        assert parts == 1, "one running mixture, as published"
        super().__init__(channels)

    def forward(self, x_NCHW: Tensor, parts: Parts, *what_follows) -> Tensor:
        assert len(parts.counts) == 1, "the published code runs hand after hand"
        return after_norm(super().forward(x_NCHW), *what_follows)


class TorchMBConv(MBConv):
    """An inverted bottleneck whose normalizations are TorchBatchNorm."""

    def branch(self, x_NCHW: Tensor, parts: Parts) -> Tensor:
        *convolutions, excitation, projection = self.block
        layers = [Layer(layer.conv, layer[1]) for layer in (*convolutions, projection)]
        block = Block(layers[0] if len(layers) > 2 else None, layers[-2], excitation.layer, layers[-1])
        return layer_by_layer(lambda x, parts, norm, _, *after: norm(x, parts, *after), x_NCHW, parts, block, True)


torch_efficientnet = partial(EfficientNet, batch_norm=TorchBatchNorm, bottleneck=TorchMBConv)


def _norm(ours: nn.Module) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(len(ours.weight))
    norm.load_state_dict(without_parts(ours.state_dict()))
    return norm


class PublishedBlock(nn.Module):
    """A graph block over padded clips: x_BCTV -> y_BOTV."""

    def __init__(self, block: GraphBlock):
        super().__init__()
        graph = block.graph
        self.adjacency = graph.adjacency
        self.conv = _conv(graph.weight.flatten(0, 1)[..., None, None], graph.bias.flatten())
        self.norm = _norm(block.graph_norm)
        self.shortcut = self.time = nn.Identity()
        if graph.has_shortcut:
            conv = _conv(graph.shortcut_weight[..., None, None], graph.shortcut_bias)
            self.shortcut = nn.Sequential(conv, _norm(block.shortcut_norm))
        if block.time is not None:
            taps = block.time.weight.permute(1, 2, 0)[..., None]
            self.time = nn.Sequential(_conv(taps, block.time.bias, (taps.shape[2] // 2, 0)), _norm(block.time_norm))

    def forward(self, x_BCTV: Tensor) -> Tensor:
        hops_BKCTV = self.conv(x_BCTV).unflatten(1, (len(self.adjacency), -1))
        y_BCTV = torch.einsum("nkctv,kvw->nctw", hops_BKCTV, self.adjacency)
        y_BCTV = self.time(self.norm(y_BCTV).relu())
        return (y_BCTV + self.shortcut(x_BCTV)).relu()


class PublishedUniSign(nn.Module):
    """The published forward pass with the weights of `model`, which gives some of its modules and is of no use then.

    forward(PublishedBatch) -> [2] as UniSign's: sum of the target tokens' losses, and their number.
    """

    def __init__(self, model: UniSign, tokenizer: Tokenizer):
        super().__init__()
        self.config, self.tokenizer = model.config, tokenizer
        assert model.config.head == "language_model" and model.config.body_anchors, "published models only"
        self.embeddings = nn.ModuleDict({name: encoder.embedding for name, encoder in model.pose_encoders.items()})
        for stage in ("pose_encoders", "temporal_encoders"):
            stacks = {
                name: nn.Sequential(*(PublishedBlock(block) for block in encoder.blocks))
                for name, encoder in getattr(model, stage).items()
            }
            setattr(self, stage, nn.ModuleDict(stacks))
        self.rgb = None
        if model.rgb is not None:
            size = model.config.backbone_width, model.config.backbone_depth
            backbone = torch_efficientnet(*size)
            backbone.load_state_dict(without_parts(model.rgb.backbone.state_dict()))
            modules = {"backbone": backbone, "projection": model.rgb.projection, "fusion": model.rgb.fusion}
            self.rgb = nn.ModuleDict(modules)
        self.part_bias, self.projection = model.part_bias, model.projection
        self.mt5, self.label_smoothing = model.language_model.mt5, model.config.label_smoothing
        for block in (*self.mt5.encoder.block, *self.mt5.decoder.block):
            block.layer[-1].DenseReluDense.act = ACT2FN["gelu_new"]  # Hugging Face's own, as is dropout
        replace_dropout(self.mt5, nn.Dropout)

    def forward(self, batch: PublishedBatch) -> Tensor:
        embeddings_BSD, mask_BS = self.embed(batch)
        device = embeddings_BSD.device
        labels_BL = self._tokens([self.tokenizer.target_ids(text) for text in batch.texts], device)
        labels_BL = labels_BL.masked_fill(labels_BL == PAD, IGNORED)
        logits_BLW = self.mt5(inputs_embeds=embeddings_BSD, attention_mask=mask_BS, labels=labels_BL).logits
        loss = cross_entropy(
            logits_BLW.flatten(0, 1),
            labels_BL.flatten(),
            ignore_index=IGNORED,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )
        return torch.stack([loss.float(), (labels_BL != IGNORED).sum().float()])

    def embed(self, batch: PublishedBatch) -> tuple[Tensor, Tensor]:
        """Prompts and then frames, both padded [B, P + T, D], and their mask."""
        features_BTD = self.sign_features(batch)
        device, longest = features_BTD.device, features_BTD.shape[1]
        prompts_BP = self._tokens([self.tokenizer.prompt_ids(language) for language in batch.languages], device)
        lengths_B = torch.tensor(batch.lengths, device=device)
        frames_BT = torch.arange(longest, device=device) < lengths_B[:, None]
        mask_BS = torch.cat([prompts_BP != PAD, frames_BT], 1).long()
        return torch.cat([self.mt5.shared(prompts_BP), features_BTD], 1), mask_BS

    def sign_features(self, batch: PublishedBatch) -> Tensor:
        """[B, T, D] of all frames, padding too."""
        pooled, body_BCTV = [], None
        for part in self.config.part_names:
            name, _ = ENCODER_OF[part]
            poses = batch.parts[part].to(self.projection.weight.dtype)
            x_BCTV = self.pose_encoders[name](self.embeddings[name](poses).permute(0, 3, 1, 2))
            if self.rgb is not None and part in HANDS:
                x_BCTV = self._fuse(x_BCTV, batch, HANDS.index(part))
            if part == "body":
                body_BCTV = x_BCTV
            elif body_BCTV is not None:
                x_BCTV = x_BCTV + body_BCTV[..., ANCHOR_JOINT[part], None].detach()
            pooled.append(self.temporal_encoders[name](x_BCTV).mean(3).transpose(1, 2))
        features = torch.cat(pooled, 2)
        return self.projection(features if self.part_bias is None else features + self.part_bias)

    def _fuse(self, x_BCTV: Tensor, batch: PublishedBatch, hand: int) -> Tensor:
        if not sum(batch.crop_counts[hand]):
            return x_BCTV
        crops = batch.crops[hand].to(self.projection.weight.dtype)
        maps_NCHW = self.rgb["projection"](self.rgb["backbone"](crops, [len(crops)]))
        start = 0
        for clip, count in enumerate(batch.crop_counts[hand]):
            x_BCTV = x_BCTV.clone()
            if count:
                rows = slice(start, start + count)
                frames = batch.crop_frame[hand][rows]
                pose_NVC = x_BCTV[clip][:, frames].permute(1, 2, 0)
                fused_NVC = self.rgb["fusion"](pose_NVC, maps_NCHW[rows], batch.crop_points[hand][rows])
                x_BCTV[clip, :, frames] = fused_NVC.permute(2, 0, 1)
                start += count
        return x_BCTV

    def _tokens(self, rows: list[list[int]], device: torch.device) -> Tensor:
        padded = [torch.tensor(row) for row in rows]
        return nn.utils.rnn.pad_sequence(padded, batch_first=True, padding_value=PAD).to(device)
