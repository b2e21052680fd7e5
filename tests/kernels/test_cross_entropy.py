"""The cross entropy of a large vocabulary is torch's, in chunks of any size, on every backend."""

import pytest
import torch
from torch.nn.functional import cross_entropy as torch_cross_entropy

from unisign_fast.kernels.cross_entropy import op
from unisign_fast.kernels.testing import repair_interpreter

BACKENDS = ["reference", "cpu", "gpu"]


@pytest.fixture(params=BACKENDS)
def operation(request):
    repair_interpreter()
    return getattr(op.cross_entropy, request.param)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(("tokens", "classes"), [(1, 7), (13, 50), (64, 1000)])
@pytest.mark.parametrize("chunk_bytes", [64, 4 * 50 * 5, 2**20])  # a token a chunk, five, all
def test_the_loss_is_that_of_torch(operation, smoothing, tokens, classes, chunk_bytes, monkeypatch):
    for name in ("CPU_CHUNK_BYTES", "GPU_CHUNK_BYTES"):
        monkeypatch.setattr(op, name, chunk_bytes)
    torch.manual_seed(0)
    hidden, weight = torch.randn(tokens, 16, requires_grad=True), torch.randn(classes, 16, requires_grad=True)
    labels = torch.randint(classes, (tokens,))
    ours = operation(hidden, weight, labels, smoothing)
    plain = torch_cross_entropy(hidden @ weight.T, labels, reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(
        torch.autograd.grad(0.7 * ours, (hidden, weight)), torch.autograd.grad(0.7 * plain, (hidden, weight))
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("operation", BACKENDS[1:], indirect=True)
def test_it_computes_what_is_asked_for_and_once(operation):
    hidden, weight, labels = torch.randn(5, 8), torch.randn(9, 8, requires_grad=True), torch.arange(5)
    operation(hidden, weight, labels, 0.1).backward()
    assert weight.grad.any() and hidden.grad is None
    with torch.no_grad():
        assert not operation(hidden, weight, labels, 0.1).requires_grad
    loss = operation(hidden, weight, labels, 0.1)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("operation", BACKENDS[1:], indirect=True)
def test_bfloat16_is_as_good_as_torchs(operation):
    torch.manual_seed(0)
    hidden, weight, labels = torch.randn(40, 64), torch.randn(300, 64) * 0.3, torch.randint(300, (40,))
    exact = torch_cross_entropy(hidden.double() @ weight.double().T, labels, reduction="sum", label_smoothing=0.2)
    short = hidden.bfloat16(), weight.bfloat16()
    ours = operation(*short, labels, 0.2)
    plain = torch_cross_entropy((short[0] @ short[1].T).float(), labels, reduction="sum", label_smoothing=0.2)
    assert ours.dtype == torch.float32 and abs(ours - exact) <= 2 * abs(plain - exact) + 1e-3


@pytest.mark.parametrize("operation", BACKENDS[1:], indirect=True)
def test_the_weights_gradient_is_as_good_in_many_chunks_as_in_one(operation, monkeypatch):
    """It is summed in float32; in bfloat16 the sum of 64 chunks would lose digits."""
    torch.manual_seed(0)
    hidden, weight, labels = torch.randn(64, 32).bfloat16(), torch.randn(50, 32).bfloat16(), torch.randint(50, (64,))
    exact = weight.double().requires_grad_()
    torch_cross_entropy(hidden.double() @ exact.T, labels, reduction="sum", label_smoothing=0.1).backward()
    errors = []
    for chunk_bytes in (2**20, 1):  # one chunk; a token a chunk
        for name in ("CPU_CHUNK_BYTES", "GPU_CHUNK_BYTES"):
            monkeypatch.setattr(op, name, chunk_bytes)
        leaf = weight.clone().requires_grad_()
        (grad,) = torch.autograd.grad(operation(hidden, leaf, labels, 0.1), leaf)
        errors.append((grad.double() - exact.grad).norm() / exact.grad.norm())
    assert errors[1] < 1.05 * errors[0], errors
