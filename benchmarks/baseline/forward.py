"""The published sign encoder as functions of a table of published weights, written from its rules.

Clips padded to one length, the padding inside the graph convolutions, each hand's run on its own, float32.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

PARTS = ("body", "left", "right", "face_all")
ANCHOR = {"left": 7, "right": 8, "face_all": 0}  # joint of the body whose feature is added to a part
LEVELS = 3  # blocks of each of the two stacks


class PublishedForward:
    """`weights` by published names; in training BatchNorm normalises by the batch and updates its statistics."""

    def __init__(self, weights: dict[str, Tensor], training: bool):
        self.w, self.training = weights, training

    def norm(self, x: Tensor, name: str) -> Tensor:
        """BatchNorm of [B, C, ...]."""
        mean, var, weight, bias = (self.w[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias, self.training)

    def conv(self, x: Tensor, name: str, **options) -> Tensor:
        """Convolution of [B, C, T, V]."""
        return F.conv2d(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"), **options)

    def graph_block(self, x_BCTV: Tensor, name: str) -> Tensor:
        """Graph convolution, BatchNorm, ReLU; in temporal blocks a convolution over frames; shortcut, ReLU."""
        hops_BKCTV = self.conv(x_BCTV, f"{name}.gcn.conv").unflatten(1, (2, -1))
        y_BCTV = torch.einsum("bkctv,kvw->bctw", hops_BKCTV, self.w[f"{name}.gcn.A"])
        y_BCTV = self.norm(y_BCTV, f"{name}.gcn.bn").relu()
        if f"{name}.tcn.0.weight" in self.w:
            y_BCTV = self.norm(self.conv(y_BCTV, f"{name}.tcn.0", padding=(2, 0)), f"{name}.tcn.1")
        shortcut = x_BCTV
        if f"{name}.residual.0.weight" in self.w:
            shortcut = self.norm(self.conv(x_BCTV, f"{name}.residual.0"), f"{name}.residual.1")
        return (y_BCTV + shortcut).relu()

    def sign_features(self, parts_BTV3: dict[str, Tensor]) -> Tensor:
        """[B, T, D] of the four parts [B, T, V, 3]: one feature a frame."""
        pooled, body_BCTV = [], None
        for part in PARTS:
            layer = f"proj_linear.{part}"
            x_BTVC = F.linear(parts_BTV3[part], self.w[f"{layer}.weight"], self.w[f"{layer}.bias"])
            self.record("proj", part, x_BTVC)
            x_BCTV = x_BTVC.permute(0, 3, 1, 2)
            for level in range(LEVELS):
                x_BCTV = self.graph_block(x_BCTV, f"gcn_modules.{part}.layer{level}_0")
            self.record("spatial", part, x_BCTV)
            x_BCTV = self.fuse_hand(part, x_BCTV)
            if body_BCTV is None:
                body_BCTV = x_BCTV
            else:
                x_BCTV = x_BCTV + body_BCTV[..., ANCHOR[part], None].detach()
            for level in range(LEVELS):
                x_BCTV = self.graph_block(x_BCTV, f"fusion_gcn_modules.{part}.layer0_{level}")
            self.record("temporal", part, x_BCTV)
            pooled.append(x_BCTV.mean(3).transpose(1, 2))
        features = torch.cat(pooled, 2) + self.w["part_para"]
        return F.linear(features, self.w["pose_proj.weight"], self.w["pose_proj.bias"])

    def fuse_hand(self, part: str, x_BCTV: Tensor) -> Tensor:
        """Where RGB features enter a hand; pose-only leaves it as it is."""
        return x_BCTV

    def record(self, stage: str, part: str, x: Tensor) -> None:
        """Called with what each stage gives."""
