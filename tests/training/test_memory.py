"""Micro-batches sized from memory: the bytes counted, the clips that fit, and the error if none fits."""

import gc
import sys
from dataclasses import replace

import pytest
import torch
from toy_training import Toy, run_script, toy_batch

from unisign_fast.kernels.launch import TooManyElements
from unisign_fast.model.config import ModelConfig, MT5Shape
from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.batches.batch_sampler import Budget
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.training import memory
from unisign_fast.training.deepspeed_engine import backward_step, start_engine
from unisign_fast.training.recipes import BASE
from unisign_fast.training.settings import TrainSettings
from unisign_fast.utils.distributed import Ranks, start_ranks

ALONE = Ranks(0, 1, torch.device("cpu"))
POSE = DataSettings(max_frames=64, p_samp=0.0)
SMALL = ModelConfig(MT5Shape(1024, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_decoder_layers=2, num_heads=4))
BASE_POSE = DataSettings(max_frames=BASE.max_frames, p_samp=0.0)


def test_micro_batches_on_a_cpu_are_the_published_ones_unless_given():
    for stage, clips in ((1, 16), (2, 4), (3, 8)):
        budget = memory.micro_batch_budget(BASE.stages[stage], BASE_POSE, SMALL, stage, ALONE)
        assert budget == Budget(clips * 256, clips * 50)
    given = replace(BASE.stages[1], frames_per_device=100, tokens_per_device=7)
    assert memory.micro_batch_budget(given, BASE_POSE, SMALL, 1, ALONE) == Budget(100, 7)


def test_saved_bytes_grow_by_the_clip_and_by_its_hands():
    settings = TrainSettings()
    two, four, six = (memory.saved_bytes(clips, settings, POSE, SMALL) for clips in (2, 4, 6))
    assert six - four == pytest.approx(four - two, rel=0.01) and four > two
    full = memory.saved_bytes(4, replace(settings, precision="fp32"), POSE, SMALL)
    assert 1.5 < full / four < 2.1
    hands = memory.saved_bytes(4, settings, replace(POSE, p_samp=0.5), replace(SMALL, rgb=True))
    assert hands > 2 * four


def test_as_many_clips_as_fit_in_memory_with_the_state():
    """At the paper's geometry, in 80 GB: what GPU memory holds after the state and the workspace."""
    settings, free = BASE.stages[1], 80 * 10**9
    clips = memory.clips_that_fit(free, settings, BASE_POSE, ModelConfig(), 1)
    state = memory.state_bytes(settings, ModelConfig(), 1)
    saved = memory.saved_bytes(clips, settings, BASE_POSE, ModelConfig())
    assert 10e9 < state < 14e9 and 64 <= clips <= 512
    used = state + saved + memory.WORKSPACE
    assert 0.95 * memory.USED_SHARE * free < used < 1.05 * memory.USED_SHARE * free or clips == settings.clips_per_step
    assert memory.state_bytes(settings, ModelConfig(), 8) < 0.6 * state  # ZeRO 1 shares the optimiser's out
    assert memory.clips_that_fit(10**15, settings, POSE, SMALL, 8) == settings.clips_per_step // 8
    with pytest.raises(InputError, match="13 GiB are free, but the model and its optimiser need 11 GiB"):
        memory.clips_that_fit(13 * 2**30, settings, BASE_POSE, ModelConfig(), 1)


@pytest.mark.parametrize("p_samp, clips", [(0.1, 120), (0.5, 24)])
def test_no_more_clips_than_the_kernels_can_address(p_samp, clips):
    """7,133 crops of 112 x 112 fill int32 offsets at EfficientNet-B0's widest map; a 256-frame clip has 52 or 256."""
    data, config = replace(BASE_POSE, p_samp=p_samp), ModelConfig(rgb=True)
    assert memory.clips_that_fit(10**15, BASE.stages[2], data, config, 1) == clips
    assert memory.addressable_clips(clips, BASE.stages[2], data, config) == clips
    ctc = ModelConfig(head="ctc", head_classes=("a",))
    assert memory.addressable_clips(3, BASE.stages[3], BASE_POSE, ctc) == 3


def test_running_out_of_memory_names_the_settings_to_lower():
    with pytest.raises(InputError) as caught, memory.out_of_memory_advice(Budget(4096, 800), 256):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert str(caught.value).endswith("give --frames-per-device 2048 --tokens-per-device 400")
    with pytest.raises(InputError) as caught, memory.out_of_memory_advice(Budget(200, 800), 256):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert "a single clip of up to 256 frames" in str(caught.value) and "give --max-frames 128" in str(caught.value)
    with pytest.raises(InputError) as caught, memory.out_of_memory_advice(Budget(4096, 800), 256):
        raise TooManyElements("depthwise_forward", 3 * 10**9)
    assert str(caught.value).startswith("GPU kernels (depthwise_forward: a tensor of 3,000,000,000 elements exceeds")
    assert str(caught.value).endswith("give --frames-per-device 2048 --tokens-per-device 400")
    with pytest.raises(ZeroDivisionError), memory.out_of_memory_advice(Budget(4096, 800), 256):
        raise ZeroDivisionError


def print_state_of_engines() -> None:
    """Run in a process of its own: bytes per parameter after a backward pass, without DeepSpeed's fixed bucket."""
    start_ranks()
    engines, total = [], 0.0  # engines stay alive, so that each adds its own bytes
    for precision, stage in ("fp32", 0), ("fp32", 1), ("bf16", 1):
        model = Toy()
        model.pose = torch.nn.Linear(207, 40_000)
        model.forward = lambda batch, model=model: model.pose(batch.poses.flatten(1).to(model.pose.weight)).sum()[None]
        engines.append(start_engine(model, TrainSettings(precision=precision, zero_stage=stage), 1))
        engines[-1].step = lambda: None
        backward_step(engines[-1], [toy_batch([0])] * 2, torch.ones(()))
        tensors = [x for x in gc.get_objects() if isinstance(x, torch.Tensor) and not x.is_meta]
        sizes = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
        before, total = total, sum(size for size in sizes.values() if size < 2 * 10**9)
        print("bytes", (total - before) / sum(parameter.numel() for parameter in model.parameters()))


def test_the_state_counted_is_what_the_engine_holds():
    status, output = run_script([sys.executable, __file__])
    assert status == 0, output[-4000:]
    held = [float(line.split()[1]) for line in output.splitlines() if line.startswith("bytes ")]
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in UniSign(SMALL).parameters())
    runs = [TrainSettings(precision="fp32", zero_stage=0), TrainSettings(precision="fp32"), TrainSettings()]
    counted = [memory.state_bytes(run, SMALL, 1) / parameters for run in runs]
    assert counted == pytest.approx(held, rel=0.01) and held == pytest.approx([16, 20, 20], rel=0.01)


if __name__ == "__main__":
    print_state_of_engines()
