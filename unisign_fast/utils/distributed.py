"""The processes that train together: who they are, how they meet, and what they tell each other."""

import atexit
import logging
import os
import socket
import sys
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from unisign_fast.pipelines.errors import InputError


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which alone talks, logs and writes weights."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            dist.barrier()

    def sum(self, values: Tensor) -> Tensor:
        """Elementwise sum of `values` over ranks, in place, on the device."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def from_first(self, value: Any) -> Any:
        """Rank 0's `value` (a small plain object) on every rank."""
        box = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """The `value` of every rank (small plain objects), in the order of ranks."""
        values = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(values, value)
        return values

    def leave(self) -> None:
        """The end of all work. One process among several ends right here, as a success.

        DeepSpeed's objects hold the process groups to the very end of the interpreter, where gloo's threads make one
        process in some hundred abort, and its launcher call a finished training a failure.
        """
        if self.world_size > 1:
            self.barrier()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)


def start_ranks() -> Ranks:
    """Join the other processes (nccl on GPUs, gloo on CPU), whoever launched this one. Call it once, first, and
    `Ranks.leave` last. Raises InputError where ranks were started without being told so.
    """
    if int(os.environ.get("SLURM_NTASKS", 1)) > 1 and "RANK" not in os.environ:
        problem = "is above 1, and no launcher has told the tasks their ranks: each would train alone"
        raise InputError("SLURM_NTASKS", problem, "start one deepspeed or torchrun a node (docs/own_data.md)")
    on_gpu = torch.cuda.is_available()
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if on_gpu else "cpu")
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1")):
        os.environ.setdefault(name, value)
    rank, local_rank, world_size = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    if world_size == 1:  # nobody to meet: any free port, so that two runs on a machine do not collide
        os.environ["MASTER_PORT"] = str(free_port())
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    import_deepspeed().init_distributed("nccl" if on_gpu else "gloo", auto_mpi_discovery=False, verbose=False)
    atexit.register(_destroy_group)
    return Ranks(rank, world_size, device)


def _destroy_group() -> None:
    """For whoever does not `leave`: an error, or a process alone."""
    if dist.is_initialized():
        dist.destroy_process_group()


def import_deepspeed():
    """DeepSpeed, quiet. Imported late: it settles on an accelerator while it is imported."""
    import deepspeed
    import deepspeed.ops

    # Marked first, or initialisation compiles an operation for minutes that gloo does without.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "`?torch.distributed.*deprecated", FutureWarning)  # names in use here
    return deepspeed


def free_port() -> int:
    """A TCP port that nobody on this machine listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
