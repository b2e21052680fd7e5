"""The engine's state in a checkpoint: float32 weights, AdamW's moments and buffers by name, as safetensors.

Tensors are stored unsharded, so a run can resume with any number of ranks, any ZeRO stage and either precision. Every
rank writes a share of the tensors, into files of about 1 GiB. Loading executes no code from the files.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from unisign_fast.checkpoints.safetensors_file import SafetensorsFile
from unisign_fast.pipelines.errors import InputError
from unisign_fast.training.deepspeed_engine import master_weights

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

WEIGHT, MOMENTS = "weight", ("exp_avg", "exp_avg_sq")
UPDATES = "updates"  # number of AdamW's updates so far
FILES = "state-*.safetensors"
FILE_BYTES = 2**30


def save_engine(engine: "DeepSpeedEngine", folder: Path) -> None:
    """Write this rank's share into `folder`. Raises InputError rather than save a value that is not finite.

    After an error, also of the disk, a rank still gathers the other ranks' tensors with them before it raises.
    """
    state = _unsharded_state(engine)
    try:
        _write_share(state, folder, engine.global_rank, engine.world_size)
    finally:
        deque(state, maxlen=0)


def _write_share(state: Iterator[tuple[str, Tensor]], folder: Path, rank: int, ranks: int) -> None:
    share: dict[str, Tensor] = {}
    files, size = 0, 0
    for number, (name, value) in enumerate(state):
        if number % ranks != rank:
            continue  # only another rank's share, but gathering it is collective
        if value.is_floating_point() and not torch.isfinite(value).all():
            remedy = "resume from the previous checkpoint with a lower --learning-rate"
            raise InputError(folder.parent, f"{name} is no longer finite, so nothing was saved", remedy)
        share[name] = value.detach().to("cpu", copy=True).contiguous()
        size += value.nbytes
        if size >= FILE_BYTES:
            save_file(share, folder / f"state-{rank:05d}-{files:05d}.safetensors")
            share, files, size = {}, files + 1, 0
    if share:
        save_file(share, folder / f"state-{rank:05d}-{files:05d}.safetensors")


def has_engine_state(folder: Path) -> bool:
    """Whether a checkpoint has this format; before version 0.2, checkpoints held DeepSpeed's own files."""
    return any(folder.glob(FILES))


@torch.no_grad()
def load_engine(engine: "DeepSpeedEngine", folder: Path) -> None:
    """Load what `save_engine` wrote. Every rank calls it, before the engine's first step."""
    with ExitStack() as opened:
        files = [opened.enter_context(SafetensorsFile(path)) for path in sorted(folder.glob(FILES))]
        where = {name: file for file in files for name in file.names}
        _set_all(engine, lambda name: where[name].read(name))


def _set_all(engine: "DeepSpeedEngine", stored: Callable[[str], Tensor]) -> None:
    """Set the engine's state to the saved values, which `stored(name)` returns."""
    for state in engine.basic_optimizer.state.values():
        if "step" in state:
            state["step"].copy_(stored(UPDATES))
    for name, parameter in engine.module.named_parameters():
        for key in (WEIGHT, *MOMENTS) if parameter.requires_grad else (WEIGHT,):
            _set(engine, parameter, key, stored(f"{key}/{name}"))
    _weights_from_masters(engine)
    for name, buffer in engine.module.named_buffers():
        buffer.copy_(stored(f"buffer/{name}"))


def _unsharded_state(engine: "DeepSpeedEngine") -> Iterator[tuple[str, Tensor]]:
    """Name and unsharded value of everything that is saved. Collective: every rank must exhaust the iterator."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    masters, states = master_weights(engine), engine.basic_optimizer.state
    yield UPDATES, next(state["step"] for state in states.values() if "step" in state)
    for name, parameter in engine.module.named_parameters():
        own = masters.get(parameter, parameter)
        full = None if own is not parameter else safe_get_full_fp32_param(parameter)
        yield f"{WEIGHT}/{name}", own if full is None else full
        for key in MOMENTS if parameter.requires_grad else ():
            own_value = states[own][key] if own in states else None
            yield f"{key}/{name}", safe_get_full_optimizer_state(parameter, key) if own_value is None else own_value
    yield from ((f"buffer/{name}", buffer) for name, buffer in engine.module.named_buffers())


def _set(engine: "DeepSpeedEngine", parameter: nn.Parameter, key: str, value: Tensor) -> None:
    """Set this rank's part of a weight or moment."""
    optimizer, state_key = engine.optimizer, None if key == WEIGHT else key
    if hasattr(parameter, "ds_id"):  # stage 3; DeepSpeed's own setter fails on a padded partition
        part, _ = optimizer._get_fp32_opt_state_partition(parameter, False, state_key)
        mine = value.flatten()[engine.global_rank * part.numel() :][: part.numel()]
        part[: len(mine)].copy_(mine)
    elif getattr(parameter, "_hp_mapping", None) is not None:
        assert hasattr(parameter, "set_full_hp_param")  # DeepSpeed sets both attributes
        parameter.set_full_hp_param(value, state_key)
    elif not hasattr(parameter, "_hp_mapping"):
        own = master_weights(engine).get(parameter, parameter)
        (own if state_key is None else engine.basic_optimizer.state[own][state_key]).copy_(value)


def _weights_from_masters(engine: "DeepSpeedEngine") -> None:
    """Copy the masters into the module's weights, rounded to its precision, on every rank."""
    optimizer = engine.optimizer
    for short, long in master_weights(engine).items():
        short.copy_(long)
    if hasattr(optimizer, "update_lp_params"):  # stages 1 and 2
        optimizer.update_lp_params()
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):  # stage 3
        optimizer._partition_all_parameters()
        for number in range(len(optimizer.fp16_groups)):
            optimizer._reassign_or_swap_out_partitioned_parameters(number)
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)
