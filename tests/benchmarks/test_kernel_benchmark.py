"""benchmarks/kernels.py without a GPU: its counts, pictures and error messages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from unisign_fast.kernels.registry import SPECS
from unisign_fast.kernels.testing import make_inputs, results_and_gradients

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "benchmarks/kernels.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})


def rows() -> list[dict]:
    """Rows as --json writes them for two providers."""
    shared = {"operation": "graph_conv", "case": "small", "p20_ms": 0.9, "p80_ms": 1.1, "us_an_item": 1.0}
    shared |= {"peak_mib": 5.0, "gb_per_s": 900.0, "tflop_per_s": 90.0, "gpu": "NVIDIA H200"}
    shared |= {"torch": "2.13.0", "triton": "3.7.1", "commit": "abc1234"}
    speeds = [("eager", "forward", 4.0), ("gpu", "forward", 1.0), ("eager", "backward", 9.0)]
    return [
        shared | {"provider": p, "direction": d, "p50_ms": ms, "roofline_fraction": 0.5 / ms} for p, d, ms in speeds
    ]


def test_counts_the_work_of_every_operation_and_of_the_models_parts():
    done = run("--count")
    assert done.returncode == 0, done.stderr
    for name in (
        "deferred_activation",
        "graph_conv",
        "temporal_conv",
        "varlen_attention",
        "deformable_attention",
        "position_bias",
        "graph stack",
        "fusion",
    ):
        assert f" {name} " in done.stdout


def test_draws_rows_of_another_machine(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows()))
    done = run("--draw-rows", str(path))
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "rows.png") as picture:
        assert picture.width > 1000 and len(set(picture.convert("L").getdata())) > 10


@pytest.mark.parametrize("name, number, sizes", [("temporal_conv", 0, {"T": [6, 6, 6]}), ("varlen_attention", 2, {})])
def test_the_library_s_formulation_is_the_operation(name, number, sizes):
    sys.path.insert(0, str(ROOT))
    from benchmarks.kernel_subjects import LIBRARIES

    spec = next(spec for spec in SPECS if spec.name == name)
    shape = spec.cases[number].shape | sizes
    result, expected = (
        results_and_gradients(operation, make_inputs(spec, shape, torch.float64, "cpu"))
        for operation in (LIBRARIES[name], spec.operation.reference)
    )
    torch.testing.assert_close(result, expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU to time on")
@pytest.mark.parametrize("command", [["benchmarks/kernels.py"], ["benchmarks/gpu_suite.sh"]])
def test_says_in_a_line_that_there_is_no_gpu(command):
    shell = "bash" if command[0].endswith(".sh") else sys.executable
    done = subprocess.run([shell, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (1, 2) and "no GPU" in done.stderr and done.stderr.count("\n") == 1
