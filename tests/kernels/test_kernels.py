"""Every operation's fast backends against its reference: numbers, gradients, shapes, and the choice between them."""

import copy
import json
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kernel_memory import watched_memory

from unisign_fast.kernels import aot, dispatch
from unisign_fast.kernels.cross_entropy import op as cross_entropy
from unisign_fast.kernels.deferred_activation.reference import DeferredActivation
from unisign_fast.kernels.dispatch import tensors
from unisign_fast.kernels.registry import SPECS as ALL
from unisign_fast.kernels.spec import KernelSpec
from unisign_fast.kernels.temporal_conv.reference import Clips
from unisign_fast.kernels.testing import (
    check,
    leaves,
    make_inputs,
    poisoned_memory,
    repair_interpreter,
    results_and_gradients,
)
from unisign_fast.model.st_gcn import PoseEncoder, TemporalEncoder

ROOT = Path(__file__).resolve().parents[2]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.bfloat16]
SPECS = {spec.name: spec for spec in ALL}
FAST = ("gpu",) if DEVICE == "cuda" else ("gpu", "cpu")
BACKENDS = [(spec, backend) for spec in ALL for backend in FAST if getattr(spec.operation, backend)]
CASES = [(*one, case) for one in BACKENDS for case in one[0].cases]
each_case = pytest.mark.parametrize("spec, backend, case", CASES, ids=[f"{s.name}-{v}-{c.reason}" for s, v, c in CASES])
each_backend = pytest.mark.parametrize("spec, backend", BACKENDS, ids=[f"{s.name}-{v}" for s, v in BACKENDS])
each_operation = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


@pytest.fixture(scope="module", autouse=True)
def interpreter() -> None:
    if DEVICE == "cpu":
        repair_interpreter()


@pytest.fixture(autouse=True)
def chunks_of_a_few_tokens(monkeypatch) -> None:
    """The vocabulary loss of several chunks at a test's sizes."""
    if DEVICE == "cpu":
        for name in ("GPU_CHUNK_BYTES", "CPU_CHUNK_BYTES"):
            monkeypatch.setattr(cross_entropy, name, 6 * 5000 * 4)


@pytest.fixture
def forced(monkeypatch):
    """Forces a backend for the test."""
    return lambda backend: monkeypatch.setattr(dispatch, "_forced", backend)


def errors_and_allowed(spec: KernelSpec, backend: str, shape: dict, dtype: torch.dtype) -> list[str]:
    """The results that are too far off, as text."""
    names = ["output", *(f"gradient {i}" for i in range(99))]
    rows = zip(names, check(spec, backend, shape, dtype, DEVICE))
    return [f"{name}: {error:.1e} > {allowed:.1e}" for name, (error, allowed) in rows if not error <= allowed]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_case
def test_fast_backend_equals_reference(spec, backend, case, dtype):
    with watched_memory() as faults:
        wrong = errors_and_allowed(spec, backend, case.shape, dtype)
    assert wrong + faults == []


LONG = {
    "deferred_activation": {"F": 900, "V": 21, "C": 24, "X": "ReLU, then added"},
    "graph_conv": {
        "F": 900,
        "V": 21,
        "C": 24,
        "O": 32,
        "K": 2,
        "X": "both scaled",
        "shortcut": True,
        "batch_stats": True,
    },
    "temporal_conv": {
        "T": [389, 3, 530],
        "V": 21,
        "C": 24,
        "O": 32,
        "K": 5,
        "X": "ReLU, then added",
        "batch_stats": True,
    },
    "position_bias": {"N": 3, "G": 8, "V": 21, "H": 64},
}
LONG_CASES = [
    *LONG.items(),
    ("temporal_conv", LONG["temporal_conv"] | {"T": [388]}),
]  # the last chunk of which writes nothing


@pytest.mark.skipif(DEVICE == "cuda", reason="for CPUs")
@pytest.mark.parametrize("name, shape", LONG_CASES, ids=str)
def test_cpu_backend_equals_reference_over_several_chunks(name, shape):
    """More frames or crops than it takes at a time."""
    assert errors_and_allowed(SPECS[name], "cpu", shape, torch.float32) == []


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_operation
def test_kernel_equals_reference_at_training_size(spec, dtype):
    for case in spec.training:
        assert errors_and_allowed(spec, "gpu", case.shape, dtype) == []


