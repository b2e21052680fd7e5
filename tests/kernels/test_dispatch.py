"""Which backend runs, what it loads, and how many kernels it compiles: GPU paths on meta tensors, launches recorded."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from unisign_fast.kernels import dispatch, launch
from unisign_fast.kernels.deferred_activation.reference import DeferredActivation
from unisign_fast.kernels.dispatch import tensors
from unisign_fast.kernels.launch import MOST_ELEMENTS, TooManyElements, recording
from unisign_fast.kernels.registry import SPECS
from unisign_fast.kernels.testing import leaves, make_inputs, results_and_gradients

ROOT = Path(__file__).resolve().parents[2]
each_operation = pytest.mark.parametrize("spec", SPECS, ids=[spec.name for spec in SPECS])
RAGGED = (48, 511, 512, 1, 1037, 640, 33)  # frames or crops of a batch, some of them multiples of 16


@each_operation
def test_meta_tensors_take_the_gpu_path(spec):
    """Forward and backward at training size: the reference's shapes and types, and recorded launches."""
    shape = spec.training[0].shape
    inputs = make_inputs(spec, shape, torch.bfloat16, "meta")
    expected = results_and_gradients(spec.operation.reference, inputs)
    with dispatch.as_device("cuda"), recording() as launches:
        assert spec.operation.backend(*inputs) == "gpu"
        result = results_and_gradients(spec.operation, inputs)
    assert launches
    assert [(y.shape, y.dtype) for y in result] == [(y.shape, y.dtype) for y in expected]


@each_operation
def test_meta_tensors_take_the_reference_unless_told_otherwise(spec):
    inputs = make_inputs(spec, spec.training[0].shape, torch.bfloat16, "meta")
    assert spec.operation.backend(*inputs) == "reference"
    assert all(y.is_meta for y in tensors(spec.operation(*inputs)))


@each_operation
def test_ragged_batches_launch_the_same_kernels(spec):
    """No launch depends on a size that changes from batch to batch, Triton's own specialisation included (1, and
    multiples of 16): every new one is a compilation in the middle of training.
    """
    batches = []
    for count in RAGGED:
        shape = {name: count if name in ("F", "N") else size for name, size in spec.cases[0].shape.items()}
        shape |= {"T": [count]} if "T" in shape else {}
        with recording() as launches:
            results_and_gradients(spec.operation.gpu, make_inputs(spec, shape, torch.bfloat16, "meta"))
        batches.append(set(launches))
    assert len(set().union(*batches)) == len(batches[0])


@each_operation
def test_misaligned_inputs_launch_the_same_kernels(spec, monkeypatch):
    """DeepSpeed stores parameters end to end. Triton would compile a kernel again for each that is no multiple of 16
    bytes, and load it element by element.
    """
    monkeypatch.setattr(launch, "SMALL", 1)
    placed = []
    for offset in (0, 1):
        inputs = make_inputs(spec, spec.training[0].shape, torch.bfloat16, "meta")
        for leaf in leaves(inputs):
            leaf.data = leaf.new_empty(leaf.numel() + offset)[offset:].view(leaf.shape)
        with recording() as launches:
            results_and_gradients(spec.operation.gpu, inputs)
        placed.append(launches)
    assert placed[0] == placed[1]


def test_importing_and_running_the_gpu_path_never_imports_numba():
    code = """
import sys
import torch
from unisign_fast.kernels import dispatch
from unisign_fast.kernels.registry import SPECS
from unisign_fast.kernels.testing import make_inputs, results_and_gradients
from unisign_fast.model import st_gcn
with dispatch.as_device("cuda"):
    for spec in SPECS:
        results_and_gradients(spec.operation, make_inputs(spec, spec.cases[0].shape, torch.bfloat16, "meta"))
print(sorted({name.partition(".")[0] for name in sys.modules} & {"numba", "llvmlite"}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split("\n")[-2] == "[]"


def test_keyword_arguments_reach_the_backend():
    spec = next(spec for spec in SPECS if spec.name == "position_bias")
    operation = spec.operation
    reference, position, layers = make_inputs(spec, spec.cases[1].shape, torch.float32, "cpu")
    expected = operation(reference, position, layers)
    assert torch.equal(operation(layers=layers, reference_NV2=reference, position_NGV2=position), expected)


@pytest.mark.parametrize(
    "size, problem", [({"K": 3}, "3 hops are more than 2"), ({"V": 33}, "33 joints are more than 32")], ids=str
)
def test_a_graph_that_is_too_large_for_the_kernel_takes_the_reference(size, problem, caplog):
    """Or raises, where the GPU backend is forced."""
    spec = next(spec for spec in SPECS if spec.name == "graph_conv")
    largest = {"F": 2, "V": 32, "C": 4, "O": 8, "K": 2, "X": "plain", "shortcut": True, "batch_stats": True}
    fitting, inputs = (make_inputs(spec, largest | more, torch.float32, "meta") for more in ({}, size))
    dispatch._warn.cache_clear()
    with dispatch.as_device("cuda"), recording() as launches:
        assert spec.operation.backend(*fitting) == "gpu" and not caplog.messages
        assert spec.operation.backend(*inputs) == "reference"
        result = tensors(spec.operation(*inputs))
        with dispatch.forcing("gpu"):
            with pytest.raises(ValueError, match=f"graph_conv: the gpu backend cannot run: {problem}"):
                spec.operation(*inputs)
    assert [y.shape for y in result] == [y.shape for y in tensors(spec.operation.reference(*inputs))]
    assert not launches
    assert caplog.messages == [f"graph_conv: the reference runs instead of a faster backend: {problem}"]


def test_a_tensor_beyond_int32_offsets_is_refused():
    spec = next(spec for spec in SPECS if spec.name == "deferred_activation")
    frames = MOST_ELEMENTS // (21 * 256) + 1
    x = _meta_activation(frames)
    with pytest.raises(TooManyElements, match="2,147,48[0-9],[0-9]+ elements exceeds int32 offsets"):
        spec.operation.gpu(x)


@pytest.mark.parametrize("name", ["deferred_activation", "graph_conv", "temporal_conv"])
def test_the_longest_batch_fits_into_cudas_grid(name):
    """A grid has at most 65,535 programs along its second and third axis."""

    def on_meta(*size: int, scale: float = 1.0, exact: bool = False) -> torch.Tensor:
        return torch.empty(size, device="meta", requires_grad=True)

    spec = next(spec for spec in SPECS if spec.name == name)
    shape = spec.training[0].shape | {"V": 21, "C": 64, "O": 64}
    frames = MOST_ELEMENTS // (3 * 21 * 64)  # graph_conv stores two hops of each element, and a few columns more
    inputs = spec.inputs(shape | {"F": frames, "T": [frames]}, on_meta)
    with recording() as launches:
        results = leaves(spec.operation.gpu(*inputs))
        torch.autograd.grad(results, leaves(inputs), [torch.empty_like(y) for y in results])
    assert launches
    assert all(size <= 65_535 for launch in launches for size in launch.grid[1:])


def _meta_activation(frames: int) -> DeferredActivation:

    vector = torch.empty(256, device="meta")
    return DeferredActivation(torch.empty(frames, 21, 256, dtype=torch.bfloat16, device="meta"), vector, vector)
