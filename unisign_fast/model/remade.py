"""Maps that are made again in the backward pass instead of being kept for it, while EfficientNet trains on a CPU.

Two thirds of what it would keep are written by BatchNorm, SiLU and squeeze-and-excitation, and follow from what the
convolutions write for little work.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import conv2d, linear, pad, silu

from unisign_fast.kernels.dispatch import default_backend
from unisign_fast.model.batch_norm import BatchNorm2d
from unisign_fast.model.norm_silu import NormSiLU, moments, norm_silu

SMALL_MAP = 7 * 7  # positions


@dataclass(frozen=True)
class Remade:
    """A map, and how to make it again."""

    tensor: Tensor
    make: Callable[[], Tensor]

    def not_kept(self) -> AbstractContextManager:
        """Operations within the block don't keep the map for their backward pass, but make it again there."""
        address, shape, make = self.tensor.data_ptr(), self.tensor.shape, self.make

        def pack(tensor: Tensor) -> Tensor | Callable[[], Tensor]:
            return make if tensor.data_ptr() == address and tensor.shape == shape else tensor

        return saved_tensors_hooks(pack, lambda kept: kept if isinstance(kept, Tensor) else kept())

    def for_two(self) -> "Remade":
        """The same, where two operations need it again: the second one gets what was made for the first."""
        make, made = self.make, []

        def give() -> Tensor:
            if made:
                return made.pop()
            made.append(make())
            return made[0]

        return replace(self, make=give)


def map_of(x: Tensor | Remade) -> Tensor:
    """The map itself."""
    return x if isinstance(x, Tensor) else x.tensor


def convolved(conv: nn.Conv2d, x: Tensor | Remade) -> Tensor:
    """The convolution of a map.

    Two gradients of weights take the library's CPU version long: of a 1 x 1 convolution of a small map, a plain product
    of positions and channels (1.4 times as long as that product on 7 x 7, five times on a single position); and of a
    map smaller than its kernel (5 x 5 on 4 x 4, four times as long as with its border of zeros written out).
    """
    map_NCHW, padding = map_of(x), conv.padding
    if conv.kernel_size == (1, 1) and not map_NCHW.is_cuda and map_NCHW.shape[2:].numel() <= SMALL_MAP:
        rows = _changed(x, lambda map_NCHW: map_NCHW.movedim(1, -1).flatten(0, 2))
        with _not_kept(rows):
            mixed = linear(map_of(rows), conv.weight.flatten(1), conv.bias)
        return mixed.view(len(map_NCHW), *map_NCHW.shape[2:], conv.out_channels).movedim(-1, 1)
    if isinstance(x, Remade) and min(map_NCHW.shape[2:]) < conv.kernel_size[0]:
        (height, width), padding = padding, 0
        x = _changed(x, lambda map_NCHW: pad(map_NCHW, (width, width, height, height)))
    with _not_kept(x):
        return conv2d(map_of(x), conv.weight, conv.bias, conv.stride, padding, groups=conv.groups)


def _changed(x: Tensor | Remade, change: Callable[[Tensor], Tensor]) -> Tensor | Remade:
    """What `change` makes of the map, to be made again if the map is."""
    if isinstance(x, Tensor):
        return change(x)
    make = x.make
    return Remade(change(x.tensor), lambda: change(make()))


def _not_kept(x: Tensor | Remade) -> AbstractContextManager:
    return nullcontext() if isinstance(x, Tensor) else x.not_kept()


def normalized_silu(norm: nn.Module, raw_NCHW: Tensor, per_part: Sequence[int]) -> Tensor | Remade:
    """SiLU of the normalised map, to be made again where that is possible; see BatchNorm2d for `per_part`."""
    if not _can_be_remade(norm, raw_NCHW, per_part):
        return silu(norm(raw_NCHW, per_part))
    raw_NCHW = raw_NCHW.contiguous(memory_format=torch.channels_last)
    (part,) = (place for place, maps in enumerate(per_part) if maps)
    of_map = moments(raw_NCHW)
    norm.track(*of_map, raw_NCHW[:, 0].numel(), part)
    y_NCHW, scale_C, shift_C = NormSiLU.apply(raw_NCHW, norm.weight, norm.bias, *of_map)
    return Remade(y_NCHW, partial(norm_silu, raw_NCHW.detach(), scale_C, shift_C))  # which holds no graph


def scaled(x: Tensor | Remade, gate_NC11: Tensor) -> Tensor | Remade:
    """The map times a gate for each of its channels."""
    if isinstance(x, Tensor):
        return x * gate_NC11
    x, gate = x.for_two(), gate_NC11.detach()
    make = x.make
    with x.not_kept():
        return Remade(x.tensor * gate_NC11, lambda: make() * gate)


def _can_be_remade(norm: nn.Module, raw_NCHW: Tensor, per_part: Sequence[int]) -> bool:
    """Whether the backward pass will want the map, and it is of one part (a CPU takes one after the other) and of this
    rank alone.
    """
    if not (type(norm) is BatchNorm2d and norm.training and norm.torch_can_train(raw_NCHW, per_part)):
        return False
    if sum(maps > 0 for maps in per_part) != 1:
        return False
    is_kept = torch.is_grad_enabled() and raw_NCHW.requires_grad
    return is_kept and raw_NCHW.dtype == torch.float32 and default_backend(raw_NCHW.device.type) == "cpu"
