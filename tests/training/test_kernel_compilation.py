"""Compiling a step's kernels ahead: other batches launch the kernels of the recorded one, and an error costs a line."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from test_memory import SMALL
from torch import nn

from benchmarks.step.synthetic import synthetic_step
from unisign_fast.kernels.cross_entropy import op as cross_entropy
from unisign_fast.kernels.dispatch import as_device
from unisign_fast.kernels.launch import Launch, recording
from unisign_fast.model.config import ModelConfig
from unisign_fast.pipelines.batches.batch_sampler import Budget
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.training import kernel_compilation
from unisign_fast.training.kernel_compilation import compile_kernels, step_launches
from unisign_fast.training.memory import meta_model
from unisign_fast.training.settings import RunSettings
from unisign_fast.utils.distributed import Ranks

BUDGET = Budget(8 * 64, 8 * 50)
RGB = replace(SMALL, rgb=True)


def settings_for(config: ModelConfig) -> RunSettings:
    return RunSettings(stage=2 if config.rgb else 1, data=DataSettings(max_frames=64, p_samp=0.25 * config.rgb))


def end_to_end(model: nn.Module) -> nn.Module:
    """The model with its parameters in one tensor, as DeepSpeed stores them."""
    parameters = list(model.parameters())
    flat = parameters[0].new_empty(sum(parameter.numel() for parameter in parameters))
    for parameter, part in zip(parameters, flat.split([parameter.numel() for parameter in parameters])):
        parameter.data = part.view(parameter.shape)
    return model


@pytest.mark.parametrize("config", [SMALL, RGB], ids=["pose", "RGB"])
def test_a_full_batch_has_the_kernels_of_any_other(config, monkeypatch):
    settings = settings_for(config)
    model = end_to_end(meta_model(settings.train, config))
    expected = set(step_launches(model, BUDGET, settings, config))
    aligned = set(step_launches(meta_model(settings.train, config), BUDGET, settings, config))
    assert expected - aligned and len(expected) > 100, "some parameters are not aligned"
    monkeypatch.setattr(cross_entropy, "GPU_CHUNK_BYTES", 33 * 2 * 1024)  # odd, so that most chunks are not aligned
    sizes = {"vocabulary": 1024, "p_samp": settings.data.p_samp, "crop_size": settings.data.crop_size}
    for clips in (15, 16, 23):  # of which each has more than 128 crops; fewer would have fewer partial sums to merge
        with as_device("cuda"), recording() as launches:
            model(synthetic_step(40, clips, 64, **sizes)[1].to("meta"))[0].backward()
        assert set(launches) == expected


def test_a_head_adds_no_kernels():
    ctc = replace(SMALL, head="ctc", head_features="encoder", head_classes=("a", "b"))
    settings = settings_for(ctc)
    launches = step_launches(meta_model(settings.train, ctc), BUDGET, settings, ctc)
    pose = step_launches(meta_model(settings.train, SMALL), BUDGET, settings, SMALL)
    assert launches and {launch.kernel for launch in launches} <= {launch.kernel for launch in pose}


class Log(list):
    """A metrics logger that keeps the messages."""

    def event(self, event: str, message: str) -> None:
        self.append((event, message))


def compiled_by(device: str, monkeypatch, compile_ahead) -> tuple[list[tuple[str, str]], list[str]]:
    """What a rank on this device logs, and the barriers that it waits at."""
    monkeypatch.setattr(kernel_compilation, "compile_ahead", compile_ahead)
    barriers = []
    monkeypatch.setattr(Ranks, "barrier", lambda ranks: barriers.append(ranks.device.index))
    settings, log = settings_for(SMALL), Log()
    trainer = SimpleNamespace(
        ranks=Ranks(0, 1, torch.device(device)),
        engine=SimpleNamespace(module=meta_model(settings.train, SMALL)),
        loader=SimpleNamespace(budget=BUDGET),
        metrics_logger=log,
    )
    compile_kernels(trainer, settings, SMALL)
    return log, barriers


def test_one_rank_of_a_host_compiles_and_no_error_stops_the_run(monkeypatch):
    given: list[Launch] = []

    def count(launches: list[Launch]) -> int:
        given.extend(launches)
        return len(set(launches))

    def fail(_: list[Launch]) -> int:
        raise RuntimeError("no space left\nin the cache")

    assert compiled_by("cpu", monkeypatch, fail) == ([], [])
    assert compiled_by("cuda:1", monkeypatch, fail) == ([], [1]), "waits for the first rank"
    ((event, line),), barriers = compiled_by("cuda:0", monkeypatch, count)
    assert event == "kernels" and line.startswith(f"compiled or loaded {len(set(given))} kernels in ")
    assert barriers == [0] and len(given) > 100
    ((_, line),), barriers = compiled_by("cuda:0", monkeypatch, fail)
    assert line.endswith("compiling them ahead failed (RuntimeError: no space left)") and barriers == [0]