@each_operation
def test_check_notices_a_wrong_and_a_missing_value(spec):
    """The tolerance can fail: one element of each result off by a hundredth of the largest, or never written."""
    shape = spec.cases[0].shape
    for damage in (_off, _unwritten):
        for number in range(len(tensors(spec.operation.reference(*make_inputs(spec, shape, torch.float32, DEVICE))))):

            def broken(*inputs, number=number, damage=damage):
                result = tensors(spec.operation.reference(*inputs))
                return [damage(y) if i == number else y for i, y in enumerate(result)]

            assert errors_and_allowed(
                replace(spec, operation=replace(spec.operation, gpu=broken)), "gpu", shape, torch.float32
            ), number


def _first(out: torch.Tensor) -> torch.Tensor:
    return torch.arange(out.numel(), device=out.device).view(out.shape) == 0


def _off(out: torch.Tensor) -> torch.Tensor:
    return out + out.abs().max() * 0.01 * _first(out)


def _unwritten(out: torch.Tensor) -> torch.Tensor:
    assert torch.empty_like(out).isnan().all(), "memory is poisoned"
    return torch.where(_first(out), torch.empty_like(out), out)


@each_backend
def test_the_same_bits_every_time(spec, backend):
    inputs = [make_inputs(spec, spec.cases[0].shape, torch.float32, DEVICE) for _ in "ab"]
    runs = [results_and_gradients(getattr(spec.operation, backend), one) for one in inputs]
    assert all(torch.equal(one, other) for one, other in zip(*runs))


@each_operation
def test_operators_hold_what_they_promise(spec):
    """Schema and fake implementation of the custom operators, on which torch.compile relies."""
    seen = []

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            if operator.namespace == "unisign_fast":
                seen.append((operator, args))
            return operator(*args, **(kwargs or {}))

    inputs = make_inputs(spec, spec.cases[0].shape, torch.float32, DEVICE)
    with Recorder():
        results_and_gradients(spec.operation.gpu, inputs)
    assert len(seen) >= 2
    for operator, args in seen:
        torch.library.opcheck(operator, args, test_utils=("test_schema", "test_faketensor"))


@each_operation
def test_traced_by_torch_compile_without_a_break(spec, forced):
    torch._dynamo.reset()  # all operations share this code, and compilations of one code are limited
    forced("gpu")
    inputs = make_inputs(spec, spec.cases[0].shape, torch.float32, DEVICE)
    compiled = torch.compile(lambda *arguments: spec.operation(*arguments), backend="aot_eager", fullgraph=True)
    for result, expected in zip(
        results_and_gradients(compiled, inputs), results_and_gradients(spec.operation.gpu, inputs)
    ):
        torch.testing.assert_close(result, expected)


@each_backend
def test_used_twice_in_a_graph_and_on_strided_inputs(spec, backend):
    inputs = make_inputs(spec, spec.cases[0].shape, torch.float32, DEVICE)
    strided = _strided(inputs)
    assert not any(x.is_contiguous() for x in leaves(strided) if x.squeeze().ndim > 1)

    def twice(operation):
        return lambda *arguments: [a + 2 * b for a, b in zip(*(tensors(operation(*arguments)) for _ in "ab"))]

    with poisoned_memory():
        result = results_and_gradients(twice(getattr(spec.operation, backend)), strided)
    for ours, expected in zip(result, results_and_gradients(twice(spec.operation.reference), inputs)):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * max(1.0, expected.abs().max().item()))


def _strided(arguments):
    """The same numbers, every float tensor of two dimensions or more laid out the other way round."""
    if isinstance(arguments, torch.Tensor):
        if arguments.ndim < 2 or not arguments.is_floating_point():
            return arguments
        return arguments.detach().transpose(0, -1).contiguous().transpose(0, -1).requires_grad_()
    if hasattr(arguments, "_fields"):  # a named tuple
        return type(arguments)(*map(_strided, arguments))
    return type(arguments)(map(_strided, arguments)) if isinstance(arguments, (tuple, list)) else arguments


@each_operation
def test_chooses_what_is_for_cpus_without_a_gpu(spec, caplog):
    dispatch._log_backend.cache_clear()
    inputs = make_inputs(spec, spec.cases[0].shape, torch.float32, "cpu")
    with caplog.at_level(logging.INFO, "unisign_fast.kernels.dispatch"):
        result = spec.operation(*inputs)
    chosen = "reference" if spec.operation.cpu is None else "cpu"
    assert all(map(torch.equal, tensors(result), tensors(getattr(spec.operation, chosen)(*inputs))))
    assert caplog.messages == [f"{spec.name}: {chosen}"]


