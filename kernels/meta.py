"""Meta tensors through the fused operators of CUDA, to count launches and memory without a GPU.

torch dispatches dropout, RMS norm and attention by device; meta tensors get compositions of small operators.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class FusedAsOnCuda(TorchFunctionMode):
    """Sends dropout, RMS norm and attention to the fused operators that CUDA tensors take; meta tensors would take
    compositions of small ones.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is functional.dropout:
            return _dropout(*args, **kwargs)
        if func is functional.rms_norm:
            return _rms_norm(*args, **kwargs)
        if func is functional.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        return func(*args, **kwargs)


def _dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return torch.native_dropout(x, p, True)[0] if training and p > 0 else x


@torch.library.custom_op("unisign_fast_meta::rms_norm", mutates_args=())
def _fused_rms_norm(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """One kernel on CUDA, which also returns the reciprocal RMS of each row."""
    return torch.empty_like(x), x.new_empty(x.shape[:-1], dtype=torch.float32)


@torch.library.custom_op("unisign_fast_meta::rms_norm_backward", mutates_args=())
def _fused_rms_norm_backward(grad_y: Tensor, x: Tensor, root: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Two kernels on CUDA: the gradient of x, and that of the weight."""
    return torch.empty_like(x), torch.empty_like(weight)


_fused_rms_norm.register_fake(_fused_rms_norm._init_fn)
_fused_rms_norm_backward.register_fake(_fused_rms_norm_backward._init_fn)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        y, root = _fused_rms_norm(x, weight)
        ctx.save_for_backward(x, root, weight)
        return y

    @staticmethod
    def backward(ctx, grad_y: Tensor) -> tuple[Tensor, Tensor]:
        return _fused_rms_norm_backward(grad_y, *ctx.saved_tensors)


def _rms_norm(x: Tensor, shape: Sequence[int], weight: Tensor, eps: float | None = None) -> Tensor:
    return _RMSNorm.apply(x, weight)


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    bias = None if attn_mask is None else attn_mask.expand(*q.shape[:3], k.shape[2])
    operator = torch.ops.aten._scaled_dot_product_efficient_attention
    return operator(q, k, v, bias, q.requires_grad, dropout_p, is_causal, scale=scale)[0]
