"""Graph convolution on a CPU, some frames at a time (kernels/deferred_activation/cpu_kernel.py).

What is aggregated over the joints, K times the size of x, never reaches memory: the backward pass aggregates again,
which costs V / O of the product with the weight.

R rows (frame, joint) at a time; U = V K, joints and hops; M = K C, hops and input channels.
"""

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from ..deferred_activation.cpu_kernel import (
    Activated,
    ActivationGradient,
    OutputGradient,
    frames_at_once,
    with_batch_stats,
)
from ..deferred_activation.reference import ConvOutput, DeferredActivation
from .reference import GraphConvOutput


class _GraphConv(Function):
    """The output, its batch_stats if they are asked for, and x_FVC where it is computed; None for the others."""

    @staticmethod
    def forward(ctx, relu_before_residual: bool, batch_stats: bool, adjacency_KVV, weight_KOC, bias_VO, *tensors):
        """tensors: the six of an `DeferredActivation`."""
        x, dtype = Activated(DeferredActivation(*tensors, relu_before_residual)), tensors[0].dtype
        x_FVC = x.conv_out_FVC if x.plain else torch.empty(x.shape)
        out_FVO = torch.empty(*x_FVC.shape[:2], weight_KOC.shape[1])
        aggregate_UV, mix_MO = _matrices(adjacency_KVV, weight_KOC)
        for frames in frames_at_once(x_FVC):
            if not x.plain:
                x.write(frames, x_FVC[frames])
            mixed_RO = _aggregated(aggregate_UV, x_FVC[frames], len(mix_MO)) @ mix_MO
            torch.add(mixed_RO.view(out_FVO[frames].shape), bias_VO, out=out_FVO[frames])
        out, x_FVC = with_batch_stats(out_FVO, batch_stats, dtype), tensors[0] if x.plain else x_FVC.to(dtype)
        ctx.set_materialize_grads(False)
        ctx.relu_before_residual = relu_before_residual
        ctx.save_for_backward(x_FVC, adjacency_KVV, weight_KOC, *out, *tensors)
        return *out, None if x.plain else x_FVC

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor | None):
        """One for each argument of `forward`; those of parameters are summed in float32."""
        x_FVC, adjacency_KVV, weight_KOC, *saved = ctx.saved_tensors
        *grad_out, grad_x_FVC = gradients
        grad_out = OutputGradient(ConvOutput(*saved[:3]), grad_out)
        result = ActivationGradient(DeferredActivation(*saved[3:], ctx.relu_before_residual), torch.empty(x_FVC.shape))
        aggregate_UV, mix_MO = _matrices(adjacency_KVV, weight_KOC)
        grad_aggregate_VU, grad_mix_OM = torch.zeros_like(aggregate_UV.T), torch.zeros_like(mix_MO.T)
        grad_bias_VO = mix_MO.new_zeros(x_FVC.shape[1], mix_MO.shape[1])
        for frames in frames_at_once(x_FVC):
            some_FVC, grad_FVO = x_FVC[frames].float(), grad_out.of(frames)
            grad_RO = grad_FVO.flatten(0, 1)
            grad_aggregated_FUC = (grad_RO @ mix_MO.T).view(len(some_FVC), len(aggregate_UV), -1)
            of_some_FVC = torch.matmul(aggregate_UV.T, grad_aggregated_FUC, out=result.grad_FVC[frames])
            if grad_x_FVC is not None:
                of_some_FVC += grad_x_FVC[frames]
            result.apply_backward(frames)
            grad_bias_VO += grad_FVO.sum(0)
            grad_mix_OM.addmm_(grad_RO.T, _aggregated(aggregate_UV, some_FVC, len(mix_MO)))
            grad_aggregate_VU += (some_FVC @ grad_aggregated_FUC.mT).sum(0)
        hops = len(adjacency_KVV)
        grad_adjacency_KVV = grad_aggregate_VU.unflatten(1, (-1, hops)).permute(2, 0, 1).to(adjacency_KVV.dtype)
        grad_weight_KOC = grad_mix_OM.unflatten(1, (hops, -1)).transpose(0, 1).to(weight_KOC.dtype)
        return None, None, grad_adjacency_KVV, grad_weight_KOC, grad_bias_VO, *result.result()


def _matrices(adjacency_KVV: Tensor, weight_KOC: Tensor) -> tuple[Tensor, Tensor]:
    """aggregate_UV and mix_MO, float32."""
    return adjacency_KVV.float().permute(2, 0, 1).flatten(0, 1), weight_KOC.float().transpose(1, 2).flatten(0, 1)


def _aggregated(aggregate_UV: Tensor, x_FVC: Tensor, hop_channels: int) -> Tensor:
    """[R, M]: of each joint, its neighbours' sum for every hop."""
    return (aggregate_UV @ x_FVC).view(-1, hop_channels)


class _Pointwise(Function):
    """The 1x1 convolution of a shortcut, with batch_stats if they are asked for, otherwise None."""

    @staticmethod
    def forward(ctx, batch_stats: bool, x_FVC, weight_OC, bias_O):
        out_FVO = torch.empty(*x_FVC.shape[:2], len(weight_OC))
        for frames in frames_at_once(x_FVC):
            out_FVO[frames] = linear(x_FVC[frames].float(), weight_OC.float(), bias_O.float())
        out = with_batch_stats(out_FVO, batch_stats, x_FVC.dtype)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x_FVC, weight_OC, bias_O, *out)
        return tuple(out)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor | None):
        x_FVC, weight_OC, bias_O, *saved = ctx.saved_tensors
        grad_out = OutputGradient(ConvOutput(*saved), gradients)
        grad_x_FVC = torch.empty_like(x_FVC, memory_format=torch.contiguous_format)
        grad_weight_OC, grad_bias_O = (torch.zeros_like(x, dtype=torch.float32) for x in (weight_OC, bias_O))
        for frames in frames_at_once(x_FVC):
            grad_RO = grad_out.of(frames).flatten(0, 1)
            grad_x_FVC[frames] = (grad_RO @ weight_OC.float()).view(grad_x_FVC[frames].shape)
            grad_weight_OC.addmm_(grad_RO.T, x_FVC[frames].float().flatten(0, 1))
            grad_bias_O += grad_RO.sum(0)
        return None, grad_x_FVC, grad_weight_OC.to(weight_OC.dtype), grad_bias_O.to(bias_O.dtype)


def graph_conv(
    x: DeferredActivation,
    adjacency_KVV: Tensor,
    weight_KOC: Tensor,
    bias_KO: Tensor,
    shortcut: tuple[Tensor, Tensor] | None,
    batch_stats: bool,
) -> GraphConvOutput:
    """See kernels/graph_conv/reference.py."""
    bias_VO = adjacency_KVV.sum(1, dtype=torch.float32).T @ bias_KO.float()
    *out, x_FVC = _GraphConv.apply(x.relu_before_residual, batch_stats, adjacency_KVV, weight_KOC, bias_VO, *x.slots())
    x_FVC = x.conv_out_FVC if x_FVC is None else x_FVC
    beside = None if shortcut is None else ConvOutput(*_Pointwise.apply(batch_stats, x_FVC, *shortcut))
    return GraphConvOutput(x_FVC, ConvOutput(*out), beside)
