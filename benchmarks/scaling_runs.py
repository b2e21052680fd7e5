"""What benchmarks/scaling.py measures: optimiser steps of the demo model, plain and through DeepSpeed's ZeRO 0 to 3.

Run by a launcher it is one of the ranks: `torchrun --nproc-per-node 2 benchmarks/scaling_runs.py FILE`; rank 0 writes
its measurements to FILE.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

sys.path[0] = str(Path(__file__).parents[1])  # the project's root instead of this file's own folder

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unisign_fast.model.batch_norm import BatchNorm
from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.batches.packed_batch import PackedBatch
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.skeleton import PACKED_JOINTS
from unisign_fast.training.deepspeed_engine import backward_step, parameter_groups, start_engine
from unisign_fast.training.recipes import DEMO, DEMO_TRAIN
from unisign_fast.training.settings import TrainSettings
from unisign_fast.utils.distributed import Ranks, free_port, start_ranks

ZERO_STAGES = (0, 1, 2, 3)
CLIPS, FRAMES, TOKENS, VOCABULARY = 8, 40, 16, 2048
MICRO_BATCHES = 2  # of a step
WARM_UP = 1  # rounds
PERSISTENT = 100_000  # DeepSpeed's stage3_param_persistence_threshold
STEPS = 1000  # of the learning-rate schedule


@dataclass(frozen=True)
class Collectives:
    """How often an optimiser step passes all gradients and all weights through a collective, at a ZeRO stage.

    As DeepSpeed 0.19 does it by default: up to stage 2 gradients are all-reduced, though a rank keeps only a part.
    """

    gradients: Literal["all-reduce", "reduce-scatter"]
    every_micro_batch: bool  # the gradients, instead of once a step
    weights: Literal["kept", "once", "large ones again"]  # gathered: in every micro-batch, where they are large

    def passes(self, micro_batches: int, large: float) -> tuple[int, float]:
        """How often all gradients and all weights pass; `large` is the share of weights that ZeRO-3 partitions."""
        again = {"kept": 0, "once": 1, "large ones again": 1 + (micro_batches - 1) * large}
        return micro_batches if self.every_micro_batch else 1, again[self.weights]

    def sent(self, ranks: int, micro_batches: int, large: float) -> tuple[float, float]:
        """What a rank of a ring sends for gradients and for weights, as multiples of the bytes of all parameters."""
        gradients, weights = self.passes(micro_batches, large)
        share = (ranks - 1) / ranks
        return (2 if self.gradients == "all-reduce" else 1) * share * gradients, share * weights


COLLECTIVES = {
    0: Collectives("all-reduce", False, "kept"),
    1: Collectives("all-reduce", False, "once"),
    2: Collectives("all-reduce", True, "once"),
    3: Collectives("reduce-scatter", True, "large ones again"),
}


def large_share(model: nn.Module) -> float:
    """The share of the parameters in tensors above DeepSpeed's stage3_param_persistence_threshold."""
    sizes = [parameter.numel() for parameter in model.parameters()]
    return sum(size for size in sizes if size > PERSISTENT) / sum(sizes)


def moment_reductions(model: nn.Module) -> int:
    """All-reduces of batch statistics in a micro-batch: every normalisation, forward and backward; both hands go
    through one pose and one temporal encoder each after the other."""
    twice = ("pose_encoders.hand.", "temporal_encoders.hand.")
    norms = [name for name, module in model.named_modules() if isinstance(module, BatchNorm)]
    return 2 * sum(2 if name.startswith(twice) else 1 for name in norms)


class CollectiveCount(TorchDispatchMode):
    """Counts calls of each collective inside, and the bytes of the whole buffers that go through it."""

    def __init__(self):
        super().__init__()
        self.bytes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        if operation.namespace == "c10d":
            name = operation._opname.strip("_")
            sizes = [x.numel() * x.element_size() for x in tree_leaves(arguments) if isinstance(x, Tensor)]
            self.bytes[name] += sum(sizes) if name == "allreduce" else max(sizes, default=0)  # else parts come along
            self.calls[name] += 1
        return operation(*arguments, **(options or {}))


def make_batch(clips: int) -> PackedBatch:
    """Clips of equal length, pose-only, of random numbers."""
    return PackedBatch(
        clip_ids=[str(number) for number in range(clips)],
        texts=[""] * clips,
        lengths=[FRAMES] * clips,
        poses=torch.rand(clips * FRAMES, len(PACKED_JOINTS), 3),
        crops=torch.zeros(0, 3, 64, 64, dtype=torch.uint8),
        crops_per_hand=(0, 0),
        crop_frame=torch.zeros(0, dtype=torch.long),
        crop_points=torch.zeros(0, 21, 2),
        prompt_ids=torch.randint(3, VOCABULARY, (clips, 8)),
        label_ids=torch.randint(3, VOCABULARY, (clips, TOKENS)),
    )


