"""Activations and moments on a CPU, some frames at a time, so that what is made on the way stays in the cache.

The reference passes over memory once an operation and keeps what it makes for the backward pass; here that is made
again. Sums over frames are added up in float32.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from kernels.activation.reference import Activation, Measured, before_relu
from kernels.activation.reference import activation as reference

ELEMENTS_AT_ONCE = 2**19  # 2 MiB in float32
MOST_ROWS = 8192  # where channels are few: the time between operations is spread over enough by then


def rows_at_once(channels: int) -> int:
    """How many rows (frame, joint) fit the cache together."""
    return min(MOST_ROWS, ELEMENTS_AT_ONCE // channels)


def frames_at_once(x_FVC: Tensor) -> Iterator[slice]:
    """Slices of frames that fit the cache together."""
    frames, joints, channels = x_FVC.shape
    return turns(frames, rows_at_once(channels) // joints)


def turns(count: int, most: int) -> Iterator[slice]:
    """Slices of so many items, `most` at a time, and at least one."""
    step = max(1, most)
    return (slice(first, min(first + step, count)) for first in range(0, count, step))


def activated(x: Activation, frames: slice) -> Tensor:
    """The activation of these frames computed, in the type of `raw`; for a plain one, a view of it."""
    return reference(_some(x, frames))


def activate(x: Activation, frames: slice, y_FVC: Tensor) -> None:
    """Write the activation of these frames, which is not plain, into y_FVC."""
    torch.maximum(before_relu(_some(x, frames)), torch.zeros(()), out=y_FVC[frames])


def _some(x: Activation, frames: slice) -> Activation:
    residual = x.residual_FVC if x.residual_FVC is None else x.residual_FVC[frames]
    return x._replace(raw_FVC=x.raw_FVC[frames], residual_FVC=residual)


class ActivationGradient:
    """The gradients of an activation's tensors, from those of its frames."""

    def __init__(self, x: Activation):
        self.x = x
        self.of_raw_FVC = torch.empty_like(x.raw_FVC, memory_format=torch.contiguous_format)
        self.of_residual_FVC = None if x.residual_FVC is None else torch.empty_like(self.of_raw_FVC)
        self.sums_4C = x.raw_FVC.new_zeros(4, x.raw_FVC.shape[2], dtype=torch.float32)

    def put(self, frames: slice, of_x_FVC: Tensor, x_FVC: Tensor) -> None:
        """of_x_FVC: float32, of the activation of these frames, computed as x_FVC."""
        x, sums = self.x, self.sums_4C
        if x.scale_C is None:
            self.of_raw_FVC[frames] = of_x_FVC
            return
        grad, raw = _behind_relu(of_x_FVC, x_FVC.float()), x.raw_FVC[frames].float()
        if x.residual_scale_C is not None:
            torch.mul(grad, x.residual_scale_C, out=self.of_residual_FVC[frames])
            sums[2] += (grad * x.residual_FVC[frames].float()).sum((0, 1))
            sums[3] += grad.sum((0, 1))
        elif x.residual_FVC is not None:
            self.of_residual_FVC[frames] = grad
        if x.rectified:
            grad = _behind_relu(grad, torch.addcmul(x.shift_C, raw, x.scale_C))
        torch.mul(grad, x.scale_C, out=self.of_raw_FVC[frames])
        sums[0] += (grad * raw).sum((0, 1))
        sums[1] += grad.sum((0, 1))

    def found(self) -> list[Tensor | None]:
        """One each of the six tensors that an activation can have."""
        scale_C, shift_C, residual_scale_C, residual_shift_C = self.sums_4C
        every = self.of_raw_FVC, scale_C, shift_C, self.of_residual_FVC, residual_scale_C, residual_shift_C
        return [None if tensor is None else grad for tensor, grad in zip(self.x[:6], every)]


def _behind_relu(of_y: Tensor, y: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(of_y, y, 0.0)


class Moments:
    """Mean and biased variance of an output, if wanted, some rows at a time (Chan, Golub and LeVeque, 1983)."""

    def __init__(self, out_FVO: Tensor, wanted: bool):
        self.out_FVO, self.wanted, self.rows = out_FVO, wanted, 0
        self.mean_O, self.squares_O = out_FVO.new_zeros(2, out_FVO.shape[2], dtype=torch.float32)

    def add(self, frames: slice) -> None:
        """These frames of the output, or none, are written."""
        rows_RO = self.out_FVO[frames].flatten(0, 1).float()
        if not (self.wanted and len(rows_RO)):
            return
        mean_O = rows_RO.mean(0)
        apart_O, share = mean_O - self.mean_O, len(rows_RO) / (self.rows + len(rows_RO))
        self.squares_O += (rows_RO - mean_O).square_().sum(0) + apart_O.square() * (self.rows * share)
        self.mean_O += apart_O * share
        self.rows += len(rows_RO)

    def measured(self) -> Measured:
        """The output, with the moments of all rows if they are wanted; zeros without any row."""
        if not self.wanted:
            return Measured(self.out_FVO, None, None)
        return Measured(self.out_FVO, self.mean_O, self.squares_O / max(1, self.rows))


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
        """[f, V, O] float32."""
        out = self.out_FVO[frames]
        grad = torch.zeros(out.shape) if self.of_out_FVO is None else self.of_out_FVO[frames].float()
        if self.slope_O is not None:
            grad = torch.addcmul(self.shift_O, out.float(), self.slope_O).add_(grad)
        return grad


class _Activation(Function):
    @staticmethod
    def forward(ctx, rectified: bool, *tensors: Tensor | None) -> Tensor:
        x = Activation(*tensors, rectified)
        y_FVC = torch.empty_like(x.raw_FVC, memory_format=torch.contiguous_format)
        for frames in frames_at_once(y_FVC):
            activate(x, frames, y_FVC)
        ctx.rectified = rectified
        ctx.save_for_backward(*tensors)
        return y_FVC

    @staticmethod
    @once_differentiable
    def backward(ctx, of_y_FVC: Tensor):
        x = Activation(*ctx.saved_tensors, ctx.rectified)
        found = ActivationGradient(x)
        for frames in frames_at_once(x.raw_FVC):
            found.put(frames, of_y_FVC[frames].float(), activated(x, frames))
        return None, *found.found()


def activation(x: Activation) -> Tensor:
    """See kernels/activation/reference.py."""
    return x.raw_FVC if x.scale_C is None else _Activation.apply(x.rectified, *x[:6])
