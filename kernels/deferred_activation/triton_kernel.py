"""The deferred activation in Triton, on load in a convolution and on its own, and its gradients.

A tile has R rows (frame, joint) of [rows, C], and `place` [R, C] holds their offsets. An activation's KIND lists its
components.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import cdiv, launch, operator
from ..partial_sums import sum_rows

# Plain; with scale and shift; with a residual; with one that has its own scale and shift: by the number of tensors.
PLAIN, SCALED, ADDED, BOTH_SCALED = range(4)
KINDS = {1: PLAIN, 3: SCALED, 4: ADDED, 6: BOTH_SCALED}
VECTORS = {1: 0, 3: 2, 4: 2, 6: 4}  # scales and shifts among them
ROWS, COLUMNS, WARPS = 32, 64, 4  # of a tile of what has no matrix product


def arguments(x: list[Tensor]) -> list[Tensor]:
    """An activation's tensors as the six arguments of a kernel. Placeholders for absent tensors are never read."""
    return [*x, *x[:1] * (6 - len(x))]


@triton.jit
def by_channel(vector, column, C: tl.constexpr):
    """[1, C] of a float vector, in float32."""
    return tl.load(vector + column, column < C, 0).to(tl.float32)[None, :]


@triton.jit
def activated(
    conv_out, scale, shift, residual, residual_scale, residual_shift, place, inside, column,
    C: tl.constexpr, KIND: tl.constexpr, RELU_BEFORE_RESIDUAL: tl.constexpr,
):  # fmt: skip
    """x [R, C] in the dtype of `conv_out`; zero outside."""
    value = tl.load(conv_out + place, inside, 0)
    if KIND > 0:
        total = value.to(tl.float32) * by_channel(scale, column, C) + by_channel(shift, column, C)
        if RELU_BEFORE_RESIDUAL:
            total = tl.maximum(total, 0, propagate_nan=tl.PropagateNan.ALL)
        if KIND == 2:
            total += tl.load(residual + place, inside, 0).to(tl.float32)
        if KIND == 3:
            added = tl.load(residual + place, inside, 0).to(tl.float32)
            total += added * by_channel(residual_scale, column, C) + by_channel(residual_shift, column, C)
        total = tl.maximum(total, 0, propagate_nan=tl.PropagateNan.ALL)
        value = tl.where(inside, total, 0).to(conv_out.dtype.element_ty)
    return value


@triton.jit
def store_activation_gradient(
    grad_x, x_tile, conv_out, scale, shift, residual, residual_scale, grad_conv_out, grad_residual, sums,
    tile, place, inside, column,
    C: tl.constexpr, KIND: tl.constexpr, RELU_BEFORE_RESIDUAL: tl.constexpr,
):  # fmt: skip
    """Gradients of conv_out and residual from that of x [R, C] (float32), and the tile's share of those of the scales
    and shifts: sums [tiles, 2 or 4, C].
    """
    if KIND > 0:
        grad_x = tl.where(x_tile.to(tl.float32) > 0, grad_x, 0)
        row = sums + tile * (4 if KIND == 3 else 2) * C + column
        if KIND == 2:
            tl.store(grad_residual + place, grad_x.to(grad_residual.dtype.element_ty), inside)
        if KIND == 3:
            added = tl.load(residual + place, inside, 0).to(tl.float32)
            tl.store(row + 2 * C, tl.sum(grad_x * added, 0), column < C)
            tl.store(row + 3 * C, tl.sum(grad_x, 0), column < C)
            scaled = grad_x * by_channel(residual_scale, column, C)
            tl.store(grad_residual + place, scaled.to(grad_residual.dtype.element_ty), inside)
        value, factor = tl.load(conv_out + place, inside, 0).to(tl.float32), by_channel(scale, column, C)
        if RELU_BEFORE_RESIDUAL:
            grad_x = tl.where(value * factor + by_channel(shift, column, C) > 0, grad_x, 0)
        tl.store(row, tl.sum(grad_x * value, 0), column < C)
        tl.store(row + C, tl.sum(grad_x, 0), column < C)
        grad_x = grad_x * factor
    tl.store(grad_conv_out + place, grad_x.to(grad_conv_out.dtype.element_ty), inside)


