"""Every operation's Triton path against its reference: numbers, gradients, shapes, and what chooses between them."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kernels import dispatch
from kernels.registry import KernelSpec, kernels
from kernels.testing import check, leaves, make_inputs, output_and_gradients, poisoned_memory, repair_interpreter

ROOT = Path(__file__).resolve().parents[1]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.bfloat16]
SPECS = {spec.name: spec for spec in kernels()}
CASES = [(spec, case) for spec in kernels() for case in spec.cases]
each_case = pytest.mark.parametrize("spec, case", CASES, ids=[f"{s.name}-{c.reason}" for s, c in CASES])
each_operation = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


@pytest.fixture(scope="module", autouse=True)
def interpreter() -> None:
    if DEVICE == "cpu":
        repair_interpreter()


@pytest.fixture
def forced(monkeypatch):
    """Sets UNISIGN_KERNELS for the test."""
    return lambda version: monkeypatch.setenv("UNISIGN_KERNELS", version)


def errors_and_allowed(spec: KernelSpec, shape: dict, dtype: torch.dtype) -> list[str]:
    """The results that are too far off, as text."""
    names = ["output", *(f"gradient {i}" for i in range(99))]
    rows = zip(names, check(spec, shape, dtype, DEVICE))
    return [f"{name}: {error:.1e} > {allowed:.1e}" for name, (error, allowed) in rows if not error <= allowed]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_case
def test_kernel_equals_reference(spec, case, dtype):
    assert errors_and_allowed(spec, case.shape, dtype) == []


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_operation
def test_kernel_equals_reference_at_training_size(spec, dtype):
    for case in spec.training:
        assert errors_and_allowed(spec, case.shape, dtype) == []


@each_operation
def test_check_notices_a_wrong_and_a_missing_value(spec):
    """The tolerance can fail: one element off by a hundredth of the largest, or never written."""
    shape = spec.cases[0].shape
    for damage in (
        lambda out: out + out.abs().max() * 0.01 * (torch.arange(out.numel()).view(out.shape) == 0),
        _unwritten,
    ):
        broken = KernelSpec(**{**vars(spec), "triton": lambda *inputs, d=damage: d(spec.reference(*inputs))})
        assert errors_and_allowed(broken, shape, torch.float32)


def _unwritten(out: torch.Tensor) -> torch.Tensor:
    assert torch.empty_like(out).isnan().all(), "memory is poisoned"
    return torch.where(torch.arange(out.numel()).view(out.shape) == 0, torch.empty_like(out), out)


@each_operation
def test_the_same_bits_every_time(spec):
    runs = [
        output_and_gradients(spec.triton, make_inputs(spec, spec.cases[0].shape, torch.float32, DEVICE)) for _ in "ab"
    ]
    assert all(torch.equal(one, other) for one, other in zip(*runs))


@each_operation
def test_operators_hold_what_they_promise(spec):
    """Schema and fake implementation of the custom operators, as torch.compile relies on them."""
    seen = []

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            if operator.namespace == "unisign_fast":
                seen.append((operator, args))
            return operator(*args, **(kwargs or {}))

    inputs = make_inputs(spec, spec.cases[0].shape, torch.float32, DEVICE)
    with Recorder():
        output_and_gradients(spec.triton, inputs)
    assert len(seen) >= 2
    for operator, args in seen:
        torch.library.opcheck(operator, args, test_utils=("test_schema", "test_faketensor"))


@each_operation
def test_traced_by_torch_compile_without_a_break(spec, forced):
    forced("triton")
    inputs = make_inputs(spec, spec.cases[0].shape, torch.float32, DEVICE)
    compiled = torch.compile(lambda *arguments: dispatch.run(spec, *arguments), backend="aot_eager", fullgraph=True)
    for found, expected in zip(output_and_gradients(compiled, inputs), output_and_gradients(spec.triton, inputs)):
        torch.testing.assert_close(found, expected)


@each_operation
def test_used_twice_in_a_graph_and_on_strided_inputs(spec):
    inputs = make_inputs(spec, spec.cases[0].shape, torch.float32, DEVICE)
    strided = _strided(inputs)
    assert any(not x.is_contiguous() for x in leaves(strided))

    def twice(operation):
        return lambda *arguments: operation(*arguments) + 2 * operation(*arguments)

    with poisoned_memory():
        found = output_and_gradients(twice(spec.triton), strided)
    for ours, expected in zip(found, output_and_gradients(twice(spec.reference), inputs)):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * max(1.0, expected.abs().max().item()))


def _strided(arguments):
    """The same numbers, every float tensor of two dimensions or more laid out the other way round."""
    if isinstance(arguments, torch.Tensor):
        if arguments.ndim < 2 or not arguments.is_floating_point():
            return arguments
        return arguments.detach().transpose(0, -1).contiguous().transpose(0, -1).requires_grad_()
    return type(arguments)(_strided(argument) for argument in arguments)


@each_operation
def test_chooses_the_reference_without_a_gpu(spec, caplog):
    dispatch._say.cache_clear()
    inputs = make_inputs(spec, spec.cases[0].shape, torch.float32, "cpu")
    with caplog.at_level(logging.INFO, "kernels.dispatch"):
        found = dispatch.run(spec, *inputs)
    assert torch.equal(found, spec.reference(*inputs))
    assert caplog.messages == [f"{spec.name}: reference"]


@each_operation
def test_a_forced_version_runs(spec, forced, caplog):
    inputs = make_inputs(spec, spec.cases[1].shape, torch.float32, DEVICE)
    expected = spec.reference(*inputs)
    for version in ("reference", "triton"):
        forced(version)
        dispatch._say.cache_clear()
        with caplog.at_level(logging.INFO, "kernels.dispatch"):
            torch.testing.assert_close(dispatch.run(spec, *inputs), expected, rtol=1e-4, atol=1e-4)
        assert caplog.messages[-1] == f"{spec.name}: {version}"


def test_refusals_say_why(forced):
    forced("triton")
    sampling = make_inputs(
        SPECS["keypoint_sampling"], {"N": 1, "G": 1, "V": 33, "E": 8, "HW": (4, 4)}, torch.float32, DEVICE
    )
    with pytest.raises(ValueError, match="keypoint_sampling: .*33 joints are more than 32"):
        dispatch.run(SPECS["keypoint_sampling"], *sampling)
    double = make_inputs(SPECS["graph_conv"], {"F": 2, "V": 3, "C": 4, "O": 4, "K": 1}, torch.float64, DEVICE)
    with pytest.raises(ValueError, match="graph_conv: .*float64 is not one of"):
        dispatch.run(SPECS["graph_conv"], *double)
    mixed = (double[0].float(), *(x.bfloat16() for x in double[1:]))
    with pytest.raises(ValueError, match="different types"):
        dispatch.run(SPECS["graph_conv"], *mixed)
    forced("cuda")
    with pytest.raises(ValueError, match="UNISIGN_KERNELS: 'cuda' is not known; choose one of reference | triton"):
        dispatch.run(SPECS["graph_conv"], *double)


@pytest.mark.skipif(DEVICE == "cuda", reason="compiled for the GPU at hand by the other tests")
def test_every_launch_compiles_for_real_gpus_without_spills(tmp_path):
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-m", "kernels.aot", "--json", str(tmp_path / "rows.json")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert {row["operation"] for row in rows} == set(SPECS) and {row["capability"] for row in rows} == {80, 90, 100}
    assert [row for row in rows if not row["fits"]] == []
    assert all(row["tensor_cores"] for row in rows if row["dtype"] == "bfloat16")
