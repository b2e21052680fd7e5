"""The ranks of a run: how processes join, and the collectives they share."""

import atexit
import logging
import os
import socket
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from unisign_fast.pipelines.errors import InputError

JOIN_TIMEOUT = timedelta(seconds=45)  # without a launcher, which would notice a rank that dies while starting
LAUNCHERS = "TORCHELASTIC_RUN_ID", "CROSS_RANK"  # set by torchrun and deepspeed, which end all ranks when one dies

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process's rank among all processes of a run."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the only one that prints, logs and writes weights."""
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
        """Every rank's `value` (a small plain object), in rank order."""
        values = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(values, value)
        return values

    def together(self, work: Callable[[], T]) -> T:
        """Run `work()` on every rank. If any raises InputError, all raise the one of the lowest rank."""
        error: tuple[object, str, str] | None = None
        try:
            result = work()
        except InputError as caught:
            error = (caught.where, caught.problem, caught.remedy)
        errors = [one for one in self.gather(error) if one is not None]
        if errors:
            raise InputError(*errors[0])
        return result

    def leave(self, status: int = 0) -> None:
        """End the program with an exit status; with several ranks, without the interpreter's own shutdown.

        DeepSpeed's objects keep the process groups alive until the interpreter shuts down. gloo's threads then abort
        about one process in a hundred, and the launcher reports a finished training as failed.
        """
        if self.world_size > 1:
            self.barrier()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        if status:
            sys.exit(status)


def start_ranks() -> Ranks:
    """Join the other processes (nccl on GPUs, gloo on CPU), whoever launched this one. Call it once, first, and
    `Ranks.leave` last. Raises InputError if several ranks were started without a launcher's environment, or more ranks
    than the machine has GPUs.
    """
    if int(os.environ.get("SLURM_NTASKS", 1)) > 1 and "RANK" not in os.environ:
        problem = "is above 1, but no launcher has set the tasks' ranks, so each would train alone"
        raise InputError("SLURM_NTASKS", problem, "start one deepspeed or torchrun per node (docs/multi_node.md)")
    on_gpu = torch.cuda.is_available()
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if on_gpu else "cpu")
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1")):
        os.environ.setdefault(name, value)
    rank, local_rank, world_size = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    watched = any(name in os.environ for name in LAUNCHERS)
    if world_size == 1 and not watched:  # the store picks a port, so that two runs on a machine cannot collide
        os.environ["MASTER_PORT"] = "0"
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        if local_rank >= (count := torch.cuda.device_count()):
            problem = f"is {local_rank}, but only {count} of this machine's GPUs are visible"
            raise InputError("LOCAL_RANK", problem, "start one rank per GPU")
        torch.cuda.set_device(device)
    _join("nccl" if on_gpu else "gloo", None if watched or world_size == 1 else JOIN_TIMEOUT)
    atexit.register(_destroy_group)
    return Ranks(rank, world_size, device)


def _join(backend: str, timeout: timedelta | None) -> None:
    """Join the process group. Raises InputError if its port is in use, or not all ranks join within `timeout`."""
    default_timeout = dist.distributed_c10d.default_pg_timeout
    deepspeed = import_deepspeed()
    try:
        limit = timeout or default_timeout
        deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False, timeout=limit)
        if timeout is not None:
            dist.monitored_barrier(timeout=timeout) if backend == "gloo" else dist.barrier()
    except (dist.DistError, RuntimeError) as error:
        if "EADDRINUSE" in str(error):
            problem = f"{os.environ['MASTER_PORT']} is in use, probably by another run on this machine"
            remedy = f"give this one its own: deepspeed --master_port {free_port()} launch/..."
            raise InputError("MASTER_PORT", problem, remedy) from None
        if timeout is None:
            raise
        reason = str(error).strip().split("\n")[0][:160]
        problem = f"not all {os.environ['WORLD_SIZE']} ranks joined within {timeout.seconds} s ({reason})"
        address = f"{os.environ['MASTER_ADDR']}:{os.environ.get('MASTER_PORT')}"
        raise InputError(address, problem, "read the other ranks' messages, and start all of them again") from None
    if timeout is not None:  # from now on, a rank may work for a long time while others wait
        dist.distributed_c10d._set_pg_timeout(default_timeout)


def _destroy_group() -> None:
    """Runs at exit unless `Ranks.leave` ended the process: after an error, or with a single rank.

    Destroying an nccl group is collective. The other ranks wait for this one in the collective of a step, so it would
    wait for them forever, and the launcher would not see that it has failed.
    """
    if not dist.is_initialized():
        return
    if dist.get_backend() == "nccl" and dist.get_world_size() > 1:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(1 if hasattr(sys, "last_value") else 2)  # after a traceback, or the line of an InputError
    dist.destroy_process_group()


def import_deepspeed():
    """DeepSpeed with its logging reduced. Imported late, since importing it selects the accelerator."""
    import deepspeed
    import deepspeed.ops

    if deepspeed.get_accelerator().device_name() == "cpu":
        # Otherwise initialisation spends minutes compiling an operation that gloo does not need. On a GPU it does not
        # exist, and filling this table prints a warning for each operation that needs the CUDA toolkit.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "`?torch.distributed.*deprecated", FutureWarning)  # names that DeepSpeed uses
    return deepspeed


def free_port() -> int:
    """A TCP port that is free on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
