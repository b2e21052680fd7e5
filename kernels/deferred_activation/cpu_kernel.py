"""Activations and moments on a CPU, some frames at a time, so that what is made on the way stays in the cache.

The reference passes over memory once an operation and keeps what it makes for the backward pass; here compiled loops
pass over it once, and what they make on the way is made again. All is computed in float32, and rounded to a shorter
type where it leaves: moments are those of an output before that. Sums over frames are added up block by block.

R rows (frame, joint).
"""

from collections.abc import Iterator, Sequence

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ..cpu.batch_stats import row_moments
from ..cpu.loops import array, block_count, block_rows, parallel, run
from .reference import ConvOutput, DeferredActivation

ELEMENTS_AT_ONCE = 2**19  # 2 MiB in float32, of the cache that cores share
MOST_ROWS = 8192  # where channels are few: the time between operations is spread over enough by then


def rows_at_once(channels: int) -> int:
    """How many rows (frame, joint) fit the cache together."""
    return min(MOST_ROWS, ELEMENTS_AT_ONCE // channels)


def frames_at_once(x_FVC: Tensor) -> Iterator[slice]:
    """Slices of frames that fit the cache together."""
    frames, joints, channels = x_FVC.shape
    return turns(frames, rows_at_once(channels) // joints)


def _rows(x_FVC: Tensor) -> Tensor:
    """[R, C], a view."""
    return x_FVC.view(-1, x_FVC.shape[2])


def _row_array(x_FVC: Tensor) -> np.ndarray:
    """[R, C], to be read."""
    return array(x_FVC).reshape(-1, x_FVC.shape[2])


def turns(count: int, most: int) -> Iterator[slice]:
    """Slices of so many items, `most` at a time, and at least one."""
    step = max(1, most)
    return (slice(first, min(first + step, count)) for first in range(0, count, step))


class Activated:
    """An activation in float32, computed some frames at a time."""

    def __init__(self, x: DeferredActivation):
        self.plain, self.relu_before_residual, self.shape = (
            x.plain,
            x.relu_before_residual,
            x.conv_out_FVC.shape,
        )
        self.conv_out_FVC = x.conv_out_FVC.float()
        self._raw_RC = _row_array(self.conv_out_FVC)
        self._residual_RC = None if x.residual_FVC is None else _row_array(x.residual_FVC)
        scales = x.scale_C, x.shift_C, x.residual_scale_C, x.residual_shift_C
        self._scales = [None if scale_C is None else array(scale_C) for scale_C in scales]

    def of(self, frames: slice) -> Tensor:
        """[f, V, C], not to be written to."""
        if self.plain:
            return self.conv_out_FVC[frames]
        y_FVC = torch.empty(self.conv_out_FVC[frames].shape)
        self.write(frames, y_FVC)
        return y_FVC

    def write(self, frames: slice, y_FVC: Tensor) -> None:
        """Of one that is not plain, into y_FVC."""
        run(_activate, *self.arrays(frames), self.relu_before_residual, _rows(y_FVC))

    def arrays(self, frames: slice) -> list[np.ndarray | None]:
        """The six of an `DeferredActivation`, of these frames."""
        joints = self.shape[1]
        some = slice(frames.start * joints, frames.stop * joints)
        scale_C, shift_C, *grad_residual = self._scales
        residual_RC = None if self._residual_RC is None else self._residual_RC[some]
        return [self._raw_RC[some], scale_C, shift_C, residual_RC, *grad_residual]


class ActivationGradient:
    """The gradients of an activation's tensors, from its own, which is written to grad_FVC some frames at a time."""

    def __init__(self, x: DeferredActivation, grad_FVC: Tensor):
        self._tensors, self.x, self.grad_FVC = x.slots(), Activated(x), grad_FVC
        self._grad_residual_FVC = None if x.residual_FVC is None else torch.empty(x.residual_FVC.shape)
        self._sums_4C = np.zeros((4, x.conv_out_FVC.shape[2]))

    def apply_backward(self, frames: slice) -> None:
        """The gradient of these frames is written, and becomes that of `raw`."""
        if self.x.plain:
            return
        grad_residual_RC = None if self._grad_residual_FVC is None else _rows(self._grad_residual_FVC[frames])
        grad_RC = _rows(self.grad_FVC[frames])
        sums_B4C = np.zeros((block_count(*grad_RC.shape), *self._sums_4C.shape), np.float32)
        some = *self.x.arrays(frames), self.x.relu_before_residual
        run(_activation_backward, *some, grad_RC, grad_residual_RC, block_rows(grad_RC.shape[1]), sums_B4C)
        self._sums_4C += sums_B4C.sum(0, dtype=np.float64)

    def result(self) -> list[Tensor | None]:
        """One each of the six tensors that an activation can have."""
        scale_C, shift_C, residual_scale_C, residual_shift_C = torch.from_numpy(self._sums_4C)
        every = self.grad_FVC, scale_C, shift_C, self._grad_residual_FVC, residual_scale_C, residual_shift_C
        return [None if tensor is None else grad.to(tensor.dtype) for tensor, grad in zip(self._tensors, every)]


def with_batch_stats(out_FVO: Tensor, batch_stats: bool, dtype: torch.dtype) -> ConvOutput:
    """An output in float32, as one of this type, with the moments of its rows if they are wanted."""
    return ConvOutput(out_FVO.to(dtype), *(row_moments(out_FVO) if batch_stats else (None, None)))


class OutputGradient:
    """The gradient of a convolution's output, that of its moments included, some frames at a time.

    `gradients` are those of the output, its mean and its variance, None where it was not used.
    """

    def __init__(self, out: ConvOutput, gradients: Sequence[Tensor | None]):
        self.out_FVO, (self.grad_out_FVO, grad_mean_O, grad_var_O) = out.conv_out_FVO, gradients
        self.slope_O = None
        if grad_mean_O is not None or grad_var_O is not None:
            rows = max(1, self.out_FVO.shape[:2].numel())
            zeros_O = torch.zeros_like(out.mean_O)
            self.slope_O = (zeros_O if grad_var_O is None else grad_var_O) * (2 / rows)
            self.shift_O = (zeros_O if grad_mean_O is None else grad_mean_O) / rows - out.mean_O * self.slope_O

    def of(self, frames: slice) -> Tensor:
        """[f, V, O] float32, not to be written to."""
        out_FVO = self.out_FVO[frames]
        grad_out_FVO = torch.zeros(out_FVO.shape) if self.grad_out_FVO is None else self.grad_out_FVO[frames].float()
        if self.slope_O is None:
            return grad_out_FVO
        grad_FVO = torch.empty(out_FVO.shape)
        run(
            _output_backward, _row_array(grad_out_FVO), _row_array(out_FVO), self.slope_O, self.shift_O, _rows(grad_FVO)
        )
        return grad_FVO


@numba.njit(inline="always")
def _relu(y):
    return np.float32(0) if y < 0 else y


@numba.njit
def _before_relu(r, c, raw_RC, scale_C, shift_C, residual_RC, residual_scale_C, residual_shift_C, relu_before_residual):
    """See `before_relu` of the reference."""
    y = raw_RC[r, c] * scale_C[c] + shift_C[c]
    if relu_before_residual:
        y = _relu(y)
    if residual_scale_C is not None:
        y += residual_RC[r, c] * residual_scale_C[c] + residual_shift_C[c]
    elif residual_RC is not None:
        y += residual_RC[r, c]
    return y


@parallel
def _activate(raw_RC, scale_C, shift_C, residual_RC, residual_scale_C, residual_shift_C, relu_before_residual, y_RC):
    rows, channels = y_RC.shape
    for r in numba.prange(rows):
        for c in range(channels):
            y_RC[r, c] = _relu(
                _before_relu(
                    r,
                    c,
                    raw_RC,
                    scale_C,
                    shift_C,
                    residual_RC,
                    residual_scale_C,
                    residual_shift_C,
                    relu_before_residual,
                )
            )


@parallel
def _activation_backward(
    raw_RC,
    scale_C,
    shift_C,
    residual_RC,
    residual_scale_C,
    residual_shift_C,
    relu_before_residual,
    grad_RC,
    grad_residual_RC,
    rows,
    sums_B4C,
):
    """The gradient of `raw` in the place of the activation's, and each block's sums for scales and shifts. A loop for
    each array written: of more of them the compiler cannot tell that they do not overlap.
    """
    count, _, channels = sums_B4C.shape
    for b in numba.prange(count):
        for r in range(b * rows, min((b + 1) * rows, len(grad_RC))):
            for c in range(channels):
                y = _before_relu(
                    r,
                    c,
                    raw_RC,
                    scale_C,
                    shift_C,
                    residual_RC,
                    residual_scale_C,
                    residual_shift_C,
                    relu_before_residual,
                )
                grad_RC[r, c] = np.float32(0) if y <= 0 else grad_RC[r, c]
            if residual_scale_C is not None:
                for c in range(channels):
                    grad_residual_RC[r, c] = grad_RC[r, c] * residual_scale_C[c]
                for c in range(channels):
                    sums_B4C[b, 2, c] += grad_RC[r, c] * residual_RC[r, c]
                for c in range(channels):
                    sums_B4C[b, 3, c] += grad_RC[r, c]
            elif residual_RC is not None:
                for c in range(channels):
                    grad_residual_RC[r, c] = grad_RC[r, c]
            if relu_before_residual:
                for c in range(channels):
                    y = raw_RC[r, c] * scale_C[c] + shift_C[c]
                    grad_RC[r, c] = np.float32(0) if y <= 0 else grad_RC[r, c]
            for c in range(channels):
                sums_B4C[b, 0, c] += grad_RC[r, c] * raw_RC[r, c]
            for c in range(channels):
                sums_B4C[b, 1, c] += grad_RC[r, c]
            for c in range(channels):
                grad_RC[r, c] *= scale_C[c]


@parallel
def _output_backward(grad_out_RO, out_RO, slope_O, shift_O, grad_RO):
    rows, channels = grad_RO.shape
    for r in numba.prange(rows):
        for o in range(channels):
            grad_RO[r, o] = grad_out_RO[r, o] + (out_RO[r, o] * slope_O[o] + shift_O[o])


class _DeferredActivation(Function):
    @staticmethod
    def forward(ctx, relu_before_residual: bool, *tensors: Tensor | None) -> Tensor:
        x = DeferredActivation(*tensors, relu_before_residual)
        ctx.relu_before_residual = relu_before_residual
        ctx.save_for_backward(*tensors)
        return Activated(x).of(slice(0, len(x.conv_out_FVC))).to(x.conv_out_FVC.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y_FVC: Tensor):
        x = DeferredActivation(*ctx.saved_tensors, ctx.relu_before_residual)
        result = ActivationGradient(x, torch.empty(grad_y_FVC.shape).copy_(grad_y_FVC))
        result.apply_backward(slice(0, len(grad_y_FVC)))
        return None, *result.result()


def deferred_activation(x: DeferredActivation) -> Tensor:
    """See kernels/deferred_activation/reference.py."""
    return x.conv_out_FVC if x.plain else _DeferredActivation.apply(x.relu_before_residual, *x.slots())
