"""The call for a GPU host: it needs few packages, keeps every row, and a dry run goes through all of it."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.overrides import TorchFunctionMode

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import gpu_call, kernel_subjects
from benchmarks.gpu import device, operations, report, step
from benchmarks.gpu.device import BROKEN, Rows, toy_sizes
from unisign_fast.kernels.spec import Case
from unisign_fast.kernels.testing import make_inputs

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
    assert len(checked) == len(operations.ALL) + 1 and all(row["correct"] for row in checked), result
    table = (tmp_path / "out" / "table.md").read_text()
    assert done.stdout.endswith(table) and f"| {checked[0]['what']} | yes, " in table
    assert len(list((tmp_path / "out").iterdir())) == 2  # few files come back from a GPU host


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
    assert (
        "relative" not in result["RGB at 0"] and result["RGB at 0.5"]["padded_crops"] >= result["RGB at 0.5"]["crops"]
    )
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
    assert names == set(operations.ALL) | {"graph stack of 8 frames"}
    assert all(row["ms"] > 0 and row["roofline_ms"] > 0 for row in result.values())


def test_a_section_that_is_started_again_skips_what_it_has_tried(rows, monkeypatch):
    with rows.guard("graph stack of 8 frames, fast"):
        raise RuntimeError("an illegal memory access was encountered")
    before = len(rows.rows)
    again = Rows(rows.file, "test", 600.0, True)
    assert len(again.rows) == before
    monkeypatch.setattr(operations, "ALL", {})
    operations.roofline(again, toy_sizes())
    assert [row["what"] for row in again.rows if ", fast" in row["what"]] == ["graph stack of 8 frames, fast"]
    assert any("graph stack of 8 frames, eager, forward" == row["what"] for row in again.rows)


def test_an_error_that_breaks_cuda_is_a_row_and_ends_the_process(rows, monkeypatch):
    monkeypatch.setattr(device, "cuda_works", lambda: False)
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as ended, rows.guard("broken"):
        raise RuntimeError("an illegal memory access was encountered")
    assert ended.value.code == BROKEN and "illegal" in json.loads(rows.file.read_text())[0]["error"]


def test_a_broken_section_is_started_again_and_a_slow_one_is_ended_with_its_children(tmp_path, monkeypatch):
    first, marker = tmp_path / "first", tmp_path / "marker"
    broken = f"import os, sys; n = {str(first)!r}; sys.exit(0 if os.path.exists(n) else open(n, 'w') and {BROKEN})"
    child = f"import time; time.sleep(3); open({str(marker)!r}, 'w')"
    slow = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    scripts = {"stage1": broken, "loss": slow}
    monkeypatch.setattr(gpu_call, "section_command", lambda name, *_: [sys.executable, "-c", scripts[name]])
    monkeypatch.setattr(gpu_call, "deadline", lambda name, dry: 100 if name == "stage1" else 1)
    monkeypatch.setattr(gpu_call, "RESTART_SECONDS", 0)
    rows = gpu_call.call(tmp_path / "out", ["stage1", "loss"], dry=True)
    assert [row["status"] for row in rows] == [0, "killed at its deadline"]
    left_behind = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]])"
    assert gpu_call.finish([sys.executable, "-c", left_behind, child], 60) == 0
    time.sleep(3.5)
    assert not marker.exists()


def test_the_sections_together_take_no_more_than_the_whole_call(monkeypatch):
    assert sum(list(gpu_call.SECTIONS.values())[:-1]) < 0.8 * gpu_call.TOTAL_SECONDS <= 480
    monkeypatch.setattr(gpu_call, "BEGIN", time.monotonic() - 400)
    assert gpu_call.deadline("rgb", dry=False) < 71 and 69 < gpu_call.deadline("roofline", dry=False) < 71


def test_a_section_knows_the_end_of_its_time(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(step, "falling_loss", lambda rows, sizes: seen.append(rows.seconds_left))
    monkeypatch.setattr(gpu_call, "BEGIN", time.monotonic() - 12)  # importing takes that long on a cold host
    gpu_call.run_section("loss", tmp_path, 40.0, dry=True)
    assert 0 < seen[0] <= 40 - 12 - gpu_call.EXIT_SECONDS


def test_the_reference_takes_the_place_of_an_operation_that_crashes_or_is_wrong(monkeypatch):
    row = {"section": "correctness"}
    rows = [
        row | {"what": "geglu, large", "correct": False, "worst_of_allowed": 1.5},
        row | {"what": "graph_conv, small", "correct": False, "worst_of_allowed": "inf"},
        row | {"what": "mbconv:3", "error": "RuntimeError: ended with status -11"},
        row | {"what": "bn_silu", "error": "RuntimeError: ended with status timed out"},
        row | {"what": "cross_entropy, large", "correct": False, "error": "OutOfMemoryError: float64", "runs": True},
        row | {"what": "torch.compile ahead, geglu", "error": "RuntimeError: no compiler"},
    ]
    assert operations.unusable(rows) == ["graph_conv", "mbconv"]
    spec = operations.ALL["mbconv"]
    copies = {"mbconv": replace(spec, operation=replace(spec.operation))}
    monkeypatch.setattr(operations, "ALL", copies)
    operations.use_reference(["mbconv"])
    assert copies["mbconv"].operation.gpu is spec.operation.reference


def test_the_compiled_baseline_is_compiled_for_the_sizes_of_each_case(monkeypatch):
    graphs = []

    def backend(module, inputs):
        graphs.append([size for size in inputs if isinstance(size, torch.SymInt)])
        return module.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    spec = operations.ALL["geglu"]
    for rows in range(2, 13):  # torch gives up after eight versions of a function
        shape = {"N": rows, "H": 4 * rows}
        call = kernel_subjects.operation(spec, Case(shape, "small"), "cpu").providers["compiled"]
        call(*make_inputs(spec, shape, torch.bfloat16, "cpu"))
    assert graphs == [[]] * 11


def test_every_baseline_is_compiled_ahead(monkeypatch, capsys):
    jobs = operations.compiled_ahead(device.gpu_sizes())
    assert jobs[0] == operations.STACK and len(jobs) == len(set(jobs))
    assert {job.partition(":")[0] for job in jobs} == {operations.STACK, *operations.ALL}
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr(operations, "inductor", SimpleNamespace())
    operations.compile_one("geglu:0", toy_sizes())
    assert json.loads(capsys.readouterr().out)["what"] == "torch.compile ahead, geglu:0"


def test_every_case_is_checked_and_the_steps_kernels_are_compiled_ahead(capsys):
    jobs = operations.checks(device.gpu_sizes())
    counted = Counter(job.partition(":")[0] for job in jobs)
    assert counted == {n: len(operations.ALL[n].training) if n in operations.LARGE else 1 for n in operations.ALL}
    operations.check_one("graph_conv:0", toy_sizes())
    for share in operations.STEPS:
        step.compile_step(toy_sizes(), share)
    checked, pose, rgb = map(json.loads, capsys.readouterr().out.splitlines())
    assert checked["what"].startswith("graph_conv, ") and rgb["what"] == "kernels of a step at p_samp 0.1"
    assert 50 < pose["kernels"] < rgb["kernels"]


class NoHostValues(TorchFunctionMode):
    """Refuses to make a tensor of values on the host, whose copy to a GPU no CUDA graph captures."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        assert function not in (torch.tensor, torch.as_tensor, torch.from_numpy, torch.Tensor.new_tensor), function
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("spec", operations.SPECS, ids=lambda spec: spec.name)
def test_no_reference_copies_from_the_host(spec):
    inputs = make_inputs(spec, spec.cases[0].shape, torch.float32, "cpu")
    with NoHostValues():
        spec.operation.reference(*inputs)


