"""DeepSpeed setup for every launcher (`deepspeed`, `torchrun`, plain `python`), CPU or GPU, and ZeRO 0 to 3.

DeepSpeed averages gradients over ranks regardless of their token counts, so the trainer scales the losses. The
last step of an epoch has fewer micro-batches, so `backward_step` sets the gradient accumulation boundary itself.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from unisign_fast.pipelines.batches.packed_batch import PackedBatch
from unisign_fast.training.settings import TrainSettings
from unisign_fast.training.step_guard import StepGuard
from unisign_fast.utils.distributed import import_deepspeed

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


class StepResult(NamedTuple):
    """Result of an optimiser step: tensors on the device, not yet synchronised with the host."""

    loss_sum: Tensor  # [] summed over the targets of all ranks
    grad_norm: Tensor  # [] before clipping
    is_bad: Tensor  # [] bool: loss or gradient was not finite, and the step was not taken
    micro_losses: Tensor  # [micro-batches] this rank's summed losses


def start_engine(model: nn.Module, settings: TrainSettings, total_steps: int) -> "DeepSpeedEngine":
    """Wrap `model` for `total_steps` optimiser steps of training. `model` is changed in place (device, bf16).

    A parameter that is unused on some ranks (those without hand crops) needs a zero gradient there instead of None,
    since ZeRO 1 to 3 expect the same gradients on every rank: the model adds `0 * parameter.sum()`.
    """
    deepspeed = import_deepspeed()
    from transformers import get_scheduler

    optimizer = torch.optim.AdamW(
        parameter_groups(model, settings),
        betas=settings.betas,
        eps=settings.eps,
        fused=True,
    )
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=0, num_training_steps=total_steps)
    config = engine_config(settings)
    with redirect_stdout(io.StringIO()):  # it prints its memory use at any log level
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, lr_scheduler=schedule, config=config)
    if hasattr(engine.optimizer, "fp32_groups"):
        _undo_first_step(engine)
    allocate_moments(engine)
    if engine.world_size == 1 and settings.zero_stage == 0:
        engine.enable_backward_allreduce = False  # saves copying all gradients into one tensor and back
    engine.step_guard = StepGuard(engine)
    return engine


def parameter_groups(model: nn.Module, settings: TrainSettings) -> list[dict]:
    """AdamW's parameter groups, by learning rate and weight decay; the first has `settings.learning_rate`.

    Biases and 1-D parameters are not decayed. The learning rate of the RGB branch (`rgb.*`) is `settings.rgb_rate`
    times that of the others.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_plain = parameter.ndim <= 1 or name.rpartition(".")[2] == "bias"
            groups.setdefault((name.startswith("rgb."), is_plain), []).append(parameter)
    return [
        {
            "params": groups[is_rgb, is_plain],
            "lr": settings.learning_rate * (settings.rgb_rate if is_rgb else 1),
            "weight_decay": 0.0 if is_plain else settings.weight_decay,
        }
        for is_rgb, is_plain in sorted(groups)
    ]


def engine_config(settings: TrainSettings) -> dict:
    """The DeepSpeed configuration of a run."""
    config = {
        "train_micro_batch_size_per_gpu": 1,  # unused: micro-batches hold as many clips as fit
        "gradient_accumulation_steps": 1,  # the loss is already weighted by tokens: do not divide it again
        "gradient_clipping": settings.clip_norm,
        "zero_optimization": {"stage": settings.zero_stage},
        "zero_allow_untested_optimizer": True,  # torch's fused AdamW; DeepSpeed's takes minutes to compile
        "bf16": {"enabled": settings.precision == "bf16"},
        "steps_per_print": None,
        "timers": {"throughput": {"enabled": False}},  # it synchronises with the device before every forward pass
    }
    if settings.precision == "bf16" and settings.zero_stage > 0:  # stage 0 can only accumulate in bf16
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


def backward_step(engine: "DeepSpeedEngine", micro_batches: Sequence[PackedBatch], scale: Tensor) -> StepResult:
    """Accumulate the gradients of the summed losses times `scale` [], average them over ranks, and step the optimiser.

    `scale` is the number of ranks over the number of targets in the whole step, so the average over ranks is the
    gradient of the mean loss per target, however clips are distributed. Every rank passes the same number of
    micro-batches. If the loss or the gradient is not finite, weights, optimiser state and running statistics stay
    unchanged on every rank. The host waits for the device only where DeepSpeed's own step does.
    """
    assert micro_batches, "a step needs at least one micro-batch, possibly empty"
    device, guard = engine.device, engine.step_guard
    guard.keep_buffers()
    losses = []
    for index, batch in enumerate(micro_batches):
        engine.set_gradient_accumulation_boundary(index == len(micro_batches) - 1)
        loss = engine(batch.to(device, non_blocking=True))[0]
        engine.backward(loss.float() * scale)
        losses.append(loss.detach().float())
    micro_losses = torch.stack(losses)
    loss_sum, grad_norm, is_bad = guard.check(micro_losses.sum())
    engine.step()
    if not engine.was_step_applied():  # some of DeepSpeed's optimisers skip bad steps, and then the schedule's step too
        engine.lr_scheduler.step()
    guard.restore_buffers(is_bad)
    return StepResult(loss_sum, grad_norm, is_bad, micro_losses)


