"""The cross entropy of a large vocabulary: the operation that the model calls."""

from typing import Any

import torch
from torch import Tensor

from ..dispatch import Operation
from .chunked import chunked_cross_entropy
from .reference import cross_entropy as reference

CPU_CHUNK_BYTES = 64 * 2**20
# A chunk reads the weight twice, and reads and writes its float32 gradient: 2.3 GB at mT5's vocabulary. 1 GiB of logits
# is 2,146 tokens in bfloat16, with 2.5 TFLOP of products. Predicted: the weight's traffic takes a fifth of their time.
GPU_CHUNK_BYTES = 2**30


@torch.library.custom_op("unisign_fast::add_product", mutates_args=("sum_WD",), device_types="cuda")
def _add_product(sum_WD: Tensor, grad_CW: Tensor, hidden_CD: Tensor) -> None:
    """sum += grad^T hidden in float32; products of bfloat16 factors are not rounded in between."""
    if grad_CW.dtype == sum_WD.dtype:
        sum_WD.addmm_(grad_CW.T, hidden_CD)
    else:
        torch.ops.aten.addmm.dtype_out(sum_WD, grad_CW.T, hidden_CD, sum_WD.dtype, out=sum_WD)


@_add_product.register_kernel("cpu")
def _add_product_on_cpu(sum_WD: Tensor, grad_CW: Tensor, hidden_CD: Tensor) -> None:
    sum_WD.addmm_(grad_CW.T.to(sum_WD.dtype), hidden_CD.to(sum_WD.dtype))


@_add_product.register_fake
def _(sum_WD: Tensor, grad_CW: Tensor, hidden_CD: Tensor) -> None:
    return None


def _plain_softmax_gradient(logits_CW: Tensor, labels_C: Tensor, smoothing: float) -> Tensor:
    """kernels/cross_entropy/triton_kernel.py in plain PyTorch, without a second tensor as large as float32 logits."""
    exact_CW, label_C1 = logits_CW.float(), labels_C[:, None]
    log_normalizer_C1 = exact_CW.logsumexp(1, keepdim=True)
    wanted_C1 = (1 - smoothing) * exact_CW.gather(1, label_C1)
    if smoothing:
        wanted_C1 += smoothing * exact_CW.mean(1, keepdim=True)
    losses_C1 = log_normalizer_C1 - wanted_C1
    grad_CW = exact_CW.sub_(log_normalizer_C1).exp_()
    if smoothing:
        grad_CW -= smoothing / grad_CW.shape[1]
    grad_CW.scatter_add_(1, label_C1, torch.full_like(wanted_C1, smoothing - 1))
    if grad_CW is not logits_CW:
        logits_CW.copy_(grad_CW)
    return losses_C1.squeeze(1)


def _gpu(hidden_LD: Tensor, weight_WD: Tensor, *rest: Any) -> Tensor:
    from .triton_kernel import softmax_gradient

    inputs = hidden_LD.contiguous(), weight_WD.contiguous(), *rest
    return chunked_cross_entropy(GPU_CHUNK_BYTES, softmax_gradient, _add_product, *inputs)


def _cpu(*arguments: Any) -> Tensor:
    return chunked_cross_entropy(CPU_CHUNK_BYTES, _plain_softmax_gradient, _add_product_on_cpu, *arguments)


cross_entropy = Operation("cross_entropy", reference, _gpu, cpu=_cpu)