@triton.jit(do_not_specialize=["rows"])
def activation_forward(
    conv_out, scale, shift, residual, residual_scale, residual_shift, x, rows,
    C: tl.constexpr, KIND: tl.constexpr, RELU_BEFORE_RESIDUAL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    place, inside = row[:, None] * C + column[None, :], (row < rows)[:, None] & (column < C)[None, :]
    value = activated(
        conv_out, scale, shift, residual, residual_scale, residual_shift, place, inside, column,
        C, KIND, RELU_BEFORE_RESIDUAL,
    )  # fmt: skip
    tl.store(x + place, value, inside)


@triton.jit(do_not_specialize=["rows"])
def activation_backward(
    grad_x, x, conv_out, scale, shift, residual, residual_scale, grad_conv_out, grad_residual, sums, rows,
    C: tl.constexpr, KIND: tl.constexpr, RELU_BEFORE_RESIDUAL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    row, column = tile * ROWS + tl.arange(0, ROWS), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    place, inside = row[:, None] * C + column[None, :], (row < rows)[:, None] & (column < C)[None, :]
    grad = tl.load(grad_x + place, inside, 0).to(tl.float32)
    store_activation_gradient(
        grad, tl.load(x + place, inside, 0), conv_out, scale, shift, residual, residual_scale, grad_conv_out,
        grad_residual, sums, tile, place, inside, column, C, KIND, RELU_BEFORE_RESIDUAL,
    )  # fmt: skip


@triton.jit(do_not_specialize=["frames"])
def activation_mean_forward(
    conv_out, scale, shift, residual, residual_scale, residual_shift, mean, frames,
    V: tl.constexpr, C: tl.constexpr, KIND: tl.constexpr, RELU_BEFORE_RESIDUAL: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """mean [frames, C]: of the activation over the joints."""
    frame, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (frame < frames)[:, None] & (column < C)[None, :]
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for joint in range(V):
        place = (frame * V + joint)[:, None] * C + column[None, :]
        value = activated(
            conv_out, scale, shift, residual, residual_scale, residual_shift, place, inside, column,
            C, KIND, RELU_BEFORE_RESIDUAL,
        )  # fmt: skip
        total += value.to(tl.float32)
    tl.store(mean + frame[:, None] * C + column[None, :], (total / V).to(mean.dtype.element_ty), inside)


@triton.jit(do_not_specialize=["frames"])
def activation_mean_backward(
    grad_mean, residual_shift, conv_out, scale, shift, residual, residual_scale, grad_conv_out, grad_residual, sums,
    frames, V: tl.constexpr, C: tl.constexpr, KIND: tl.constexpr, RELU_BEFORE_RESIDUAL: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """grad_mean [frames, C]. The activation is computed again, so that the forward pass need not store it."""
    program = tl.program_id(0)
    frame, column = program * ROWS + tl.arange(0, ROWS), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (frame < frames)[:, None] & (column < C)[None, :]
    grad_x = tl.load(grad_mean + frame[:, None] * C + column[None, :], inside, 0).to(tl.float32) / V
    for joint in range(V):
        place = (frame * V + joint)[:, None] * C + column[None, :]
        x_tile = activated(
            conv_out, scale, shift, residual, residual_scale, residual_shift, place, inside, column,
            C, KIND, RELU_BEFORE_RESIDUAL,
        )  # fmt: skip
        store_activation_gradient(
            grad_x, x_tile, conv_out, scale, shift, residual, residual_scale, grad_conv_out, grad_residual, sums,
            program * V + joint, place, inside, column, C, KIND, RELU_BEFORE_RESIDUAL,
        )  # fmt: skip


def activate(x: list[Tensor], relu_before_residual: bool) -> Tensor:
    """x_FVC of an activation (`DeferredActivation.tensors`) that is not plain."""
    frames, joints, channels = x[0].shape
    out = torch.empty_like(x[0])
    return _run_forward(activation_forward, x, relu_before_residual, out, frames * joints, {"C": channels})


forward = operator("deferred_activation")(activate)


@operator("deferred_activation_mean")
def mean_forward(x: list[Tensor], relu_before_residual: bool) -> Tensor:
    """The mean of x_FVC over the joints [F, C]."""
    frames, joints, channels = x[0].shape
    out = x[0].new_empty(frames, channels)
    return _run_forward(activation_mean_forward, x, relu_before_residual, out, frames, {"V": joints, "C": channels})


def _run_forward(
    kernel: Any, x: list[Tensor], relu_before_residual: bool, out: Tensor, rows: int, sizes: dict[str, int]
) -> Tensor:
    grid = cdiv(rows, ROWS), cdiv(sizes["C"], COLUMNS)
    kind = {"KIND": KINDS[len(x)], "RELU_BEFORE_RESIDUAL": relu_before_residual}
    tile = {"ROWS": ROWS, "COLUMNS": COLUMNS, "warps": WARPS, "stages": 1}
    launch(kernel, grid, *arguments(x), out, rows, **sizes, **kind, **tile)
    return out


class ActivationGradient:
    """Buffers for an activation's gradients. A kernel fills them with `store_activation_gradient`, and another one adds
    up `sums` over the tiles: merged [0, 2 or 4, C], as many rows as the activation has scales and shifts.
    """

    def __init__(self, x: list[Tensor], relu_before_residual: bool, tiles: int):
        self.x = x
        self.constants = {"KIND": KINDS[len(x)], "RELU_BEFORE_RESIDUAL": relu_before_residual}
        self.grad_conv_out = torch.empty_like(x[0])
        self.grad_residual = torch.empty_like(x[0]) if len(x) > 3 else self.grad_conv_out
        vectors = VECTORS[len(x)]
        self.sums = torch.empty(tiles, vectors, x[0].shape[2], dtype=torch.float32, device=x[0].device)
        self.merged = self.sums.new_empty(vectors, x[0].shape[2])

    def arguments(self, x_FVC: Tensor) -> list[Tensor]:
        """What `store_activation_gradient` takes from `x` to `sums`; x_FVC: the activation computed."""
        read = self.x[:3] if len(self.x) == 4 else self.x  # a residual without a scale is not read
        return [x_FVC, *arguments(read)[:5], self.grad_conv_out, self.grad_residual, self.sums]

    def gradients(self) -> list[Tensor]:
        """Those of the activation as an operator returns them, where no two tensors may share memory: of the output, of
        the residual, and `merged`, as far as it has them.
        """
        if len(self.x) == 1:
            return [self.grad_conv_out]
        return [self.grad_conv_out, *([self.grad_residual] if len(self.x) > 3 else []), self.merged]


def activation_gradients(
    grad_x_FVC: Tensor, x_FVC: Tensor, x: list[Tensor], relu_before_residual: bool
) -> list[Tensor]:
    """Gradients as `ActivationGradient.gradients` gives them, of an activation that is not plain."""
    rows = x_FVC.shape[0] * x_FVC.shape[1]
    result = ActivationGradient(x, relu_before_residual, cdiv(rows, ROWS))
    read = grad_x_FVC, *result.arguments(x_FVC)
    return _run_backward(activation_backward, result, read, rows, {"C": x_FVC.shape[2]})


backward = operator("deferred_activation_backward")(activation_gradients)


@operator("deferred_activation_mean_backward")
def mean_backward(grad_mean_FC: Tensor, x: list[Tensor], relu_before_residual: bool) -> list[Tensor]:
    """The same, from the gradient of the mean over the joints."""
    frames, joints, channels = x[0].shape
    result = ActivationGradient(x, relu_before_residual, cdiv(frames, ROWS) * joints)
    *_, residual, residual_scale, residual_shift = arguments(x)
    _, conv_out, scale, shift, *_, grad_conv_out, grad_residual, sums = result.arguments(x[0])
    read = grad_mean_FC, residual_shift, conv_out, scale, shift, residual, residual_scale
    written = grad_conv_out, grad_residual, sums
    return _run_backward(activation_mean_backward, result, (*read, *written), frames, {"V": joints, "C": channels})


def _run_backward(
    kernel: Any, result: ActivationGradient, tensors: tuple[Tensor, ...], rows: int, sizes: dict[str, int]
) -> list[Tensor]:
    grid = cdiv(rows, ROWS), cdiv(sizes["C"], COLUMNS)
    tile = {"ROWS": ROWS, "COLUMNS": COLUMNS, "warps": WARPS, "stages": 1}
    launch(kernel, grid, *tensors, rows, **sizes, **result.constants, **tile)
    result.merged = sum_rows(result.sums, result.merged)
    return result.gradients()


def by_tensor(gradients: list[Tensor]) -> list[Tensor]:
    """The gradients of an activation's tensors in order, from `ActivationGradient.gradients`."""
    if len(gradients) == 1:
        return gradients
    grad_conv_out, *grad_residual, sums = gradients
    scale, shift, *others = sums.unbind()
    return [grad_conv_out, scale, shift, *grad_residual, *others]


def _save(ctx, inputs, output) -> None:
    x, ctx.relu_before_residual = inputs
    ctx.save_for_backward(output, *x)


def _gradients(ctx, grad_x_FVC: Tensor):
    x_FVC, *x = ctx.saved_tensors
    return by_tensor(backward(grad_x_FVC, x_FVC, x, ctx.relu_before_residual)), None


def _save_inputs(ctx, inputs, output) -> None:
    x, ctx.relu_before_residual = inputs
    ctx.save_for_backward(*x)


def _mean_gradients(ctx, grad_mean_FC: Tensor):
    return by_tensor(mean_backward(grad_mean_FC, list(ctx.saved_tensors), ctx.relu_before_residual)), None


forward.register_autograd(_gradients, setup_context=_save)
mean_forward.register_autograd(_mean_gradients, setup_context=_save_inputs)
