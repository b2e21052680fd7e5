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
    def backward(ctx, *of_ys_RO: Tensor):
        """Of x, of the norm's scale and of the weights."""
        x_RM, inverse_R1, scale_M, *weights_OM = ctx.saved_tensors
        of_normed_RM = of_ys_RO[0] @ weights_OM[0]
        for of_y_RO, weight_OM in zip(of_ys_RO[1:], weights_OM[1:]):
            of_normed_RM.addmm_(of_y_RO, weight_OM)
        unit_RM = x_RM * inverse_R1  # rows of mean square 1
        normed_RM = (unit_RM * scale_M).to(x_RM.dtype)
        of_weights_OM = [of_y_RO.T @ normed_RM for of_y_RO in of_ys_RO]
        of_scale_M = (unit_RM * of_normed_RM).sum(0).to(scale_M.dtype)
        of_unit_RM = of_normed_RM.to(unit_RM.dtype) * scale_M
        along_R1 = (of_unit_RM * unit_RM).mean(1, keepdim=True)
        of_x_RM = of_unit_RM.sub_(unit_RM.mul_(along_R1)).mul_(inverse_R1)
        return of_x_RM.to(x_RM.dtype), of_scale_M, None, *of_weights_OM
