"""Temporal convolution on a CPU by minimal filtering (Winograd, 1980; for networks Lavin and Gray, CVPR 2016).

A tile of T - 1 frames of output takes 2 (T - 1) products with a matrix of channels in the place of T (T - 1): for five
taps 8 in the place of 20. Clip and weights are polynomials in time, whose product is taken point by point; to points
and back are small sums. A few tiles at a time, so that the points stay in the cache (kernels/activation/cpu_kernel.py).

P phases, the frames of a tile; N points; R rows (tile, joint). Clips lie one after the other, with T // 2 places for
zeros between them.
"""

from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from kernels.activation.cpu_kernel import ActivationGradient, Moments, OutputGradient, activated, rows_at_once
from kernels.activation.reference import Activation, Measured

POINTS = (0, 1, -1, 2, -2, Fraction(1, 2), Fraction(-1, 2))  # and infinity; more of them would cost precision
MOST_TAPS = 5


class Transforms(NamedTuple):
    """y = outputs_PN ((weights_NT w) * (inputs_NQ x)), for each output and input channel; Q two tiles."""

    inputs_NQ: Tensor
    weights_NT: Tensor
    outputs_PN: Tensor


class Tiles(NamedTuple):
    """Some tiles: the frames that they see, those that they write, and the places of both, phase by phase."""

    count: int
    seen: slice
    seen_place: Tensor  # [f] among the phases of `count` tiles and one more
    last: int  # of the frames seen, so many are not seen by the next tiles
    written: slice
    written_place: Tensor  # [f] among the phases of `count` tiles


class _TemporalConv(Function):
    """The output, and its moments if they are asked for, otherwise None."""

    @staticmethod
    def forward(ctx, rectified: bool, moments: bool, offsets, weight_TOC, bias_O, *tensors):
        """tensors: the six of an `Activation`."""
        x = Activation(*tensors, rectified)
        out_FVO = x.raw_FVC.new_empty(*x.raw_FVC.shape[:2], weight_TOC.shape[1])
        transforms = _transforms(len(weight_TOC))
        weight_NCO = _weight_points(transforms, weight_TOC)
        measure = Moments(out_FVO, moments)
        ctx.tiles = list(_tiles(offsets, x.raw_FVC.shape, len(weight_TOC)))
        for tiles in ctx.tiles:
            x_NRC = _input_points(transforms, tiles, activated(x, tiles.seen))
            y_FVO = (transforms.outputs_PN @ (x_NRC @ weight_NCO).flatten(1)).view(-1, *out_FVO.shape[1:])
            torch.add(y_FVO.index_select(0, tiles.written_place), bias_O, out=out_FVO[tiles.written])
            measure.add(tiles.written)
        out = measure.measured()
        ctx.set_materialize_grads(False)
        ctx.rectified = rectified
        ctx.save_for_backward(weight_TOC, bias_O, *out, *tensors)
        return tuple(out)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor | None):
        """One for each argument of `forward`; those of parameters are summed in float32."""
        weight_TOC, bias_O, *saved = ctx.saved_tensors
        x = Activation(*saved[3:], ctx.rectified)
        frames, joints, channels = x.raw_FVC.shape
        taps, phases = len(weight_TOC), _phases(len(weight_TOC))
        of_out, found = OutputGradient(Measured(*saved[:3]), gradients), ActivationGradient(x)
        transforms = _transforms(taps)
        weight_NCO = _weight_points(transforms, weight_TOC)
        of_weight_NCO, of_bias_O = torch.zeros_like(weight_NCO), torch.zeros_like(bias_O, dtype=torch.float32)
        of_next = 0.0  # what the tiles before found of the frames that these see too
        for tiles in ctx.tiles:
            x_FVC, grad_FVO = activated(x, tiles.seen), of_out.of(tiles.written)
            of_bias_O += grad_FVO.sum((0, 1))
            grad_PR = grad_FVO.new_zeros(phases * tiles.count, *grad_FVO.shape[1:])
            grad_PR = grad_PR.index_copy_(0, tiles.written_place, grad_FVO).view(phases, -1)
            grad_NRO = (transforms.outputs_PN.T @ grad_PR).view(len(weight_NCO), -1, grad_FVO.shape[2])
            of_weight_NCO.baddbmm_(_input_points(transforms, tiles, x_FVC).mT, grad_NRO)
            of_x = _input_gradient(transforms, tiles, grad_NRO @ weight_NCO.mT, joints * channels)
            of_x[:, :1] += of_next
            of_next = of_x[:, tiles.count :]
            of_x_FVC = of_x.reshape(-1, joints, channels).index_select(0, tiles.seen_place[: tiles.last])
            own = slice(tiles.seen.start, tiles.seen.start + tiles.last)
            found.put(own, of_x_FVC, x_FVC[: tiles.last])
        of_weight_TOC = torch.einsum("nt,nco->toc", transforms.weights_NT, of_weight_NCO).to(weight_TOC.dtype)
        return None, None, None, of_weight_TOC, of_bias_O.to(bias_O.dtype), *found.found()


