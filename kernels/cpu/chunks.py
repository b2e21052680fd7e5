"""Runs operations in chunks that fit into a CPU's cache; the backward pass recomputes each chunk."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

ELEMENTS = 2**19  # elements of a chunk: 2 MiB in float32 of the cache that the cores share
Tensors = Sequence[Tensor | None]


def chunks(count: int, size: int) -> Iterator[slice]:
    """Slices of `size` items, at least one item each; one empty slice if there are no items."""
    return (slice(first, min(first + max(1, size), count)) for first in range(0, max(1, count), max(1, size)))


def frame_chunks(x_FVC: Tensor) -> Iterator[slice]:
    """Slices of frames whose activations fit the cache together."""
    return chunks(len(x_FVC), ELEMENTS // x_FVC.shape[1:].numel())


def in_chunks(function: Callable[..., Tensor], slices: Iterator[slice], split: Tensors, shared: Tensors) -> Tensor:
    """function(*split, *shared), computed slice by slice of the tensors in `split`; only inputs are saved."""
    return _InChunks.apply(function, list(slices), len(split), *split, *shared)


class _InChunks(Function):
    @staticmethod
    def forward(ctx, function, slices: list[slice], count: int, *tensors: Tensor | None) -> Tensor:
        ctx.function, ctx.slices, ctx.count = function, slices, count
        ctx.save_for_backward(*tensors)
        first = function(*_chunk(tensors, slices[0], count))
        y = first.new_empty(slices[-1].stop, *first.shape[1:])
        for rows in slices:
            y[rows] = first if rows is slices[0] else function(*_chunk(tensors, rows, count))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y: Tensor):
        """Gradients of shared tensors are summed in float32."""
        tensors, needed = ctx.saved_tensors, [i for i, needs in enumerate(ctx.needs_input_grad[3:]) if needs]
        grads = [torch.zeros(tensors[i].shape, dtype=tensors[i].dtype if i < ctx.count else None) for i in needed]
        for rows in ctx.slices:
            inputs = [None if t is None else t.detach() for t in _chunk(tensors, rows, ctx.count)]
            leaves = [leaf.requires_grad_() for i in needed if (leaf := inputs[i]) is not None]
            with torch.enable_grad():
                y = ctx.function(*inputs)
            for i, grad, chunk_grad in zip(needed, grads, torch.autograd.grad(y, leaves, grad_y[rows])):
                if i < ctx.count:
                    grad[rows] = chunk_grad
                else:
                    grad += chunk_grad
        result = {i: grad.to(tensors[i].dtype) for i, grad in zip(needed, grads)}
        return None, None, None, *map(result.get, range(len(tensors)))


def _chunk(tensors: Tensors, rows: slice, count: int) -> list[Tensor | None]:
    return [t[rows] if t is not None and i < count else t for i, t in enumerate(tensors)]
