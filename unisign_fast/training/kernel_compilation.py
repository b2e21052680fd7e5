"""Compiles the kernels of a training step before the first one, which would compile them one after the other."""

import time
from dataclasses import replace

from torch import nn

from unisign_fast.kernels.aot import compile_ahead
from unisign_fast.kernels.dispatch import as_device
from unisign_fast.kernels.launch import Launch, recording
from unisign_fast.model.config import ModelConfig
from unisign_fast.pipelines.batches.batch_sampler import Budget
from unisign_fast.training.memory import full_batch, meta_model
from unisign_fast.training.settings import RunSettings
from unisign_fast.training.trainer import Trainer


def compile_kernels(trainer: Trainer, settings: RunSettings, config: ModelConfig) -> None:
    """Fill Triton's cache on every host, and log one line about it; nothing without a GPU.

    One rank of a host compiles, on all cores, while the others wait: they would compile the same kernels, and the first
    step waits for the last rank anyway. An error is left to the step, which compiles what it does not find.
    """
    ranks = trainer.ranks
    if ranks.device.type != "cuda":
        return
    if ranks.device.index == 0:
        begin = time.perf_counter()
        try:
            count = compile_ahead(step_launches(trainer.engine.module, trainer.loader.budget, settings, config))
            line = f"compiled or loaded {count} kernels in {time.perf_counter() - begin:.1f} s"
        except Exception as error:
            cause = f"{type(error).__name__}: {error}".splitlines()[0]
            line = f"the first step compiles its kernels itself, because compiling them ahead failed ({cause})"
        trainer.metrics_logger.event("kernels", line)
    ranks.barrier()


def step_launches(model: nn.Module, budget: Budget, settings: RunSettings, config: ModelConfig) -> list[Launch]:
    """The launches of a micro-batch of full-length clips, forward and backward, recorded on meta tensors.

    Triton compiles the same code for other lengths, but not for a parameter at another alignment, and DeepSpeed has
    moved those of `model`.
    """
    if config.head == "ctc":  # has no backward pass on meta tensors; no head has kernels of this project
        config = replace(config, head="classifier")
    twin = meta_model(settings.train, config)
    offsets = {name: parameter.storage_offset() for name, parameter in model.named_parameters()}
    for name, parameter in twin.named_parameters():
        flat = parameter.new_empty(offsets.get(name, 0) + parameter.numel())
        parameter.data = flat[offsets.get(name, 0) :].view(parameter.shape)
    clips = max(1, budget.frames // settings.data.max_frames)
    with as_device("cuda"), recording() as launches:
        twin(full_batch(clips, settings.data, config).to("meta"))[0].backward()
    return launches
