"""A toy model and clips with the trainer's interfaces, and processes in which to train it."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from unisign_fast.pipelines.batches.packed_batch import PackedBatch

ROOT = Path(__file__).parents[2]
VOCABULARY = 7
# Variables that `start_ranks` leaves in the environment of its process.
OF_ONE_PROCESS = {"DS_ACCELERATOR", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
TWO_RANKS = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


class Toy(nn.Module):
    """A model with the trainer's interface; `crop` is used only if a clip has crops."""

    def __init__(self):
        super().__init__()
        self.pose = nn.Linear(207, 8)
        self.crop = nn.Linear(12, 8)
        self.out = nn.Linear(8, VOCABULARY)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, batch: PackedBatch) -> Tensor:
        self.steps += 1
        x_FD = self.pose(batch.poses.flatten(1).to(self.pose.weight.dtype))
        crops = self.crop(batch.crops.flatten(1).to(self.pose.weight.dtype) / 255)
        x_FD = x_FD.index_add(0, batch.crop_frame, crops)
        lengths = torch.tensor(batch.lengths, dtype=torch.long)
        clip_F = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        x_BD = torch.zeros(len(lengths), 8, dtype=x_FD.dtype).index_add(0, clip_F, x_FD.tanh())
        logits = self.out(x_BD).float()[:, None].expand(-1, batch.label_ids.shape[1], -1).flatten(0, 1)
        loss = nn.functional.cross_entropy(logits, batch.label_ids.flatten(), ignore_index=-100, reduction="sum")
        return torch.stack([loss, torch.tensor(float(self.target_count(batch)))])

    def target_count(self, batch: PackedBatch) -> int:
        return sum(batch.label_lengths)


def toy_batch(clips: list[int]) -> PackedBatch:
    """Clips by number: clip c has c + 1 frames, c + 1 target tokens, and, if it is even, a crop on its first frame."""
    random = {c: torch.Generator().manual_seed(c) for c in clips}
    lengths = [c + 1 for c in clips]
    starts = [sum(lengths[:i]) for i in range(len(clips))]
    even = [i for i, c in enumerate(clips) if c % 2 == 0]
    labels = torch.full((len(clips), max(lengths, default=1)), -100)
    for row, c in enumerate(clips):
        labels[row, : c + 1] = torch.randint(VOCABULARY, (c + 1,), generator=random[c])
    poses = [torch.randn(c + 1, 69, 3, generator=random[c]) for c in clips]
    crops = [torch.randint(256, (3, 2, 2), generator=random[clips[i]], dtype=torch.uint8) for i in even]
    return PackedBatch(
        clip_ids=[f"clip{c}" for c in clips],
        texts=[""] * len(clips),
        lengths=lengths,
        poses=torch.cat(poses) if poses else torch.zeros(0, 69, 3),
        crops=torch.stack(crops) if crops else torch.zeros(0, 3, 2, 2, dtype=torch.uint8),
        crops_per_hand=(len(crops), 0),
        crop_frame=torch.tensor([starts[i] for i in even], dtype=torch.long),
        crop_points=torch.zeros(len(crops), 21, 2),
        prompt_ids=torch.zeros(len(clips), 1, dtype=torch.long),
        label_ids=labels,
    )


def run_script(command: list[str], **environment: str) -> tuple[int, str]:
    """Exit status and output of a command run on CPU; its process group is killed when it ends or takes too long."""
    kept = {name: value for name, value in os.environ.items() if name not in OF_ONE_PROCESS}
    ours = {"PYTHONPATH": os.environ["PYTHONPATH"], "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(
        command,
        env={**kept, **ours, **environment},
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        output, _ = process.communicate(timeout=100)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output
