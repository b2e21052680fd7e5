"""The smoothed cross entropy of a large vocabulary without its logits (equation 5).

mT5 has 250,112 classes: for 800 target tokens the logits are 0.8 GB in float32, and three such tensors are alive at
once. Here a few tokens are looked at at a time, and their part of the gradients is taken at once, so that no logits are
kept and none are computed twice. The sum is that of torch's cross_entropy.
"""

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

CHUNK_BYTES = 64 * 2**20  # of the logits of a chunk of tokens in float32; two such tensors are alive at a time


def vocabulary_loss(hidden_LD: Tensor, weight_WD: Tensor, labels_L: Tensor, smoothing: float) -> Tensor:
    """Sum over tokens of the smoothed cross entropy of softmax(hidden @ weight.T), a float32 scalar.

    hidden and weight of one dtype; labels int64 in [0, W). The backward pass can run once.
    """
    return _VocabularyLoss.apply(hidden_LD, weight_WD, labels_L, smoothing)


class _VocabularyLoss(Function):
    @staticmethod
    def forward(ctx, hidden_LD: Tensor, weight_WD: Tensor, labels_L: Tensor, smoothing: float) -> Tensor:
        """The loss, and the gradients for an upstream of 1: [L, D] and [W, D], where they are asked for."""
        for_hidden, for_weight = ctx.needs_input_grad[:2]
        hidden_grad_LD = torch.empty_like(hidden_LD) if for_hidden else None
        weight_grad_WD = torch.empty_like(weight_WD) if for_weight else None
        loss = hidden_LD.new_zeros((), dtype=torch.float32)
        for number, rows in enumerate(_chunks(len(hidden_LD), len(weight_WD))):
            hidden_CD, label_C1 = hidden_LD[rows], labels_L[rows, None]
            logits_CW = (hidden_CD @ weight_WD.T).float()
            log_normaliser_C1 = logits_CW.logsumexp(1, keepdim=True)
            wanted_C1 = (1 - smoothing) * logits_CW.gather(1, label_C1)
            if smoothing:
                wanted_C1 += smoothing * logits_CW.mean(1, keepdim=True)
            loss += (log_normaliser_C1 - wanted_C1).sum()
            if not (for_hidden or for_weight):
                continue
            grad_CW = logits_CW.sub_(log_normaliser_C1).exp_()
            if smoothing:
                grad_CW -= smoothing / len(weight_WD)
            grad_CW = grad_CW.scatter_add_(1, label_C1, torch.full_like(wanted_C1, smoothing - 1)).to(hidden_LD.dtype)
            if for_hidden:
                torch.mm(grad_CW, weight_WD, out=hidden_grad_LD[rows])
            if for_weight and number == 0:
                torch.mm(grad_CW.T, hidden_CD, out=weight_grad_WD)
            elif for_weight:
                weight_grad_WD.addmm_(grad_CW.T, hidden_CD)
        ctx.save_for_backward(hidden_grad_LD, weight_grad_WD)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor):
        # In place, for the room; a second call would find its saved tensors changed, which autograd refuses.
        grads = [None if grad is None else grad.mul_(upstream) for grad in ctx.saved_tensors]
        return *grads, None, None


def _chunks(tokens: int, classes: int) -> list[slice]:
    """As few as the size of a chunk allows, and even."""
    count = max(1, -(-tokens * classes * 4 // CHUNK_BYTES))
    size = -(-tokens // count)
    return [slice(start, start + size) for start in range(0, tokens, max(1, size))]
