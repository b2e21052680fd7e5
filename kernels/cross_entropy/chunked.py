"""The cross entropy of a large vocabulary in chunks of tokens: logits are neither saved nor computed twice.

mT5 has 250,112 classes: for 800 target tokens the logits are 0.8 GB in float32, and three such tensors are alive at
once. Here the forward pass computes a chunk's gradients while its logits exist. The weight's gradient is
summed over chunks in float32.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

# (logits [C, W], labels [C], smoothing) to the losses [C]; the logits become their gradient.
SoftmaxGradient = Callable[[Tensor, Tensor, float], Tensor]
# (sum [W, D] float32, gradient of the logits [C, W], hidden [C, D]): adds the product of the latter two.
AddProduct = Callable[[Tensor, Tensor, Tensor], None]


def chunked_cross_entropy(
    chunk_bytes: int,
    softmax_gradient: SoftmaxGradient,
    add_product: AddProduct,
    hidden_LD: Tensor,
    weight_WD: Tensor,
    labels_L: Tensor,
    smoothing: float,
) -> Tensor:
    """See kernels/cross_entropy/reference.py; `chunk_bytes`: of a chunk's logits. The backward pass can run once."""
    chunks = _chunks(len(hidden_LD), len(weight_WD) * hidden_LD.element_size(), chunk_bytes)
    return _CrossEntropy.apply(hidden_LD, weight_WD, labels_L, smoothing, chunks, softmax_gradient, add_product)


class _CrossEntropy(Function):
    @staticmethod
    def forward(ctx, hidden_LD, weight_WD, labels_L, smoothing, chunks, softmax_gradient, add_product):
        """The loss, and the requested gradients ([L, D] and [W, D]) for an upstream gradient of 1."""
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden_LD = torch.empty_like(hidden_LD) if needs_hidden else None
        grad_weight_WD = torch.zeros_like(weight_WD, dtype=torch.float32) if needs_weight and len(chunks) != 1 else None
        loss = hidden_LD.new_zeros((), dtype=torch.float32)
        for rows in chunks:
            hidden_CD = hidden_LD[rows]
            grad_CW = hidden_CD @ weight_WD.T  # logits first
            loss += softmax_gradient(grad_CW, labels_L[rows], smoothing).sum()
            if grad_hidden_LD is not None:
                torch.mm(grad_CW, weight_WD, out=grad_hidden_LD[rows])
            if needs_weight and len(chunks) == 1:
                grad_weight_WD = grad_CW.T @ hidden_CD
            elif needs_weight:
                add_product(grad_weight_WD, grad_CW, hidden_CD)
        ctx.save_for_backward(grad_hidden_LD, None if grad_weight_WD is None else grad_weight_WD.to(weight_WD.dtype))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor):
        # In place, to save memory; autograd refuses a second call, because its saved tensors have changed.
        grads = [None if grad is None else grad.mul_(upstream) for grad in ctx.saved_tensors]
        return *grads, None, None, None, None, None


def _chunks(tokens: int, token_bytes: int, chunk_bytes: int) -> list[slice]:
    """Slices of tokens of equal length, as few as the chunk size allows."""
    count = max(1, -(-tokens * token_bytes // chunk_bytes))
    size = max(1, -(-tokens // count))
    return [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]
