"""Continuous position bias on a CPU, some crops at a time (kernels/deferred_activation/cpu_kernel.py).

The hidden units of all pairs, H times the size of the output, never reach memory: the backward pass computes them
again.

R rows: the pairs of a turn's crops, groups and joints.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ..deferred_activation.cpu_kernel import turns

ROWS_AT_ONCE = 16384  # pairs; 4 MiB in float32 at 64 hidden units, of the cache that cores share

Layer = tuple[Tensor, Tensor]  # weight and bias


class _PositionBias(Function):
    @staticmethod
    def forward(ctx, reference_NV2: Tensor, position_NGV2: Tensor, *tensors: Tensor) -> Tensor:
        """tensors: weight and bias, layer by layer."""
        crops, groups, joints, _ = position_NGV2.shape
        bias_NGVV = position_NGV2.new_empty(crops, groups, joints, joints)
        layers = _layers(tensors)
        for turn in _turns(bias_NGVV):
            *_, hidden_RH = _inputs(layers, _distance(reference_NV2[turn], position_NGV2[turn]))
            weight, bias = layers[-1]
            bias_NGVV[turn] = torch.addmm(bias, hidden_RH, weight.T).view(bias_NGVV[turn].shape)
        ctx.save_for_backward(reference_NV2, position_NGV2, *tensors)
        return bias_NGVV

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_bias_NGVV: Tensor):
        """One for each argument of `forward`; those of the layers are summed in float32."""
        reference_NV2, position_NGV2, *tensors = ctx.saved_tensors
        grad_reference_NV2, grad_position_NGV2 = torch.empty_like(reference_NV2), torch.empty_like(position_NGV2)
        grad_tensors = [torch.zeros_like(tensor, dtype=torch.float32) for tensor in tensors]
        layers, grad_layers = _layers(tensors), list(zip(grad_tensors[::2], grad_tensors[1::2]))
        for turn in _turns(grad_bias_NGVV):
            distance_2NGVV = _distance(reference_NV2[turn], position_NGV2[turn])
            inputs = _inputs(layers, distance_2NGVV)
            grad = grad_bias_NGVV[turn].float().reshape(-1, 1)
            for (weight, _), (grad_weight, grad_bias), x in zip(
                reversed(layers), reversed(grad_layers), reversed(inputs)
            ):
                grad_weight.T.addmm_(x.T, grad)
                grad_bias += grad.sum(0)
                grad = grad @ weight
                if x is not inputs[0]:
                    grad = torch.ops.aten.threshold_backward(grad, x, 0.0)
            grad_distance_2NGVV = grad.T.reshape(distance_2NGVV.shape) * _slope(distance_2NGVV)
            grad_reference_NV2[turn] = grad_distance_2NGVV.sum((2, 4)).movedim(0, -1)
            grad_position_NGV2[turn] = -grad_distance_2NGVV.sum(3).movedim(0, -1)
        grad_tensors = [grad.to(tensor.dtype) for grad, tensor in zip(grad_tensors, tensors)]
        return grad_reference_NV2, grad_position_NGV2, *grad_tensors


def _layers(tensors: tuple[Tensor, ...]) -> list[Layer]:
    """In float32, a layer at a time."""
    exact = [tensor.float() for tensor in tensors]
    return list(zip(exact[::2], exact[1::2]))


def _turns(bias_NGVV: Tensor) -> Iterator[slice]:
    """Slices of crops whose pairs fit the cache together."""
    crops, *pairs = bias_NGVV.shape
    return turns(crops, ROWS_AT_ONCE // torch.Size(pairs).numel())


def _distance(reference_NV2: Tensor, position_NGV2: Tensor) -> Tensor:
    """[2, n, G, V, V]: from the position of joint j to joint i."""
    reference_2NV, position_2NGV = reference_NV2.float().movedim(-1, 0), position_NGV2.float().movedim(-1, 0)
    return reference_2NV[:, :, None, :, None] - position_2NGV[:, :, :, None]


def _inputs(layers: list[Layer], distance_2NGVV: Tensor) -> list[Tensor]:
    """Of every layer, each [R, *]."""
    rows = [(distance_2NGVV.sign() * distance_2NGVV.abs().log1p_()).flatten(1).T]
    for weight, bias in layers[:-1]:
        rows.append(torch.addmm(bias, rows[-1], weight.T).clamp_min_(0))
    return rows


def _slope(distance: Tensor) -> Tensor:
    """The derivative of sign(d) ln(|d| + 1); zero at zero, as autograd has it."""
    return distance.sign().square_() / (distance.abs() + 1)


def position_bias(reference_NV2: Tensor, position_NGV2: Tensor, layers: list[Layer]) -> Tensor:
    """See kernels/position_bias/reference.py."""
    return _PositionBias.apply(reference_NV2, position_NGV2, *(tensor for layer in layers for tensor in layer))
