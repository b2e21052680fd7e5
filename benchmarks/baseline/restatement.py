"""The published forward pass, reimplemented from its rules under the published names, one padded batch at a time.

Only torch, Hugging Face's mT5 and (for the backbone, which has its own test) our EfficientNet; float32 throughout.
`make_case` dumps what a run of the published code would: inputs, weights, numbers of every stage.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import MT5Config, MT5ForConditionalGeneration

from benchmarks.baseline.forward import PublishedForward
from benchmarks.baseline.step import torch_efficientnet

JOINTS = {"body": 9, "left": 21, "right": 21, "face_all": 18}
SMOOTHING = 0.2


class Restated(PublishedForward):
    """`weights`: published names; left and right must be the same objects, as must the three embeddings."""

    def __init__(self, weights: dict[str, Tensor], mt5_shape: dict, training: bool):
        super().__init__({}, training)
        self.w = {n: w.clone() for n, w in weights.items()}
        self.w |= {n: self.w[n.replace(".right.", ".left.")] for n in self.w if ".right." in n}
        for name, tensor in self.w.items():
            tensor.requires_grad_(tensor.is_floating_point() and "running" not in name and "gaussian" not in name)
        self.mt5 = MT5ForConditionalGeneration(MT5Config(**mt5_shape))
        self.mt5.lm_head.weight = nn.Parameter(torch.empty_like(self.mt5.shared.weight))
        self.mt5.load_state_dict(self._under("mt5_model."))
        self.mt5.train(training)
        self.backbone = torch_efficientnet() if "rgb_proj.weight" in self.w else None
        if self.backbone is not None:
            self.backbone.load_state_dict(self._under("rgb_support_backbone.0."))
            self.backbone.train(training)
        self.seen: dict[str, Tensor] = {}
        self.fused: list[Tensor] = []
        self.gates: list[Tensor] = []

    def _under(self, prefix: str) -> dict[str, Tensor]:
        return {n.removeprefix(prefix): w.detach() for n, w in self.w.items() if n.startswith(prefix)}

    def attention(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float = 0.0) -> Tensor:
        """Eight heads; q [n, i, C], k and v [n, j, C]."""
        q, k, v = (x.unflatten(2, (8, -1)).transpose(1, 2) for x in (q, k, v))
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]) + bias
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)

    def fuse(self, pose_nC21: Tensor, map_nC44: Tensor, xy_n21_2: Tensor) -> Tensor:
        """Section 7 of the rules; the gate included. Returns [n, C, 21]."""
        da, w = "fusion_pose_rgb_DA.", self.w
        n, channels = pose_nC21.shape[:2]
        reference = 2 * xy_n21_2 - 1
        phase = reference @ w[f"{da}pe_layer.positional_encoding_gaussian_matrix"] * 2 * math.pi
        pose = pose_nC21.transpose(1, 2)
        cells = map_nC44.flatten(2).transpose(1, 2) + sinusoids(16, channels)
        q, k, v = (
            F.linear(x, weight, bias)
            for x, weight, bias in zip(
                (pose + torch.cat([phase.sin(), phase.cos()], -1), cells, cells),
                w[f"{da}cross_attn.in_proj_weight"].chunk(3),
                w[f"{da}cross_attn.in_proj_bias"].chunk(3),
            )
        )
        out = F.linear(
            self.attention(q, k, v), w[f"{da}cross_attn.out_proj.weight"], w[f"{da}cross_attn.out_proj.bias"]
        )
        query = F.conv1d((pose + out).transpose(1, 2), w[f"{da}to_q.weight"], groups=8)
        grouped = query.reshape(n * 8, channels // 8, 21)
        hidden = F.conv1d(grouped, w[f"{da}to_offsets.0.weight"], w[f"{da}to_offsets.0.bias"], groups=channels // 8)
        offset = torch.tanh(F.conv1d(F.gelu(hidden), w[f"{da}to_offsets.2.weight"])) * (4 / 6)
        where = reference.repeat_interleave(8, 0) + offset.transpose(1, 2)  # [8 n, 21, 2]
        samples = F.grid_sample(map_nC44.reshape(n * 8, -1, 4, 4), where[:, None], align_corners=False)
        samples = samples.reshape(n, channels, 1, 21)
        key, value = (F.conv2d(samples, w[f"{da}to_{x}.weight"], groups=8)[:, :, 0].transpose(1, 2) for x in "kv")
        distance = reference[:, None, :, None] - where.view(n, 8, 1, 21, 2)
        x = distance.sign() * (distance.abs() + 1).log()
        for layer in ("mlp.0.0", "mlp.1.0"):
            x = F.linear(x, w[f"{da}rel_pos_bias.{layer}.weight"], w[f"{da}rel_pos_bias.{layer}.bias"]).relu()
        bias = F.linear(x, w[f"{da}rel_pos_bias.mlp.2.weight"], w[f"{da}rel_pos_bias.mlp.2.bias"])[..., 0]
        local = self.attention(query.transpose(1, 2), key, value, bias).transpose(1, 2)
        fused = F.conv1d(local, w[f"{da}to_out.weight"], w[f"{da}to_out.bias"])
        x = F.gelu(F.conv1d(torch.cat([fused, pose_nC21], 1), w["fusion_gate.0.weight"], w["fusion_gate.0.bias"]))
        gate = F.conv1d(x, w["fusion_gate.2.weight"], w["fusion_gate.2.bias"]).tanh().relu()
        self.fused.append(fused.detach())
        self.gates.append(gate.detach())
        return gate * fused + (1 - gate) * pose_nC21

    def hand(self, x_BCTV: Tensor, source: dict, part: str, map_nC44: Tensor) -> Tensor:
        x_BCTV = x_BCTV.clone()
        start = 0
        for clip, count in enumerate(source[f"{part}_rgb_len"]):
            rows, frames = slice(start, start + count), source[f"{part}_sampled_indices"][start : start + count]
            pose = x_BCTV[clip, :, frames].transpose(0, 1)
            fused = self.fuse(pose, map_nC44[rows], source[f"{part}_skeletons_norm"][rows])
            x_BCTV[clip, :, frames] = fused.transpose(0, 1)
            start += count
        return x_BCTV

    def fuse_hand(self, part: str, x_BCTV: Tensor) -> Tensor:
        return self.hand(x_BCTV, self.source, part, self.maps[part]) if part in self.maps else x_BCTV

    def record(self, stage: str, part: str, x: Tensor) -> None:
        self.seen[f"{stage}/{part}"] = x.detach()

    def embed(self, source: dict, prefix_1P: Tensor) -> Tensor:
        """Embeddings of prompt and frames [B, P + T, D]; the stages on the way are in `seen`."""
        self.source, self.maps = source, {}
        for part in ("left", "right") if self.backbone is not None else ():
            crops = source[f"{part}_hands"]
            self.maps[part] = self.conv(self.backbone(crops, [len(crops)]), "rgb_proj")
        frames = self.sign_features(source)
        return torch.cat([self.mt5.shared(prefix_1P).expand(len(frames), -1, -1), frames], 1)

    def run(self, case: dict) -> dict:
        """What the published code dumps of one pass; in training with gradients and statistics."""
        source = case["src_input"]
        embeds = self.embed(source, case["prefix_ids"])
        mask = torch.cat([torch.ones(len(embeds), case["prefix_ids"].shape[1]), source["attention_mask"]], 1).long()
        labels = case["label_ids"].masked_fill(case["label_ids"] == 0, -100)
        logits = self.mt5(inputs_embeds=embeds, attention_mask=mask, labels=labels).logits
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=SMOOTHING)
        dumped = {"loss": loss.detach(), "inputs_embeds": embeds.detach(), "attention_mask": mask}
        dumped["features"] = self.seen
        if not self.training:
            with torch.no_grad():
                tokens = self.mt5.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=5, num_beams=4)
            extra = {"pgf_out": self.fused, "gate": self.gates} if self.backbone is not None else {}
            return dumped | extra | {"generated": tokens}
        loss.backward()
        grads = {n: w.grad for n, w in self.w.items() if w.grad is not None and ".right." not in n}
        grads |= {f"mt5_model.{n}": p.grad for n, p in self.mt5.named_parameters()}
        statistics = {n: w for n, w in self.w.items() if "running" in n}
        if self.backbone is not None:
            grads |= {f"rgb_support_backbone.0.{n}": p.grad for n, p in self.backbone.named_parameters()}
            state = self.backbone.state_dict()
            statistics |= {f"rgb_support_backbone.0.{n}": x for n, x in state.items() if "running" in n}
        return dumped | {"grad": grads, "bn_after": statistics}


def sinusoids(positions: int, channels: int) -> Tensor:
    table = torch.empty(positions, channels)
    for p in range(positions):
        for c in range(channels):
            angle = p / 10000 ** (2 * (c // 2) / channels)
            table[p, c] = math.cos(angle) if c % 2 else math.sin(angle)
    return table


def make_inputs(lengths: list[int], rgb: bool, seed: int = 0) -> dict:
    """Random clips, padded with their last frame, with two crops a hand and clip where `rgb`."""
    rng = torch.Generator().manual_seed(seed)
    longest, clips = max(lengths), len(lengths)
    last = torch.stack([torch.arange(longest).clamp(max=n - 1) for n in lengths])
    source = {}
    for part, joints in JOINTS.items():
        poses = torch.rand(clips, longest, joints, 3, generator=rng) * 2 - 1
        source[part] = poses[torch.arange(clips)[:, None], last]
    source["attention_mask"] = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
    source["src_length_batch"] = torch.tensor(lengths)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    for part in ("left", "right") if rgb else ():
        source[f"{part}_rgb_len"] = [2] * clips
        frames = [torch.randperm(n, generator=rng)[:2].sort().values for n in lengths]
        source[f"{part}_sampled_indices"] = torch.cat(frames)
        source[f"{part}_skeletons_norm"] = torch.rand(2 * clips, 21, 2, generator=rng)
        pixels = torch.randint(0, 256, (2 * clips, 3, 112, 112), generator=rng)
        source[f"{part}_hands"] = (pixels / 255 - mean) / std
    return source


def make_case(weights: dict[str, Tensor], mt5_shape: dict, lengths: list[int], rgb: bool) -> dict:
    """A dumped case, of the published format and of the restatement's numbers."""
    case = {
        "args": {"label_smoothing": SMOOTHING},
        "mt5_config": mt5_shape,
        "state_dict": weights,
        "src_input": make_inputs(lengths, rgb),
        "label_ids": torch.tensor([[9, 4, 1, 0], [5, 6, 7, 1], [8, 1, 0, 0]])[: len(lengths)],
        "prefix_ids": torch.tensor([[3, 11, 5, 1]]),
    }
    case["eval"] = Restated(weights, mt5_shape, training=False).run(case)
    case["generated"] = case["eval"].pop("generated")
    torch.manual_seed(1)  # of stochastic depth's draws, which the case does not hold
    case["train"] = Restated(weights, mt5_shape, training=True).run(case)
    return case
