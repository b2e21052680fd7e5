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

from ..cpu.loops import array, block_count, block_rows, parallel, run
from ..cpu.moments import row_moments
from .reference import Activation, Measured

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

    def __init__(self, x: Activation):
        self.plain, self.rectified, self.shape = x.scale_C is None, x.rectified, x.raw_FVC.shape
        self.raw_FVC = x.raw_FVC.float()
        self._raw_RC = _row_array(self.raw_FVC)
        self._residual_RC = None if x.residual_FVC is None else _row_array(x.residual_FVC)
        self._scales = [None if scale_C is None else array(scale_C) for scale_C in (*x[1:3], *x[4:6])]

    def of(self, frames: slice) -> Tensor:
        """[f, V, C], not to be written to."""
        if self.plain:
            return self.raw_FVC[frames]
        y_FVC = torch.empty(self.raw_FVC[frames].shape)
        self.write(frames, y_FVC)
        return y_FVC

    def write(self, frames: slice, y_FVC: Tensor) -> None:
        """Of one that is not plain, into y_FVC."""
        run(_activate, *self.arrays(frames), self.rectified, _rows(y_FVC))

    def arrays(self, frames: slice) -> list[np.ndarray | None]:
        """The six of an `Activation`, of these frames."""
        joints = self.shape[1]
        some = slice(frames.start * joints, frames.stop * joints)
        scale_C, shift_C, *of_residual = self._scales
        residual_RC = None if self._residual_RC is None else self._residual_RC[some]
        return [self._raw_RC[some], scale_C, shift_C, residual_RC, *of_residual]


class ActivationGradient:
    """The gradients of an activation's tensors, from its own, which is written to grad_FVC some frames at a time."""

    def __init__(self, x: Activation, grad_FVC: Tensor):
        self._tensors, self.x, self.grad_FVC = x[:6], Activated(x), grad_FVC
        self._of_residual_FVC = None if x.residual_FVC is None else torch.empty(x.residual_FVC.shape)
        self._sums_4C = np.zeros((4, x.raw_FVC.shape[2]))

    def settle(self, frames: slice) -> None:
        """The gradient of these frames is written, and becomes that of `raw`."""
        if self.x.plain:
            return
        of_residual_RC = None if self._of_residual_FVC is None else _rows(self._of_residual_FVC[frames])
        grad_RC = _rows(self.grad_FVC[frames])
        sums_B4C = np.zeros((block_count(*grad_RC.shape), *self._sums_4C.shape), np.float32)
        some = *self.x.arrays(frames), self.x.rectified
        run(_of_activation, *some, grad_RC, of_residual_RC, block_rows(grad_RC.shape[1]), sums_B4C)
        self._sums_4C += sums_B4C.sum(0, dtype=np.float64)

    def found(self) -> list[Tensor | None]:
        """One each of the six tensors that an activation can have."""
        scale_C, shift_C, residual_scale_C, residual_shift_C = torch.from_numpy(self._sums_4C)
        every = self.grad_FVC, scale_C, shift_C, self._of_residual_FVC, residual_scale_C, residual_shift_C
        return [None if tensor is None else grad.to(tensor.dtype) for tensor, grad in zip(self._tensors, every)]


def measured(out_FVO: Tensor, moments: bool, dtype: torch.dtype) -> Measured:
    """An output in float32, as one of this type, with the moments of its rows if they are wanted."""
    return Measured(out_FVO.to(dtype), *(row_moments(out_FVO) if moments else (None, None)))


