"""Launches of a micro-batch, counted on meta tensors: what the counter counts, and upper bounds by structure."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.launches import CEILINGS, CLIPS_PER_MICRO_BATCH, WHOLE, Row, count, launches
from benchmarks.step.launch_counter import LaunchCounter
from unisign_fast.model.config import ModelConfig, MT5Shape
from unisign_fast.model.flops import TRAINING, forward_flops
from unisign_fast.utils.console import run_command

H200 = CEILINGS["H200"]
MOST_LAUNCHES = {1: 1600, 2: 2450, 3: 2450}  # of a micro-batch at its default size; lower them with the code


def counted(stage: int, clips: int, config: ModelConfig = ModelConfig()) -> dict[tuple[str, str], Row]:
    """The rows of a micro-batch by phase and pass."""
    return {(row.phase, row.direction): row for row in count(stage, clips, config, H200, 256)}


@pytest.fixture(scope="module")
def stages() -> dict[int, dict[tuple[str, str], Row]]:
    """Launch rows of each stage at its default size."""
    return {stage: counted(stage, clips) for stage, clips in CLIPS_PER_MICRO_BATCH.items()}


@pytest.fixture(scope="module")
def stage1(stages) -> dict[tuple[str, str], Row]:
    return stages[1]


@pytest.mark.parametrize("stage", MOST_LAUNCHES)
def test_a_micro_batch_has_few_launches_and_keeps_the_gpu_ahead_of_the_host(stages, stage):
    whole = stages[stage][WHOLE, "both"]
    assert 0.9 * MOST_LAUNCHES[stage] < whole.launches <= MOST_LAUNCHES[stage]
    assert whole.host_ms < whole.gpu_ms / 2


def test_what_launches_a_kernel_is_counted_with_its_bytes_and_flops():
    x, w = torch.empty(8, 4, device="meta"), torch.empty(4, 6, device="meta", requires_grad=True)
    with LaunchCounter(1e12, 1e12, lambda: 0) as counter:
        counter.enter("first")
        y = x @ w
        counter.enter("second")
        z = y.view(6, 8).t().relu()
        z.sum().backward()
    forward, second = counter.tallies["first", "forward"], counter.tallies["second", "forward"]
    assert (forward.launches, forward.flops, forward.bytes) == (1, 2 * 8 * 4 * 6, 4 * (8 * 4 + 4 * 6 + 8 * 6))
    assert second.launches == 2 + 1  # relu and sum; the gradient of the loss is filled with ones outside of backward
    assert counter.tallies["first", "backward"].flops == 2 * 8 * 4 * 6
    assert counter.tallies["second", "backward"].launches == 1


def test_a_host_synchronisation_cannot_pass_unnoticed():
    with LaunchCounter(*H200, lambda: 0), pytest.raises(RuntimeError, match="meta"):
        torch.empty(1, device="meta").item()
    with LaunchCounter(*H200, lambda: 0), pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        torch.empty(4, device="meta").nonzero()


def test_products_are_those_that_the_model_needs_and_padding(stage1):
    """ATen's own FLOPs of mT5: at least the useful ones, and less than 15 % above them."""
    config = ModelConfig()
    row = stage1[WHOLE, "both"]
    batch_frames = [row.frames / row.clips] * row.clips
    useful = forward_flops(config, batch_frames, [14] * row.clips, [row.tokens / row.clips] * row.clips, 0, 112)
    products = stage1["mT5 encoder", "forward"].gflop + stage1["mT5 encoder", "backward"].gflop
    assert 0.97 < products / (TRAINING * useful["mT5 encoder"] / 1e9) < 1.15
    loss = stage1["vocabulary loss", "forward"].gflop + stage1["vocabulary loss", "backward"].gflop
    assert loss == pytest.approx(TRAINING * useful["vocabulary loss"] / 1e9, rel=0.01)


def test_a_layer_adds_its_launches_and_nothing_else_does():
    """The whole is what a few layers of mT5 extrapolate to, and does not grow with the clips but for loss chunks."""
    toy = MT5Shape(1024, d_model=64, d_kv=16, d_ff=128, num_heads=4)
    sizes = []
    for layers in (2, 3, 5):  # a single one would not copy its keys and values
        mt5 = replace(toy, num_layers=layers, num_decoder_layers=layers)
        sizes.append(counted(1, 8, ModelConfig(mt5))[WHOLE, "both"].launches)
    assert sizes[2] - sizes[1] == 2 * (sizes[1] - sizes[0])
    mt5 = replace(toy, num_layers=2, num_decoder_layers=2)
    assert counted(1, 32, ModelConfig(mt5))[WHOLE, "both"].launches == sizes[0]


def test_the_command_writes_its_rows(tmp_path, capsys):
    run_command(launches, ["--stages", "1", "--clips", "4", "--card", "H100", "--json", str(tmp_path / "rows.json")])
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert "predicted for one H100" in capsys.readouterr().out
    whole, *_ = (row for row in rows if row["phase"] == WHOLE)
    assert whole["launches"] == sum(row["launches"] for row in rows if row is not whole)
    assert whole["host_ms"] == pytest.approx(0.006 * whole["launches"])
