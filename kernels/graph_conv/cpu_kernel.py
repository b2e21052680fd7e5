"""Graph convolution on a CPU, in chunks of frames: aggregated neighbors, K times the size of x, never reach memory."""

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from ..cpu.chunks import frame_chunks
from ..deferred_activation.cpu_kernel import deferred_activation
from ..deferred_activation.reference import DeferredActivation, with_batch_stats
from .reference import GraphConvOutput


class _GraphConv(Function):
    @staticmethod
    def forward(ctx, x_FVC: Tensor, adjacency_KVV: Tensor, weight_KOC: Tensor, bias_VO: Tensor) -> Tensor:
        ctx.save_for_backward(x_FVC, adjacency_KVV, weight_KOC)
        aggregate_UV, mix_MO = _matrices(adjacency_KVV, weight_KOC)
        out_FVO = x_FVC.new_empty(*x_FVC.shape[:2], mix_MO.shape[1])
        for frames in frame_chunks(x_FVC):
            mixed = (aggregate_UV @ x_FVC[frames].float()).view(-1, len(mix_MO)) @ mix_MO
            torch.add(mixed.view(out_FVO[frames].shape), bias_VO, out=out_FVO[frames])
        return out_FVO

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_FVO: Tensor):
        """The gradients; those of parameters are summed in float32."""
        x_FVC, adjacency_KVV, weight_KOC = ctx.saved_tensors
        aggregate_UV, mix_MO = _matrices(adjacency_KVV, weight_KOC)
        grad_x_FVC = torch.empty_like(x_FVC, memory_format=torch.contiguous_format)
        grad_aggregate_VU, grad_mix_OM = torch.zeros_like(aggregate_UV.T), torch.zeros_like(mix_MO.T)
        for frames in frame_chunks(x_FVC):
            some_FVC, grad_RO = x_FVC[frames].float(), grad_FVO[frames].float().flatten(0, 1)
            grad_FUC = (grad_RO @ mix_MO.T).view(len(some_FVC), len(aggregate_UV), some_FVC.shape[2])
            grad_x_FVC[frames] = aggregate_UV.T @ grad_FUC
            grad_mix_OM.addmm_(grad_RO.T, (aggregate_UV @ some_FVC).view(-1, len(mix_MO)))
            grad_aggregate_VU += (some_FVC @ grad_FUC.mT).sum(0)
        hops = len(adjacency_KVV)
        grad_adjacency_KVV = grad_aggregate_VU.unflatten(1, (-1, hops)).permute(2, 0, 1).to(adjacency_KVV.dtype)
        grad_weight_KOC = grad_mix_OM.unflatten(1, (hops, -1)).transpose(0, 1).to(weight_KOC.dtype)
        return grad_x_FVC, grad_adjacency_KVV, grad_weight_KOC, grad_FVO.sum(0, dtype=torch.float32)


def _matrices(adjacency_KVV: Tensor, weight_KOC: Tensor) -> tuple[Tensor, Tensor]:
    """aggregate_UV and mix_MO, float32; U = V K, joints and hops, M = K C, hops and input channels."""
    return adjacency_KVV.float().permute(2, 0, 1).flatten(0, 1), weight_KOC.float().transpose(1, 2).flatten(0, 1)


def graph_conv(
    x: DeferredActivation, adjacency_KVV: Tensor, weight_KOC: Tensor, bias_KO: Tensor,
    shortcut: tuple[Tensor, Tensor] | None, batch_stats: bool,
) -> GraphConvOutput:  # fmt: skip
    """See kernels/graph_conv/reference.py."""
    x_FVC = deferred_activation(x)
    bias_VO = adjacency_KVV.sum(1, dtype=torch.float32).T @ bias_KO.float()
    out = with_batch_stats(_GraphConv.apply(x_FVC, adjacency_KVV, weight_KOC, bias_VO), batch_stats)
    return GraphConvOutput(x_FVC, out, shortcut and with_batch_stats(linear(x_FVC, *shortcut), batch_stats))
