"""A residual sum and the RMS norm after it: the operation that the model calls."""

from torch import Tensor

from ..dispatch import Operation
from ..launch import contiguous, operator
from .reference import residual_rms_norm as reference
from .reference import rms_norm


@operator("residual_rms_norm")
def _forward(
    x_RM: Tensor, branch_RM: Tensor, scale_M: Tensor, eps: float, p: float, seed: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    from .triton_kernel import forward

    x_RM, branch_RM, scale_M = contiguous([x_RM, branch_RM, scale_M])
    return forward(x_RM, branch_RM, scale_M, eps, p, seed)


@operator("residual_rms_norm_backward")
def _backward(
    grad_z_RM: Tensor | None, grad_y_RM: Tensor, z_RM: Tensor, rstd_R: Tensor, scale_M: Tensor, p: float,
    seed: Tensor | None,
) -> list[Tensor]:  # fmt: skip
    from .triton_kernel import backward

    grad_z_RM = None if grad_z_RM is None else grad_z_RM.contiguous()
    grad_y_RM, z_RM, scale_M = contiguous([grad_y_RM, z_RM, scale_M])
    return backward(grad_z_RM, grad_y_RM, z_RM, rstd_R, scale_M, p, seed)


def _save(ctx, inputs, output) -> None:
    *_, scale_M, _, ctx.p, seed = inputs
    z_RM, _, rstd_R = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(z_RM, rstd_R, scale_M, seed)


def _gradients(ctx, grad_z_RM: Tensor | None, grad_y_RM: Tensor | None, _):
    z_RM, rstd_R, scale_M, seed = ctx.saved_tensors
    grad_y_RM = z_RM.new_zeros(z_RM.shape) if grad_y_RM is None else grad_y_RM
    return *_backward(grad_z_RM, grad_y_RM, z_RM, rstd_R, scale_M, ctx.p, seed), None, None, None


_forward.register_autograd(_gradients, setup_context=_save)


def _gpu(
    x_RM: Tensor, branch_RM: Tensor, scale_M: Tensor, eps: float, p: float, seed: Tensor | None
) -> tuple[Tensor, Tensor]:
    assert seed is not None or not p, "dropout on a GPU needs a seed"
    z_RM, y_RM, _ = _forward(x_RM, branch_RM, scale_M, eps, p, seed)
    return z_RM, y_RM


def _cpu(
    x_RM: Tensor, branch_RM: Tensor, scale_M: Tensor, eps: float, p: float, seed: Tensor | None
) -> tuple[Tensor, Tensor]:
    from ..dropout.cpu_kernel import dropout

    z_RM = x_RM + dropout(branch_RM, p)
    return z_RM, rms_norm(z_RM, scale_M, eps)


residual_rms_norm = Operation("residual_rms_norm", reference, _gpu, refusal=lambda *_: None, cpu=_cpu)
