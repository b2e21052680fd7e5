"""gelu(gate) * up and dropout in one pass forward and one backward.

The backward pass recomputes gelu and redraws the mask from the same seed, so only the input is saved.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..dropout.triton_kernel import kept
from ..launch import cdiv, launch, operator

BLOCK, WARPS = 1024, 4


@triton.jit
def _gelu(x):
    """gelu(x) in its tanh form, and its derivative. Uses tanh(u) = 2 sigmoid(2 u) - 1."""
    inner = 1.5957691216057308 * (x + 0.044715 * x * x * x)
    share = tl.sigmoid(inner)
    return x * share, share + x * share * (1 - share) * 1.5957691216057308 * (1 + 3 * 0.044715 * x * x)


@triton.jit
def _kept(seed, p, DROPOUT: tl.constexpr, BLOCK: tl.constexpr):
    """The factor by which dropout multiplies each element of the block."""
    if DROPOUT:
        return tl.reshape(kept(seed, tl.program_id(0), p, 1, BLOCK), (BLOCK,))
    else:
        return tl.full((BLOCK,), 1.0, tl.float32)


@triton.jit(do_not_specialize=["elements"], do_not_specialize_on_alignment=["seed"])
def geglu_forward(gate_up, seed, y, elements, p, F: tl.constexpr, DROPOUT: tl.constexpr, BLOCK: tl.constexpr):
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = element < elements
    gate = element // F * (2 * F) + element % F
    x = tl.load(gate_up + gate, mask, 0).to(tl.float32)
    up = tl.load(gate_up + gate + F, mask, 0).to(tl.float32)
    value, _ = _gelu(x)
    value = value * up * _kept(seed, p, DROPOUT, BLOCK)
    tl.store(y + element, value.to(y.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["elements"], do_not_specialize_on_alignment=["seed"])
def geglu_backward(
    grad, gate_up, seed, grad_gate_up, elements, p, F: tl.constexpr, DROPOUT: tl.constexpr, BLOCK: tl.constexpr
):
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = element < elements
    gate = element // F * (2 * F) + element % F
    x = tl.load(gate_up + gate, mask, 0).to(tl.float32)
    up = tl.load(gate_up + gate + F, mask, 0).to(tl.float32)
    upstream = tl.load(grad + element, mask, 0).to(tl.float32) * _kept(seed, p, DROPOUT, BLOCK)
    value, slope = _gelu(x)
    tl.store(grad_gate_up + gate, (upstream * up * slope).to(grad_gate_up.dtype.element_ty), mask)
    tl.store(grad_gate_up + gate + F, (upstream * value).to(grad_gate_up.dtype.element_ty), mask)


def _constants(width: int, p: float) -> dict:
    return {"F": width, "DROPOUT": p > 0, "BLOCK": BLOCK, "warps": WARPS, "stages": 1}


@operator("geglu")
def forward(gate_up_R2F: Tensor, p: float, seed: Tensor | None) -> Tensor:
    """[R, F]; seed: one int64 on the device, None without dropout."""
    assert seed is not None or not p, "dropout on a GPU needs a seed"
    rows, width = gate_up_R2F.shape[0], gate_up_R2F.shape[1] // 2
    y_RF = torch.empty(rows, width, dtype=gate_up_R2F.dtype, device=gate_up_R2F.device)
    grid = (cdiv(y_RF.numel(), BLOCK),)
    launch(
        geglu_forward,
        grid,
        gate_up_R2F,
        gate_up_R2F if seed is None else seed,
        y_RF,
        y_RF.numel(),
        float(p),
        **_constants(width, p),
    )
    return y_RF


@operator("geglu_backward")
def backward(grad_RF: Tensor, gate_up_R2F: Tensor, p: float, seed: Tensor | None) -> Tensor:
    """[R, 2 F]"""
    grad_gate_up_R2F, width = torch.empty_like(gate_up_R2F), grad_RF.shape[1]
    grid, elements = (cdiv(grad_RF.numel(), BLOCK),), grad_RF.numel()
    inputs = grad_RF, gate_up_R2F, gate_up_R2F if seed is None else seed, grad_gate_up_R2F, elements, float(p)
    launch(geglu_backward, grid, *inputs, **_constants(width, p))
    return grad_gate_up_R2F


def _save(ctx, inputs, output) -> None:
    gate_up_R2F, ctx.p, seed = inputs
    ctx.save_for_backward(gate_up_R2F, seed)


def _gradients(ctx, grad_RF: Tensor):
    gate_up_R2F, seed = ctx.saved_tensors
    return backward(grad_RF, gate_up_R2F, ctx.p, seed), None, None


forward.register_autograd(_gradients, setup_context=_save)
