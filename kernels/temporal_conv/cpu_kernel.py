"""Temporal convolution on a CPU by minimal filtering (Winograd, 1980; for networks Lavin and Gray, CVPR 2016).

A tile of T - 1 frames of output takes 2 (T - 1) products with a matrix of channels in the place of T (T - 1): for five
taps 8 in the place of 20. Clip and weights are polynomials in time, whose product is taken point by point; to points
and back are small sums, in compiled loops. Some tiles at a time, so that the points stay in the cache
(kernels/deferred_activation/cpu_kernel.py).

I tiles; P phases, the frames that a tile writes; Q = 2 P, those that it sees, its own and the next tile's; N points;
R rows (tile, joint). Clips lie one after the other, with T // 2 places for zeros between them.
"""

from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from typing import NamedTuple

import numba
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ..cpu.loops import array, parallel, run
from ..deferred_activation.cpu_kernel import (
    Activated,
    ActivationGradient,
    OutputGradient,
    rows_at_once,
    turns,
    with_batch_stats,
)
from ..deferred_activation.reference import ConvOutput, DeferredActivation
from .reference import Clips

POINTS = (0, 1, -1, 2, -2, Fraction(1, 2), Fraction(-1, 2))  # and infinity; more of them would cost precision
MAX_KERNEL_SIZE = 5


class Transforms(NamedTuple):
    """y = outputs_PN ((weights_NT w) * (inputs_NQ x)), for each output and input channel."""

    inputs_NQ: Tensor
    weights_NT: Tensor
    outputs_PN: Tensor


class Tiles(NamedTuple):
    """Some tiles, by the numbers of their frames, -1 where there is none; and from which frame to which those are."""

    seen_IQ: Tensor
    written_IP: Tensor
    seen: slice
    own: slice  # of those seen; no later tile sees them
    written: slice


class _TemporalConv(Function):
    """The output, and its batch_stats if they are asked for, otherwise None."""

    @staticmethod
    def forward(ctx, relu_before_residual: bool, batch_stats: bool, cu_seqlens, weight_TOC, bias_O, *tensors):
        """tensors: the six of an `DeferredActivation`."""
        x = Activated(DeferredActivation(*tensors, relu_before_residual))
        out_FVO = torch.empty(*x.shape[:2], weight_TOC.shape[1])
        transforms = _transforms(len(weight_TOC))
        weight_NCO = _weight_points(transforms, weight_TOC)
        ctx.tiles = list(_tiles(cu_seqlens, x.shape, len(weight_TOC)))
        for tiles in ctx.tiles:
            points_NRO = _input_points(transforms, tiles, x.of(tiles.seen)) @ weight_NCO
            out_FVO[tiles.written] = bias_O
            run(_add_to_frames, points_NRO, array(transforms.outputs_PN), tiles.written_IP, out_FVO)
        out = with_batch_stats(out_FVO, batch_stats, tensors[0].dtype)
        ctx.set_materialize_grads(False)
        ctx.relu_before_residual = relu_before_residual
        ctx.save_for_backward(weight_TOC, bias_O, *out, *tensors)
        return tuple(out)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor | None):
        """One for each argument of `forward`; those of parameters are summed in float32."""
        weight_TOC, bias_O, *saved = ctx.saved_tensors
        grad_out = OutputGradient(ConvOutput(*saved[:3]), gradients)
        result = ActivationGradient(
            DeferredActivation(*saved[3:], ctx.relu_before_residual), torch.zeros(saved[3].shape)
        )
        transforms = _transforms(len(weight_TOC))
        weight_NCO = _weight_points(transforms, weight_TOC)
        grad_weight_NCO, grad_bias_O = torch.zeros_like(weight_NCO), torch.zeros_like(bias_O, dtype=torch.float32)
        for tiles in ctx.tiles:
            grad_FVO = grad_out.of(tiles.written)
            grad_bias_O += grad_FVO.sum((0, 1))
            grad_NRO = _points(grad_FVO, tiles.written, tiles.written_IP, transforms.outputs_PN.T)
            grad_weight_NCO.baddbmm_(_input_points(transforms, tiles, result.x.of(tiles.seen)).mT, grad_NRO)
            grad_points_NRC = grad_NRO @ weight_NCO.mT
            run(_add_to_frames, grad_points_NRC, array(transforms.inputs_NQ.T), tiles.seen_IQ, result.grad_FVC)
            result.apply_backward(tiles.own)
        grad_weight_TOC = torch.einsum("nt,nco->toc", transforms.weights_NT, grad_weight_NCO).to(weight_TOC.dtype)
        return None, None, None, grad_weight_TOC, grad_bias_O.to(bias_O.dtype), *result.result()


def _phases(kernel_size: int) -> int:
    return max(1, kernel_size - 1)


@cache
def _transforms(kernel_size: int) -> Transforms:
    """By Toom and Cook's interpolation, in exact numbers; transposed, since a convolution over time slides."""
    phases = _phases(kernel_size)
    size = phases + kernel_size - 1
    points = POINTS[: size - 1]

    def powers(count: int) -> list[list[Fraction]]:
        last = [Fraction(power == count - 1) for power in range(count)]  # of infinity: the leading coefficient
        return [[Fraction(point) ** power for power in range(count)] for point in points] + [last]

    inputs = list(zip(*_inverse(powers(size))))
    scale = [sum(map(abs, row)) for row in inputs]  # about as large at every point, which the weights make up for
    inputs = [[value / s for value in row] + [Fraction(0)] * (2 * phases - size) for row, s in zip(inputs, scale)]
    weights = [[value * s for value in row] for row, s in zip(powers(kernel_size), scale)]
    outputs = zip(*powers(phases))
    return Transforms(*(torch.tensor([list(map(float, row)) for row in m]) for m in (inputs, weights, outputs)))


