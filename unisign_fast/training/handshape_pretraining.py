"""Initial weights of the demo's RGB encoder, pretrained to classify the handshape in pictures of single hands.

It replaces ImageNet weights. With a random RGB branch the language model gets no useful RGB features, and the branch
no useful gradients: on the demo corpus the gate is still closed after ten epochs of stage 2.
"""

import numpy as np
import torch
from torch import nn

from unisign_fast.model.rgb_branch import RGBBranch
from unisign_fast.pipelines.demo_corpus.handshapes import SHAPES, handshape_pictures
from unisign_fast.pipelines.rng import stream

STEPS, PICTURES, LEARNING_RATE = 700, 32, 4e-3
LAST = 50  # steps whose accuracy is reported


def learn_handshapes(rgb: RGBBranch, size: int, seed: int, steps: int = STEPS) -> float:
    """Train `rgb.backbone` in place on pictures of `size` pixels, about a minute on a CPU core.

    Returns the accuracy over the last 50 steps, in [0, 1]. All ranks of a run end with equal weights.
    """
    pictures = stream(seed, 0, "", "handshapes")
    head = nn.Linear(rgb.backbone.channels, len(SHAPES))
    optimizer = torch.optim.AdamW([*rgb.backbone.parameters(), *head.parameters()], fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    # Each half shows left and right hands, and updates the BatchNorm statistics of one of them.
    right, halves = [], (PICTURES // 2, PICTURES // 2)
    rgb.train()
    for _ in range(steps):
        crops_N3SS, labels = (torch.from_numpy(x) for x in handshape_pictures(PICTURES, size, pictures))
        logits = head(rgb.backbone(rgb.pixels(crops_N3SS), halves).mean((2, 3)))
        loss = nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        right.append((logits.argmax(1) == labels).float().mean().item())
    rgb.zero_grad()
    return float(np.mean(right[-LAST:]))
