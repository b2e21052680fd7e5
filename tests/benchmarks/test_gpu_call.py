"""The call for a GPU host: it needs few packages, keeps every row, and a dry run goes through all of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu import operations, step
from benchmarks.gpu.device import Rows, toy_sizes

ABSENT = ("deepspeed", "nvidia.dali", "zarr", "av", "tyro", "msgspec", "google_crc32c", "rouge", "tensorboard", "ftfy")
BLOCKER = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if any(name == absent or name.startswith(absent + ".") for absent in {ABSENT}):
            raise ModuleNotFoundError("absent on a GPU host: " + name, name=name)
sys.meta_path.insert(0, Absent())
"""
EVERY_ROW = {"section", "what", "device", "torch", "triton", "transformers", "commit", "date"}


@pytest.fixture
def rows(tmp_path) -> Rows:
    return Rows(tmp_path / "rows.json", "test", 600.0, True)


def written(rows: Rows) -> dict[str, dict]:
    """The rows in the file by what they measure; none is an error."""
    result = {row["what"]: row for row in json.loads(rows.file.read_text())}
    assert all(EVERY_ROW <= row.keys() and "error" not in row for row in result.values()), result
    return result


def test_the_call_needs_only_what_the_host_has(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "TRITON_INTERPRET": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "benchmarks/gpu_call.py"), "--dry-run", "--only", "ceilings", "correctness"]
    command += ["--out", str(tmp_path / "out"), "--commit", "abc1234"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "rows.json").read_text())
    assert {row["commit"] for row in result} == {"abc1234"} and all(EVERY_ROW <= row.keys() for row in result)
    ended = {row["section"]: row["status"] for row in result if row["what"] == "whole section"}
    assert ended == {"ceilings": 0, "correctness": 0}, done.stderr
    checked = [row for row in result if row["section"] == "correctness" and "correct" in row]
    assert len(checked) == len(operations.SPECS) and all(row["correct"] for row in checked), result
    assert "bf16 product" in done.stdout.splitlines()[-len(result) + 1]  # the table comes last, a line a row


def test_stage_1_is_measured_at_every_size(rows):
    step.stage1(rows, toy_sizes())
    result = written(rows)
    for clips in toy_sizes().micro_batches:
        row = result[f"stage 1, {clips} clips"]
        assert min(row[name] for name in ("micro_batch_ms", "optimizer_ms", "clips_per_s", "mfu")) > 0
        costliest = result[f"stage 1, {clips} clips, profile"]["costliest"]
        assert 0 < len(costliest) <= step.TOP and costliest == sorted(costliest, key=lambda one: -one[2])
        assert result[f"stage 1, {clips} clips, synchronisations"]["count"] == 0


def test_rgb_is_measured_beside_pose_only(rows):
    step.rgb(rows, toy_sizes())
    result = written(rows)
    assert result["RGB at 0"]["crops"] == 0 < result["RGB at 0.1"]["crops"] < result["RGB at 0.5"]["crops"]
    assert {"us_a_crop", "relative"} <= result["RGB at 0.5"].keys()


def test_the_loss_falls_and_masters_hold_what_bf16_cannot(rows):
    step.falling_loss(rows, toy_sizes())
    assert written(rows)["loss in bf16"]["falls"]
    module = torch.nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    torch.nn.init.ones_(module.weight)
    optimizer = step.MasterAdamW(module, 1e-4)
    for _ in range(3):
        module(torch.ones(1, dtype=torch.bfloat16)).sum().backward()
        optimizer.accumulate()
        optimizer.step()
    assert module.weight.item() == 1 and optimizer.masters[0].item() == pytest.approx(1 - 3e-4, abs=1e-6)


def test_every_operation_and_the_stack_stand_beside_their_roofline(rows):
    operations.roofline(rows, toy_sizes())
    result = written(rows)
    names = {what.partition(",")[0] for what in result}
    assert names == {spec.name for spec in operations.SPECS} | {"graph stack of 8 frames"}
    assert all(row["ms"] > 0 and row["roofline_ms"] > 0 for row in result.values())


def test_an_error_is_a_row_and_so_is_what_found_no_time(rows):
    with rows.guard("broken"):
        raise RuntimeError("no such kernel")
    with rows.guard("late"):
        rows.require(1e6)
    errors = [row["error"] for row in json.loads(rows.file.read_text())]
    assert errors[0] == "RuntimeError: no such kernel" and errors[1].startswith("TimeoutError: not started")