def test_the_report_puts_predictions_beside_measurements():
    predicted = {row["what"]: row for row in json.loads(report.PREDICTED.read_text())}
    assert {f"stage 1, {clips} clips" for clips in device.gpu_sizes().micro_batches} <= predicted.keys()
    shared = {"device": "NVIDIA H200", "commit": "abc1234", "section": "roofline"}
    stage = {"micro_batch_ms": 130.0, "clips_per_s": 900.0, "mfu": 0.31, "peak_gib": 61.0}
    rows = [
        {"what": "stage 1, 128 clips"} | stage,
        {"what": "stage 1, 128 clips, profile", "launches": 1700, "busy_ms": 120.0, "busy_share": 0.92},
        {"what": "RGB at 0", "ms": 40.0, "crops": 0, "mfu": 0.2},
        {"what": "RGB at 0.1", "ms": 60.0, "crops": 1179, "mfu": 0.2, "us_a_crop": 17.0, "relative": 1.5},
        {"what": "graph_conv, small, fast, forward", "ms": 0.1, "roofline_fraction": 0.5},
        {"what": "graph_conv, small, fast, forward and backward", "ms": 0.2, "roofline_fraction": 0.4},
        {"what": "graph_conv, small, eager, forward and backward", "ms": 0.5, "roofline_fraction": 0.2},
        {"what": "graph stack of 30000 frames, fast, forward and backward", "ms": 60.0, "us_an_item": 2.0},
        {"what": "sdpa CUDNN_ATTENTION, trained bias", "error": "RuntimeError: no gradient"},
        {"what": "late", "error": "TimeoutError: not started"},
    ]
    text = report.report([row | shared for row in rows])
    largest, pose, some = (predicted[name] for name in ("stage 1, 128 clips", "RGB at 0", "RGB at 0.1"))
    counted = f"{largest['gpu_ms']:.1f} | 1700 | {largest['launches']}"
    assert f"| stage 1, 128 clips | 130.0 | 120.0 | {counted} | 92% | 900 | 31.0% | 61 |" in text
    relative, more = some["gpu_ms"] / pose["gpu_ms"], 1e3 * (some["gpu_ms"] - pose["gpu_ms"])
    assert f"| RGB at 0.1 | 1179 | 60.0 | 1.50 | {relative:.2f} | 17.0 | {more / some['crops']:.1f} |" in text
    assert "| graph_conv, small | –, – | 100.0 | 200.0 | 50% | 40% | 2.50 | – |" in text
    stack = predicted["graph stack of 30000 frames"]["us_an_item"]
    assert f"| graph stack of 30000 frames | 2 | {stack:.3g} |" in text
    assert "CUDNN_ATTENTION, trained bias: refused" in text and "FAILED roofline, late" in text


def test_an_error_is_a_row_and_so_is_what_found_no_time(rows):
    with rows.guard("broken"):
        raise RuntimeError("no such kernel")
    with rows.guard("late"):
        rows.require(1e6)
    errors = [row["error"] for row in json.loads(rows.file.read_text())]
    assert errors[0] == "RuntimeError: no such kernel" and errors[1].startswith("TimeoutError: not started")
    rows.add("not a number", loss=float("nan"), losses=[1.0, float("inf")])
    assert "NaN" not in rows.file.read_text() and json.loads(rows.file.read_text())[-1]["losses"] == [1.0, "inf"]
