"""Operators called directly and through torch.library, and what reaches Triton's launcher in C."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.library import CustomOpDef
from torch.utils._python_dispatch import TorchDispatchMode

from unisign_fast.kernels.batch_norm.triton_kernel import scale_and_shift
from unisign_fast.kernels.geglu.triton_kernel import forward as geglu
from unisign_fast.kernels.registry import SPECS
from unisign_fast.kernels.testing import make_inputs, results_and_gradients

ROOT = Path(__file__).resolve().parents[2]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Watching(TorchDispatchMode):
    """Counts the project's operators."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.namespace == "unisign_fast"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("spec", SPECS, ids=[spec.name for spec in SPECS])
def test_a_direct_call_gives_the_bits_of_the_custom_operator(spec, monkeypatch):
    inputs = make_inputs(spec, spec.cases[0].shape, torch.float32, DEVICE)
    with Watching() as watching:
        expected = results_and_gradients(spec.operation.gpu, inputs)
    assert watching.count

    def refuse(*_):
        raise AssertionError("a call through torch.library")

    monkeypatch.setattr(CustomOpDef, "__call__", refuse)
    inputs = make_inputs(spec, spec.cases[0].shape, torch.float32, DEVICE)
    result = results_and_gradients(spec.operation.gpu, inputs)
    assert len(result) == len(expected) and all(map(torch.equal, result, expected))


def test_a_direct_call_tells_autograd_what_it_writes_to():
    mean, var, weight, bias, running_mean, running_var = torch.rand(6, 8, device=DEVICE).unbind()
    running_mean, running_var = running_mean.clone(), running_var.clone()
    batches = torch.tensor(0, device=DEVICE)
    x = torch.rand(8, device=DEVICE, requires_grad=True)
    y = x * running_mean
    with torch.no_grad():
        scale_and_shift(mean, var, weight, bias, running_mean, running_var, batches, None, 4, 0.1)
    assert batches == 1 and batches._version == running_var._version == 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_second_derivatives_are_refused():
    x = torch.rand(4, 32, device=DEVICE, requires_grad=True)
    (gradient,) = torch.autograd.grad(geglu(x, 0.0, None).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        gradient.sum().backward()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_a_gradient_nothing_is_recorded(context):
    x = torch.rand(4, 32, device=DEVICE, requires_grad=True)
    with context():
        result = geglu(x, 0.0, None)
    assert result.grad_fn is None and torch.equal(result, geglu(x, 0.0, None))


def run_compiled(script: str, **environment: str) -> None:
    """Run a script of tests/helpers with Triton's compiler instead of its interpreter."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", f"tests.helpers.{script}"]
    done = subprocess.run(command, cwd=ROOT, env=kept | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_compiled_kernel_gets_the_arguments_that_triton_gives_it():
    """Without a GPU: Triton's driver is one that records the calls of the launcher in C."""
    run_compiled("recorded_launches")


def test_a_launch_compiled_ahead_is_in_triton_s_cache(tmp_path):
    run_compiled("compiled_ahead", TRITON_CACHE_DIR=str(tmp_path))