def _phases(taps: int) -> int:
    return max(1, taps - 1)


@cache
def _transforms(taps: int) -> Transforms:
    """By Toom and Cook's interpolation, in exact numbers; transposed, since a convolution over time slides."""
    phases = _phases(taps)
    size = phases + taps - 1
    points = POINTS[: size - 1]

    def powers(count: int) -> list[list[Fraction]]:
        last = [Fraction(power == count - 1) for power in range(count)]  # of infinity: the leading coefficient
        return [[Fraction(point) ** power for power in range(count)] for point in points] + [last]

    inputs = list(zip(*_inverse(powers(size))))
    scale = [sum(map(abs, row)) for row in inputs]  # about as large at every point, which the weights make up for
    inputs = [[value / s for value in row] + [Fraction(0)] * (2 * phases - size) for row, s in zip(inputs, scale)]
    weights = [[value * s for value in row] for row, s in zip(powers(taps), scale)]
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


def _tiles(offsets: Tensor, shape: torch.Size, taps: int) -> Iterator[Tiles]:
    """All tiles of all clips, at most as many at a time as the cache holds, evenly; shape: of x_FVC."""
    frames, joints, channels = shape
    if not frames:
        return
    gap, phases = taps // 2, _phases(taps)
    frame_F = torch.arange(frames)
    written_F = frame_F + gap * (torch.searchsorted(offsets, frame_F, right=True) - 1)  # its place as an output
    seen_F = written_F + gap  # as an input
    tiles = seen_F[-1].item() // phases + 1
    turns = -(-tiles // max(1, rows_at_once(channels) // (phases * joints)))
    count = -(-tiles // turns)
    starts = torch.arange(0, tiles * phases, phases * count)
    ends = starts + phases * count
    rows = zip(
        starts.tolist(),
        *(torch.searchsorted(seen_F, x).tolist() for x in (starts, ends, ends + phases)),
        *(torch.searchsorted(written_F, x).tolist() for x in (starts, ends)),
    )
    for start, first_seen, own_end, seen_end, first_written, written_end in rows:
        seen, written = slice(first_seen, seen_end), slice(first_written, written_end)
        seen_place = _place(seen_F[seen] - start, phases, count + 1)
        yield Tiles(
            count, seen, seen_place, own_end - first_seen, written, _place(written_F[written] - start, phases, count)
        )


def _place(position: Tensor, phases: int, tiles: int) -> Tensor:
    """Where a frame is, once each phase of all tiles lies together."""
    return position % phases * tiles + position // phases


def _weight_points(transforms: Transforms, weight_TOC: Tensor) -> Tensor:
    """[N, C, O]"""
    return torch.einsum("nt,toc->nco", transforms.weights_NT, weight_TOC.float())


def _input_points(transforms: Transforms, tiles: Tiles, x_FVC: Tensor) -> Tensor:
    """[N, R, C] of the tiles' frames; a tile sees its own frames and the next tile's."""
    matrix, phases = transforms.inputs_NQ, transforms.inputs_NQ.shape[1] // 2
    _, joints, channels = x_FVC.shape
    x_P = matrix.new_zeros(phases * (tiles.count + 1), joints, channels)
    x_P = x_P.index_copy_(0, tiles.seen_place, x_FVC.float()).view(phases, -1)
    step = joints * channels
    points = (matrix[:, :phases] @ x_P[:, :-step]).addmm_(matrix[:, phases:], x_P[:, step:])
    return points.view(len(matrix), -1, channels)


def _input_gradient(transforms: Transforms, tiles: Tiles, of_points_NRC: Tensor, step: int) -> Tensor:
    """[P, I + 1, V C] from the gradient of `_input_points`; step: V C."""
    matrix, phases = transforms.inputs_NQ, transforms.inputs_NQ.shape[1] // 2
    of_x = matrix.new_zeros(phases, (tiles.count + 1) * step)
    of_points = of_points_NRC.flatten(1)
    of_x[:, :-step].addmm_(matrix[:, :phases].T, of_points)
    of_x[:, step:].addmm_(matrix[:, phases:].T, of_points)
    return of_x.view(phases, -1, step)


def temporal_conv(x: Activation, offsets: Tensor, weight_TOC: Tensor, bias_O: Tensor, moments: bool) -> Measured:
    """See kernels/temporal_conv/reference.py; at most `MOST_TAPS` taps."""
    assert len(weight_TOC) <= MOST_TAPS, weight_TOC.shape
    return Measured(*_TemporalConv.apply(x.rectified, moments, offsets, weight_TOC, bias_O, *x[:6]))