def _inverse(matrix: list[list[Fraction]]) -> list[list[Fraction]]:
    """By Gauss and Jordan."""
    size = len(matrix)
    rows = [[*row, *(Fraction(i == j) for j in range(size))] for i, row in enumerate(matrix)]
    for i in range(size):
        pivot = next(j for j in range(i, size) if rows[j][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for j in range(size):
            if j != i:
                rows[j] = [a - rows[j][i] * b for a, b in zip(rows[j], rows[i])]
    return [row[size:] for row in rows]


def _tiles(cu_seqlens: Tensor, shape: torch.Size, kernel_size: int) -> Iterator[Tiles]:
    """All tiles of all clips, as many at a time as the cache holds, evenly; shape: of x_FVC."""
    frames, joints, channels = shape
    if not frames:
        return
    gap, phases = kernel_size // 2, _phases(kernel_size)
    frame_F = torch.arange(frames)
    place_F = frame_F + gap * (torch.searchsorted(cu_seqlens, frame_F, right=True) - 1)
    tiles = (place_F[-1].item() + gap) // phases + 1
    frame_at = torch.full(((tiles + 1) * phases + gap,), -1)
    frame_at[place_F + gap] = frame_F  # as an input; as an output it lies `gap` before
    seen_IQ = frame_at[: (tiles + 1) * phases].unfold(0, 2 * phases, phases).contiguous()
    written_IP = frame_at[gap : gap + tiles * phases].view(tiles, phases)
    passes = -(-tiles // max(1, rows_at_once(channels) // (phases * joints)))
    for some in turns(tiles, -(-tiles // passes)):
        seen, written = seen_IQ[some], written_IP[some]
        yield Tiles(seen, written, *map(_span, (seen, seen[:, :phases], written)))


def _span(frames: Tensor) -> slice:
    """From the first to the last of these frames, which leave none out; without -1."""
    valid = frames[frames >= 0]
    return slice(valid.min().item(), valid.max().item() + 1) if len(valid) else slice(0, 0)


def _weight_points(transforms: Transforms, weight_TOC: Tensor) -> Tensor:
    """[N, C, O]"""
    return torch.einsum("nt,toc->nco", transforms.weights_NT, weight_TOC.float())


def _input_points(transforms: Transforms, tiles: Tiles, x_FVC: Tensor) -> Tensor:
    """[N, R, C] of the frames that the tiles see."""
    return _points(x_FVC, tiles.seen, tiles.seen_IQ, transforms.inputs_NQ)


def _points(x_FVC: Tensor, frames: slice, frames_IQ: Tensor, matrix_NQ: Tensor) -> Tensor:
    """[N, R, C]: a matrix times the frames that each tile sees, or writes; x_FVC has those of `frames` alone."""
    _, joints, channels = x_FVC.shape
    points_NRC = torch.empty(len(matrix_NQ), len(frames_IQ) * joints, channels)
    run(_to_points, array(x_FVC), frames.start, frames_IQ, array(matrix_NQ), points_NRC)
    return points_NRC


@parallel
def _to_points(x_FVC, first, frames_IQ, matrix_NQ, points_NRC):
    joints = x_FVC.shape[1]
    points, rows, channels = points_NRC.shape
    for r in numba.prange(rows):
        tile, joint = r // joints, r % joints
        for n in range(points):
            for c in range(channels):
                points_NRC[n, r, c] = 0
            for q in range(matrix_NQ.shape[1]):
                frame, factor = frames_IQ[tile, q] - first, matrix_NQ[n, q]
                if frames_IQ[tile, q] >= 0 and factor != 0:
                    for c in range(channels):
                        points_NRC[n, r, c] += factor * x_FVC[frame, joint, c]


@parallel
def _add_to_frames(points_NRC, matrix_QN, frames_IQ, y_FVC):
    """To the frames that each tile sees, or writes, a matrix times its points. Tiles share frames, joints do not."""
    points, _, channels = points_NRC.shape
    joints = y_FVC.shape[1]
    for joint in numba.prange(joints):
        for tile in range(len(frames_IQ)):
            for q in range(len(matrix_QN)):
                frame = frames_IQ[tile, q]
                if frame >= 0:
                    for n in range(points):
                        factor = matrix_QN[q, n]
                        if factor != 0:
                            for c in range(channels):
                                y_FVC[frame, joint, c] += factor * points_NRC[n, tile * joints + joint, c]


def temporal_conv(
    x: DeferredActivation, clips: Clips, weight_TOC: Tensor, bias_O: Tensor, batch_stats: bool
) -> ConvOutput:
    """See kernels/temporal_conv/reference.py; at most `MAX_KERNEL_SIZE` taps."""
    assert len(weight_TOC) <= MAX_KERNEL_SIZE, weight_TOC.shape
    return ConvOutput(
        *_TemporalConv.apply(x.relu_before_residual, batch_stats, clips.cu_seqlens, weight_TOC, bias_O, *x.slots())
    )