def make_model() -> UniSign:
    """The demo recipe's model, the same in every call."""
    torch.manual_seed(0)
    return UniSign(replace(DEMO.model, mt5=replace(DEMO.model.mt5, vocab_size=VOCABULARY)))


def plain_step(settings: TrainSettings) -> Callable[[list[PackedBatch]], None]:
    """An optimiser step in a plain PyTorch loop."""
    model = make_model().train()
    optimizer = torch.optim.AdamW(parameter_groups(model, settings), betas=settings.betas, eps=settings.eps, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)

    def step(batches: list[PackedBatch]) -> None:
        tokens = sum(batch.label_ids.numel() for batch in batches)
        for batch in batches:
            (model(batch)[0] / tokens).backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()

    return step


def deepspeed_step(settings: TrainSettings, ranks: Ranks) -> Callable[[list[PackedBatch]], None]:
    """An optimiser step as in training."""
    engine = start_engine(make_model(), settings, STEPS)
    engine.train()

    def step(batches: list[PackedBatch]) -> None:
        tokens = ranks.world_size * sum(batch.label_ids.numel() for batch in batches)
        backward_step(engine, batches, torch.tensor(ranks.world_size / tokens))

    return step


def measure(ranks: Ranks, rounds: int) -> list[dict]:
    """Milliseconds per step in each round, for configurations that run interleaved; and the bytes that a step of each
    sends. Configurations are (scaling, "plain" or "ZeRO n"): strong shares out the clips that one rank has, weak gives
    them to each.
    """
    settings = {zero: replace(DEMO_TRAIN, zero_stage=zero) for zero in ZERO_STAGES}
    steps = {f"ZeRO {zero}": deepspeed_step(settings[zero], ranks) for zero in ZERO_STAGES}
    if ranks.world_size == 1:
        steps["plain"] = plain_step(DEMO_TRAIN)
    sizes = {"strong": CLIPS // ranks.world_size, "weak": CLIPS}
    batches = {scaling: [make_batch(clips)] * MICRO_BATCHES for scaling, clips in sizes.items()}
    ways = [(scaling, name) for scaling in sizes for name in steps if ranks.world_size > 1 or scaling == "strong"]
    times: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    for number in range(WARM_UP + rounds):
        for scaling, name in ways:
            ranks.barrier()
            begin = time.perf_counter()
            steps[name](batches[scaling])
            ranks.barrier()
            if number >= WARM_UP:
                times[scaling, name].append(1e3 * (time.perf_counter() - begin))
    rows = []
    for scaling, name in ways:
        with CollectiveCount() as counted:
            steps[name](batches[scaling])
        row = {"ranks": ranks.world_size, "scaling": scaling, "way": name, "clips": MICRO_BATCHES * sizes[scaling]}
        rows.append(row | {"ms": times[scaling, name], "bytes": counted.bytes, "calls": counted.calls})
    return rows


def launch(command: list[str], ranks: int) -> list[dict]:
    """Rank 0's measurements after `command` launched the ranks. Raises InputError with the output if one failed."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    }
    environment |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.json")
        command = [*command, __file__, str(file)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode or not file.is_file():
            print(done.stdout[-3000:], file=sys.stderr)
            raise InputError(" ".join(command), f"ended with status {done.returncode}", "see its output above")
        rows = json.loads(file.read_text())
    assert all(row["ranks"] == ranks for row in rows)
    return rows


def launched_rows() -> Iterator[tuple[str, list[dict]]]:
    """One rank by plain Python, then two by torchrun and two by DeepSpeed's launcher, on gloo."""
    tools = Path(sys.executable).parent
    yield "python", launch([sys.executable], 1)
    yield "torchrun", launch([str(tools / "torchrun"), "--standalone", "--nproc-per-node", "2"], 2)
    yield "deepspeed", launch([str(tools / "deepspeed"), "--num_gpus", "2", "--master_port", str(free_port())], 2)


if __name__ == "__main__":
    this = start_ranks()
    result = measure(this, rounds=5)
    if this.is_first:
        Path(sys.argv[-1]).write_text(json.dumps(result))
    this.leave()