@each_operation
def test_a_forced_backend_runs(spec, forced, caplog):
    inputs = make_inputs(spec, spec.cases[1].shape, torch.float32, DEVICE)
    expected = tensors(spec.operation.reference(*inputs))
    for backend in ("reference", "gpu"):
        forced(backend)
        dispatch._log_backend.cache_clear()
        with caplog.at_level(logging.INFO, "unisign_fast.kernels.dispatch"):
            result = tensors(spec.operation(*inputs))
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
        assert caplog.messages[-1] == f"{spec.name}: {backend}"


@pytest.fixture(scope="module")
def encoders() -> torch.nn.Module:
    """A pose encoder with its three kinds of blocks, followed by a temporal encoder, on a graph of five joints."""
    torch.manual_seed(0)
    adjacency = torch.randn(2, 5, 5) * 0.4

    class Encoders(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.pose, self.temporal = PoseEncoder(adjacency, (8, 8, 16, 24)), TemporalEncoder(adjacency, 24)

        def forward(self, pose_FV3, clips):
            return self.temporal(self.pose(pose_FV3), clips)

    return Encoders().to(DEVICE)


def _step(encoders: torch.nn.Module, training: bool, call=None) -> dict[str, torch.Tensor]:
    """Features, gradients and running statistics after one step of a fresh copy."""
    encoders = copy.deepcopy(encoders).train(training)
    pose_FV3 = torch.randn(11, 5, 3, generator=torch.Generator().manual_seed(1)).to(DEVICE).requires_grad_()
    clips = Clips.of(torch.tensor([0, 4, 5, 11], device=DEVICE), 11)
    features = (call or torch.nn.Module.__call__)(encoders, pose_FV3, clips)
    (features * torch.linspace(-1, 1, features.numel(), device=DEVICE).view(features.shape)).sum().backward()
    gradients = {f"{name}.grad": parameter.grad for name, parameter in encoders.named_parameters()}
    return {"features": features.detach(), "pose.grad": pose_FV3.grad, **gradients, **dict(encoders.named_buffers())}


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("training", [True, False])
def test_encoders_give_the_same_on_the_kernels(encoders, forced, training, backend):
    forced("reference")
    expected = _step(encoders, training)
    forced(backend)
    result = _step(encoders, training)
    _assert_close(result, expected)


def test_encoders_are_traced_by_torch_compile_on_the_kernels(encoders, forced):
    forced("gpu")
    expected = _step(encoders, True)

    def compiled(module, *inputs):
        return torch.compile(module, backend="aot_eager", fullgraph=True)(*inputs)

    _assert_close(_step(encoders, True, compiled), expected)


def _assert_close(result: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Within float32's rounding of each tensor's largest value; for a bias, whose gradient is a sum that BatchNorm
    makes zero, of the largest gradient of all.
    """
    assert result.keys() == expected.keys()
    steepest = max(value.abs().max().item() for name, value in expected.items() if name.endswith(".grad"))
    for name, value in expected.items():
        assert result[name].dtype == value.dtype, name
        largest = steepest if name.endswith("bias.grad") else value.abs().max().item()
        error = (result[name] - value).abs().max().item()
        assert error <= 2e-5 * largest, f"{name}: off by {error:.1e} of {largest:.1e}"


@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_reference_is_the_reference(forced):
    """Forced `compiled`, one operation that is quick to compile."""
    forced("compiled")
    spec = SPECS["deferred_activation"]
    inputs = make_inputs(spec, spec.cases[0].shape, torch.float32, DEVICE)
    torch.testing.assert_close(spec.operation(*inputs), spec.operation.reference(*inputs))


def test_refusals_say_why(forced):
    forced("gpu")
    sampling = make_inputs(
        SPECS["deformable_attention"], {"N": 1, "G": 1, "V": 33, "E": 8, "HW": (4, 4)}, torch.float32, DEVICE
    )
    with pytest.raises(ValueError, match="deformable_attention: .*33 joints are more than 32"):
        SPECS["deformable_attention"].operation(*sampling)
    shape = {"F": 2, "V": 3, "C": 4, "O": 4, "K": 1, "X": "plain", "shortcut": False, "batch_stats": False}
    double = make_inputs(SPECS["graph_conv"], shape, torch.float64, DEVICE)
    with pytest.raises(ValueError, match="graph_conv: .*float64 is not one of"):
        SPECS["graph_conv"].operation(*double)
    mixed = (DeferredActivation(double[0].conv_out_FVC.float()), *(x.bfloat16() for x in double[1:4]), *double[4:])
    with pytest.raises(ValueError, match="different types"):
        SPECS["graph_conv"].operation(*mixed)
    forced("cuda")
    with pytest.raises(ValueError, match="UNISIGN_KERNELS: 'cuda' is not known; choose one of reference | gpu"):
        SPECS["graph_conv"].operation(*double)


def compiled(folder: Path, *options: str) -> list[dict]:
    """The rows of ahead-of-time compilation, none of which spills."""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-m", "unisign_fast.kernels.aot", "--json", str(folder / "rows.json"), *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads((folder / "rows.json").read_text())
    assert {row["operation"] for row in rows} == set(SPECS) and {row["capability"] for row in rows} == {80, 90, 100}
    assert [row for row in rows if not row["fits"]] == []
    assert all(row["tensor_cores"] for row in rows if row["dtype"] == "bfloat16" and row["multiplies"])
    return rows


@pytest.mark.skipif(DEVICE == "cuda", reason="compiled for the GPU at hand by the other tests")
def test_each_kernel_compiles_for_a_real_gpu_without_spills(tmp_path):
    rows = compiled(tmp_path, "--each-kernel-once")
    assert len({(row["operation"], row["kernel"]) for row in rows}) == len(rows) > 30


def test_no_operand_is_overwritten_while_a_product_reads_it():
    """On sm_90: rows normalized on load are in registers, which the next step of the loop writes; the upstream gradient
    of attention is in the only buffer, into which the loop copies the next tile.
    """
    script = """if True:
        import torch
        from dataclasses import replace
        from unisign_fast.kernels import aot
        from unisign_fast.kernels.mbconv.spec import SPEC
        from unisign_fast.kernels.varlen_attention.spec import SPEC as ATTENTION
        launches = aot.launches(SPEC, torch.bfloat16, 90)
        for launch in launches:
            constants = dict(launch.constants)
            if constants.get("NORMALIZE") and constants["C"] == 96:
                wide = replace(launch, constants=tuple({**constants, "INPUTS": 32}.items()), stages=2)
                print([aot.compile_launch(SPEC.name, torch.bfloat16, x, 90).hazard for x in (launch, wide)])
        attention = {x.kernel.__name__: x for x in aot.launches(ATTENTION, torch.bfloat16, 90)}
        print(aot.compile_launch(ATTENTION.name, torch.bfloat16, attention["attention_backward_keys"], 90).hazard)
    """
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == ["[False, True]", "False"]


@pytest.mark.parametrize("buffers, waits, overwritten", [(1, "", True), (2, "", False), (1, "pendings = 0", False)])
def test_a_copy_into_the_only_buffer_of_an_operand_is_noticed(buffers, waits, overwritten):
    """In a loop that copies the next tile first, while the product of the last iteration may still run."""
    tile = f"!ttg.memdesc<{buffers}x32x64xbf16, #shared, #smem, mutable>"
    loop = f"""
        %tiles = ttg.local_alloc : () -> {tile}
        %sum = scf.for %i = %begin to %end step %step iter_args(%acc = %zero) {{
          %next = ttg.memdesc_index %tiles[%j] : {tile}
          %copied = ttg.async_copy_global_to_local %pointers, %next mask %inside : tensor<32x64x!tt.ptr<bf16>>
          %tile = ttg.memdesc_index %tiles[%i] : {tile}
          %turned = ttg.memdesc_trans %tile {{order = array<i32: 1, 0>}} : {tile}
          %product = ttng.warp_group_dot %left, %turned, %acc {{isAsync = true}} : {tile}
          %done = ttng.warp_group_dot_wait %product {{{waits or "pendings = 1"}}} : tensor<64x32xf32>
          scf.yield %done : tensor<64x32xf32>
        }}
        %all = ttng.warp_group_dot_wait %sum {{pendings = 0 : i32}} : tensor<64x32xf32>
    """
    assert aot._overwrites_tiles(loop) == overwritten


@pytest.mark.slow
@pytest.mark.skipif(DEVICE == "cuda", reason="compiled for the GPU at hand by the other tests")
def test_every_launch_compiles_for_real_gpus_without_spills(tmp_path):
    rows = compiled(tmp_path)
    assert len([row for row in rows if row["dtype"] == "bfloat16" and row["multiplies"]]) > 50