def set_schedule(engine: "DeepSpeedEngine", step: int) -> None:
    """Set the learning rates and DeepSpeed's step count for optimiser step `step` (from 0)."""
    schedule = engine.lr_scheduler
    schedule.last_epoch = engine.global_steps = step
    rates = [base * rate(step) for base, rate in zip(schedule.base_lrs, schedule.lr_lambdas)]
    for group, rate in zip(schedule.optimizer.param_groups, rates):
        group["lr"] = rate
    schedule._last_lr = rates


def consolidated_state_dict(engine: "DeepSpeedEngine") -> dict[str, Tensor] | None:
    """The model's full state, on the CPU, on rank 0; None on the other ranks. Collective.

    Parameters are the optimiser's float32 master weights, which are more precise than the module's in bf16; buffers are
    the module's. Names that share a parameter share a tensor.
    """
    from deepspeed.utils import safe_get_full_fp32_param

    masters = master_weights(engine)
    is_first = engine.global_rank == 0
    state: dict[str, Tensor] = {}
    gathered: dict[int, Tensor] = {}
    for name, value in engine.module.state_dict(keep_vars=True).items():
        if id(value) not in gathered:
            full: Tensor | None = value
            if isinstance(value, nn.Parameter):
                full = masters.get(value)
                if full is None:
                    full = safe_get_full_fp32_param(value)
            if full is None:  # full precision without ZeRO
                full = value
            gathered[id(value)] = full.detach().to("cpu", copy=True) if is_first else value
        state[name] = gathered[id(value)]
    return state if is_first else None


def master_weights(engine: "DeepSpeedEngine") -> dict[nn.Parameter, Tensor]:
    """Each bf16 parameter's float32 master under ZeRO 0, which DeepSpeed's accessors do not reach; else empty."""
    if not hasattr(engine.optimizer, "fp32_groups"):
        return {}
    groups = zip(engine.optimizer.fp16_groups, engine.optimizer.fp32_groups)
    return {weight: master for weights, masters in groups for weight, master in zip(weights, masters)}


@contextmanager
def evaluation_mode(engine: "DeepSpeedEngine") -> Iterator[None]:
    """Eval mode without gradients. Under ZeRO-3 all weights are gathered first, so that ranks may run different numbers
    of forward passes (they have different clips and generate texts of different lengths)."""
    was_training = engine.module.training
    engine.module.eval()
    try:
        with torch.no_grad():
            if engine.zero_optimization_stage() == 3:
                from deepspeed.runtime.zero import unwrap_model_for_generation

                with unwrap_model_for_generation(engine):
                    yield
            else:
                yield
    finally:
        engine.module.train(was_training)


def _undo_first_step(engine: "DeepSpeedEngine") -> None:
    """Undo the step without gradients that DeepSpeed takes during construction under ZeRO 0 in bf16. It decays the
    masters, and AdamW's bias correction counts it, so the first real update would be a quarter too small."""
    engine.optimizer.optimizer.state.clear()
    with torch.no_grad():
        for weight, master in master_weights(engine).items():
            master.copy_(weight)


def allocate_moments(engine: "DeepSpeedEngine") -> None:
    """Allocate AdamW's moments, zero, before any activation.

    The first step would allocate them in the gaps left by its activations and fragment memory: 0.3 of 6.5 GiB at
    mT5-Base's size on a CPU. DeepSpeed would also link only the first parameter group's moments to their parameters,
    and its accessors could not return the others.
    """
    optimizer, basic = engine.optimizer, engine.basic_optimizer
    partitions = getattr(optimizer, "fp32_partitioned_groups_flat", None)
    for weight in partitions or [weight for group in basic.param_groups for weight in group["params"]]:
        basic.state[weight] = {
            "step": torch.zeros((), device=weight.device),
            "exp_avg": torch.zeros_like(weight),
            "exp_avg_sq": torch.zeros_like(weight),
        }
    link_moments(engine)


def link_moments(engine: "DeepSpeedEngine") -> None:
    """Make the moments of every parameter available to DeepSpeed's accessors at stages 1 and 2."""
    if hasattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state"):
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()
