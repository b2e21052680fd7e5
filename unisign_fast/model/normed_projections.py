"""Linear projections of one normalised input on a CPU: of the norm, only what it normalises is kept.

Plain PyTorch keeps the input, the input times its inverse root mean square, and that times the norm's scale. The latter
two follow from the first for little work.

R rows; M model width, O that of a projection.
"""

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def normed_projections(x_RM: Tensor, scale_M: Tensor, eps: float, *weights_OM: Tensor) -> tuple[Tensor, ...]:
    """[R, O] each: y W^T for every weight, of y = x / sqrt(mean(x^2) + eps) * scale (mT5's layer norm)."""
    return _NormedProjections.apply(x_RM, scale_M, eps, *weights_OM)


class _NormedProjections(Function):
    @staticmethod
    def forward(ctx, x_RM, scale_M, eps: float, *weights_OM):
        exact = torch.promote_types(x_RM.dtype, torch.float32)
        inverse_R1 = (x_RM.to(exact).square().mean(1, keepdim=True) + eps).rsqrt()
        normed_RM = (x_RM * inverse_R1).mul_(scale_M).to(x_RM.dtype)
        ctx.save_for_backward(x_RM, inverse_R1, scale_M, *weights_OM)
        return tuple(normed_RM @ weight_OM.T for weight_OM in weights_OM)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grad_ys_RO: Tensor):
        """Of x, of the norm's scale and of the weights."""
        x_RM, inverse_R1, scale_M, *weights_OM = ctx.saved_tensors
        grad_normed_RM = grad_ys_RO[0] @ weights_OM[0]
        for grad_y_RO, weight_OM in zip(grad_ys_RO[1:], weights_OM[1:]):
            grad_normed_RM.addmm_(grad_y_RO, weight_OM)
        unit_RM = x_RM * inverse_R1  # rows of mean square 1
        normed_RM = (unit_RM * scale_M).to(x_RM.dtype)
        grad_weights_OM = [grad_y_RO.T @ normed_RM for grad_y_RO in grad_ys_RO]
        grad_scale_M = (unit_RM * grad_normed_RM).sum(0).to(scale_M.dtype)
        grad_unit_RM = grad_normed_RM.to(unit_RM.dtype) * scale_M
        along_R1 = (grad_unit_RM * unit_RM).mean(1, keepdim=True)
        grad_x_RM = grad_unit_RM.sub_(unit_RM.mul_(along_R1)).mul_(inverse_R1)
        return grad_x_RM.to(x_RM.dtype), grad_scale_M, None, *grad_weights_OM
