"""Rows by their index: the operation that attention calls."""

from torch import Tensor

from ..dispatch import Operation
from ..launch import operator
from .reference import gather_rows as reference


@operator("gather_rows")
def _gather(x_RW: Tensor, index_N: Tensor, inverse_R: Tensor) -> Tensor:
    from .triton_kernel import gather_rows

    return gather_rows(x_RW.contiguous(), index_N)


def _save(ctx, inputs, output) -> None:
    _, *indices = inputs
    ctx.save_for_backward(*indices)


def _gradients(ctx, grad_NW: Tensor):
    index_N, inverse_R = ctx.saved_tensors
    return _gather(grad_NW, inverse_R, index_N), None, None


_gather.register_autograd(_gradients, setup_context=_save)

gather_rows = Operation("gather_rows", reference, _gather, refusal=lambda *_: None)