class OutputGradient:
    """The gradient of a convolution's output, that of its moments included, some frames at a time.

    `gradients` are those of the output, its mean and its variance, None where it was not used.
    """

    def __init__(self, out: Measured, gradients: Sequence[Tensor | None]):
        self.out_FVO, (self.of_out_FVO, of_mean_O, of_var_O) = out.raw_FVO, gradients
        self.slope_O = None
        if of_mean_O is not None or of_var_O is not None:
            rows = max(1, self.out_FVO.shape[:2].numel())
            zeros_O = torch.zeros_like(out.mean_O)
            self.slope_O = (zeros_O if of_var_O is None else of_var_O) * (2 / rows)
            self.shift_O = (zeros_O if of_mean_O is None else of_mean_O) / rows - out.mean_O * self.slope_O

    def of(self, frames: slice) -> Tensor:
        """[f, V, O] float32, not to be written to."""
        out_FVO = self.out_FVO[frames]
        of_out_FVO = torch.zeros(out_FVO.shape) if self.of_out_FVO is None else self.of_out_FVO[frames].float()
        if self.slope_O is None:
            return of_out_FVO
        grad_FVO = torch.empty(out_FVO.shape)
        run(_of_output, _row_array(of_out_FVO), _row_array(out_FVO), self.slope_O, self.shift_O, _rows(grad_FVO))
        return grad_FVO


@numba.njit(inline="always")
def _relu(y):
    return np.float32(0) if y < 0 else y


@numba.njit
def _before_relu(r, c, raw_RC, scale_C, shift_C, residual_RC, residual_scale_C, residual_shift_C, rectified):
    """See `before_relu` of the reference."""
    y = raw_RC[r, c] * scale_C[c] + shift_C[c]
    if rectified:
        y = _relu(y)
    if residual_scale_C is not None:
        y += residual_RC[r, c] * residual_scale_C[c] + residual_shift_C[c]
    elif residual_RC is not None:
        y += residual_RC[r, c]
    return y


@parallel
def _activate(raw_RC, scale_C, shift_C, residual_RC, residual_scale_C, residual_shift_C, rectified, y_RC):
    rows, channels = y_RC.shape
    for r in numba.prange(rows):
        for c in range(channels):
            y_RC[r, c] = _relu(
                _before_relu(r, c, raw_RC, scale_C, shift_C, residual_RC, residual_scale_C, residual_shift_C, rectified)
            )


@parallel
def _of_activation(
    raw_RC,
    scale_C,
    shift_C,
    residual_RC,
    residual_scale_C,
    residual_shift_C,
    rectified,
    grad_RC,
    of_residual_RC,
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
                    r, c, raw_RC, scale_C, shift_C, residual_RC, residual_scale_C, residual_shift_C, rectified
                )
                grad_RC[r, c] = np.float32(0) if y <= 0 else grad_RC[r, c]
            if residual_scale_C is not None:
                for c in range(channels):
                    of_residual_RC[r, c] = grad_RC[r, c] * residual_scale_C[c]
                for c in range(channels):
                    sums_B4C[b, 2, c] += grad_RC[r, c] * residual_RC[r, c]
                for c in range(channels):
                    sums_B4C[b, 3, c] += grad_RC[r, c]
            elif residual_RC is not None:
                for c in range(channels):
                    of_residual_RC[r, c] = grad_RC[r, c]
            if rectified:
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
def _of_output(of_out_RO, out_RO, slope_O, shift_O, grad_RO):
    rows, channels = grad_RO.shape
    for r in numba.prange(rows):
        for o in range(channels):
            grad_RO[r, o] = of_out_RO[r, o] + (out_RO[r, o] * slope_O[o] + shift_O[o])


class _Activation(Function):
    @staticmethod
    def forward(ctx, rectified: bool, *tensors: Tensor | None) -> Tensor:
        x = Activation(*tensors, rectified)
        ctx.rectified = rectified
        ctx.save_for_backward(*tensors)
        return Activated(x).of(slice(0, len(x.raw_FVC))).to(x.raw_FVC.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, of_y_FVC: Tensor):
        x = Activation(*ctx.saved_tensors, ctx.rectified)
        found = ActivationGradient(x, torch.empty(of_y_FVC.shape).copy_(of_y_FVC))
        found.settle(slice(0, len(of_y_FVC)))
        return None, *found.found()


def activation(x: Activation) -> Tensor:
    """See kernels/deferred_activation/reference.py."""
    return x.raw_FVC if x.scale_C is None else _Activation.apply(x.rectified, *x[:6])
