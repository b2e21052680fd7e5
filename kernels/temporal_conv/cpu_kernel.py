"""Temporal convolution on a CPU by Winograd's algorithm (Winograd, 1980; for networks Lavin and Gray, CVPR 2016).

A tile of P = T - 1 output frames reads its own P frames and those of the next tile. It takes N = 2 P products with a
matrix of channels instead of T P: 8 instead of 20 for kernel size 5. T // 2 zero frames separate the clips. The layout
is phase by phase, [P, tiles * V * C], so that one product transforms several tiles to points, which stay in the cache.
"""

from functools import cache

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ..cpu.chunks import ELEMENTS, chunks
from ..deferred_activation.cpu_kernel import deferred_activation
from ..deferred_activation.reference import ConvOutput, DeferredActivation, with_batch_stats
from .reference import Clips

POINTS = (0, 1, -1, 2, -2, 0.5, -0.5)  # and infinity; more of them would cost precision
MAX_KERNEL_SIZE = 5


@cache
def _transforms(kernel_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The transforms inputs [2, N, P], weights [N, T] and outputs [P, N]: y = outputs ((weights w) * (inputs x)).

    This is Toom-Cook interpolation, transposed because a convolution slides over time.
    """
    phases = max(1, kernel_size - 1)
    size = phases + kernel_size - 1
    points = torch.tensor(POINTS[: size - 1], dtype=torch.float64)[:, None]

    def powers(count: int) -> Tensor:
        return torch.cat([points ** torch.arange(count), torch.eye(count, dtype=torch.float64)[-1:]])  # infinity last

    inputs = torch.linalg.inv(powers(size)).T
    scale = inputs.abs().sum(1, keepdim=True)  # about as large at every point, which the weights make up for
    inputs = torch.nn.functional.pad(inputs / scale, (0, 2 * phases - size)).unflatten(1, (2, phases)).transpose(0, 1)
    return inputs.float().contiguous(), (powers(kernel_size) * scale).float(), powers(phases).T.float()


class _TemporalConv(Function):
    @staticmethod
    def forward(ctx, x_FVC: Tensor, cu_seqlens: Tensor, weight_TOC: Tensor, bias_O: Tensor) -> Tensor:
        """As `reference`: [frames, joints, outputs]. Saves the input by phase and the transformed weights."""
        kernel_size, outputs, channels = weight_TOC.shape
        (frames, joints, _), (inputs_2NP, weights_NT, outputs_PN) = x_FVC.shape, _transforms(kernel_size)
        phases, gap = len(outputs_PN), kernel_size // 2
        place_F = torch.arange(frames)  # as outputs
        place_F += gap * (torch.searchsorted(cu_seqlens, place_F, right=True) - 1)
        tiles = (int(place_F[-1]) + gap) // phases + 1 if frames else 0
        x_PL = _by_phase(x_FVC, place_F + gap, phases, tiles + 1)
        weight_NCO = torch.einsum("nt,toc->nco", weights_NT, weight_TOC.float())
        out_PL = torch.empty(phases, tiles * joints * outputs)
        ctx.chunks = list(chunks(tiles, ELEMENTS // (phases * joints * channels)))
        for some in ctx.chunks:
            points_NRO = _to_points(inputs_2NP, x_PL, some, (joints, channels)) @ weight_NCO
            torch.mm(outputs_PN, points_NRO.flatten(1), out=_of(out_PL, some, joints * outputs))
        ctx.sizes, ctx.tiles = (joints, channels, outputs), tiles
        ctx.save_for_backward(x_PL, place_F, weight_TOC, weight_NCO, bias_O)
        return _by_frame(out_PL, place_F, (joints, outputs)).add_(bias_O.float()).to(x_FVC.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_FVO: Tensor):
        """The gradients; those of parameters are summed in float32."""
        x_PL, place_F, weight_TOC, weight_NCO, bias_O = ctx.saved_tensors
        (joints, channels, outputs), (inputs_2NP, weights_NT, outputs_PN) = ctx.sizes, _transforms(len(weight_TOC))
        grad_PL = _by_phase(grad_FVO, place_F, len(outputs_PN), ctx.tiles)
        grad_x_PL, grad_weight_NCO = torch.zeros_like(x_PL), torch.zeros_like(weight_NCO)
        for some in ctx.chunks:
            grad_NRO = (outputs_PN.T @ _of(grad_PL, some, joints * outputs)).view(len(weight_NCO), -1, outputs)
            grad_weight_NCO.baddbmm_(_to_points(inputs_2NP, x_PL, some, (joints, channels)).mT, grad_NRO)
            grad_points = (grad_NRO @ weight_NCO.mT).flatten(1)
            for ahead, inputs_NP in enumerate(inputs_2NP):
                _of(grad_x_PL, some, joints * channels, ahead).addmm_(inputs_NP.T, grad_points)
        grad_x_FVC = _by_frame(grad_x_PL, place_F + len(weight_TOC) // 2, (joints, channels)).to(grad_FVO.dtype)
        grad_weight_TOC = torch.einsum("nt,nco->toc", weights_NT, grad_weight_NCO).to(weight_TOC.dtype)
        return grad_x_FVC, None, grad_weight_TOC, grad_FVO.sum((0, 1), dtype=torch.float32).to(bias_O.dtype)


def _of(x_PL: Tensor, tiles: slice, width: int, ahead: int = 0) -> Tensor:
    """The columns of these tiles, or of the next ones, as a view."""
    return x_PL[:, (tiles.start + ahead) * width : (tiles.stop + ahead) * width]


def _to_points(inputs_2NP: Tensor, x_PL: Tensor, tiles: slice, sizes: tuple[int, int]) -> Tensor:
    """The input at the N points, [N, R, C]; a row is a tile and a joint."""
    own, following = (_of(x_PL, tiles, sizes[0] * sizes[1], ahead) for ahead in (0, 1))
    return (inputs_2NP[0] @ own).addmm_(inputs_2NP[1], following).view(len(inputs_2NP[0]), -1, sizes[1])


def _by_phase(x_FVC: Tensor, place_F: Tensor, phases: int, tiles: int) -> Tensor:
    """The frames in phases: [P, tiles * V * C] float32, zero where there is no frame."""
    x = torch.zeros(phases * tiles, *x_FVC.shape[1:])
    return x.index_copy_(0, place_F % phases * tiles + place_F // phases, x_FVC.float()).view(phases, -1)


def _by_frame(x_PL: Tensor, place_F: Tensor, shape: tuple[int, int]) -> Tensor:
    """The inverse of `_by_phase`: [F, *shape]."""
    phases, tiles = len(x_PL), x_PL.shape[1] // (shape[0] * shape[1])
    return x_PL.view(phases * tiles, *shape).index_select(0, place_F % phases * tiles + place_F // phases)


def temporal_conv(
    x: DeferredActivation, clips: Clips, weight_TOC: Tensor, bias_O: Tensor, batch_stats: bool
) -> ConvOutput:
    """See kernels/temporal_conv/reference.py; kernel sizes up to `MAX_KERNEL_SIZE`."""
    out_FVO = _TemporalConv.apply(deferred_activation(x), clips.cu_seqlens, weight_TOC, bias_O)
    return with_batch_stats(out_FVO, batch_stats)
