"""Inverted bottleneck: running statistics, padding, reductions over ranks, and what is kept and launched."""

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from unisign_fast.kernels.bn_silu import gpu_kernel
from unisign_fast.kernels.bn_silu.reference import Parts
from unisign_fast.kernels.launch import recording
from unisign_fast.kernels.mbconv.spec import SPEC
from unisign_fast.kernels.testing import leaves, make_inputs, repair_interpreter, results_and_gradients

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TWO_HANDS, WIDE_TAPS, BARE = (SPEC.cases[number].shape for number in (0, 1, 3))  # BARE: without expansion


@pytest.fixture(scope="module", autouse=True)
def interpreter() -> None:
    if DEVICE == "cpu":
        repair_interpreter()


def inputs(shape: dict, device: str = DEVICE) -> tuple:
    return make_inputs(SPEC, shape, torch.float32, device)


@pytest.mark.parametrize("shape", [TWO_HANDS, SPEC.cases[4].shape], ids=["two hands", "an empty part"])
def test_running_statistics_follow_as_in_the_reference(shape):
    layers = []
    for version in (SPEC.operation.reference, SPEC.operation.gpu):
        arguments = inputs(shape)
        version(*arguments)
        block = arguments[2]
        layers.append([block.expand, block.depthwise, block.project])
    for mine, expected in zip(*layers, strict=True):
        for result, truth in zip(mine.norm[2:5], expected.norm[2:5], strict=True):
            torch.testing.assert_close(result, truth, rtol=1e-4, atol=1e-5)
        assert mine.norm.num_batches_tracked == sum(n > 0 for n in shape["parts"])


def test_padding_takes_no_part():
    """The same results and gradients with and without it; whatever it holds, it becomes zero and gets no gradient."""
    bare = inputs(BARE)
    crops = len(bare[0])
    x_NCHW = torch.cat([bare[0].detach(), torch.full_like(bare[0][:1].detach(), 7.0)]).requires_grad_()
    padded = x_NCHW, Parts.of(BARE["parts"], x_NCHW), *inputs(BARE)[2:]
    y_NCHW, expected = SPEC.operation.gpu(*padded), SPEC.operation.gpu(*bare)
    torch.testing.assert_close(y_NCHW[:crops], expected, rtol=1e-5, atol=1e-5)
    assert not y_NCHW[crops:].any()
    upstream = torch.randn(y_NCHW.shape, generator=torch.Generator().manual_seed(3)).to(DEVICE)
    grads = torch.autograd.grad(y_NCHW, leaves(padded), upstream)
    for mine, theirs in zip(grads, torch.autograd.grad(expected, leaves(bare), upstream[:crops]), strict=True):
        torch.testing.assert_close(mine[: len(theirs)], theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


def test_each_normalization_takes_one_reduction_over_ranks_each_way(monkeypatch):
    """With sums that a reduction leaves as they are, the results are those of one rank."""
    expected = results_and_gradients(SPEC.operation.gpu, inputs(TWO_HANDS))
    reduced: list[torch.Size] = []
    monkeypatch.setattr(gpu_kernel, "is_alone", lambda: False)
    monkeypatch.setattr(gpu_kernel.dist, "all_reduce", lambda sums: reduced.append(sums.shape))
    result = results_and_gradients(SPEC.operation.gpu, inputs(TWO_HANDS))
    for mine, theirs in zip(result, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4 * theirs.abs().max().item())
    wide, outputs = TWO_HANDS["E"], TWO_HANDS["O"]
    forward, backward = [(2, 2 * n + 1) for n in (wide, wide, outputs)], [(2, 2, n) for n in (outputs, wide, wide)]
    assert [tuple(shape) for shape in reduced] == forward + backward


def test_keeps_what_the_convolutions_wrote_and_nothing_as_large():
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    shape = WIDE_TAPS | {"parts": (40, 40), "padding": 0}
    arguments = inputs(shape, "meta")
    with recording() as launches, saved_tensors_hooks(keep, lambda tensor: tensor):
        results_and_gradients(SPEC.operation.gpu, arguments)
    rows, out_rows = 80 * 25, 80 * 9
    maps = [tuple(tensor.shape) for tensor in kept if len(tensor) in (rows, out_rows)]
    assert maps == [(rows, shape["C"]), (rows, shape["E"]), (out_rows, shape["E"]), (out_rows, shape["O"])]
    assert len(launches) == 20
