"""Temporal convolution within each clip: the operation the model calls."""

import torch
from torch import Tensor

from kernels.dispatch import run
from kernels.registry import Case, KernelSpec
from kernels.temporal_conv.reference import temporal_conv as reference


@torch.library.custom_op("unisign_fast::temporal_conv", mutates_args=())
def _forward(x_FVC: Tensor, first_F: Tensor, end_F: Tensor, weight_TOC: Tensor) -> Tensor:
    from kernels.temporal_conv.triton_kernel import forward

    return forward(x_FVC.contiguous(), first_F, end_F, weight_TOC.contiguous())


@_forward.register_fake
def _(x_FVC: Tensor, first_F: Tensor, end_F: Tensor, weight_TOC: Tensor) -> Tensor:
    return x_FVC.new_empty(*x_FVC.shape[:2], weight_TOC.shape[1])


@torch.library.custom_op("unisign_fast::temporal_conv_backward", mutates_args=())
def _backward(
    grad_FVO: Tensor, x_FVC: Tensor, first_F: Tensor, end_F: Tensor, weight_TOC: Tensor
) -> tuple[Tensor, Tensor]:
    from kernels.temporal_conv.triton_kernel import backward

    return backward(grad_FVO.contiguous(), x_FVC.contiguous(), first_F, end_F, weight_TOC.contiguous())


@_backward.register_fake
def _(grad_FVO, x_FVC, first_F, end_F, weight_TOC):
    return x_FVC.new_empty(x_FVC.shape), weight_TOC.new_empty(weight_TOC.shape)


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx, grad_FVO: Tensor):
    of_x, of_weight = _backward(grad_FVO, *ctx.saved_tensors)
    return of_x, None, None, of_weight


_forward.register_autograd(_gradients, setup_context=_save)


def _triton(x_FVC: Tensor, offsets: Tensor, weight_TOC: Tensor, bias_O: Tensor) -> Tensor:
    from kernels.temporal_conv.triton_kernel import clip_bounds

    return _forward(x_FVC, *clip_bounds(offsets, x_FVC.shape[0]), weight_TOC) + bias_O


def _refusal(x_FVC: Tensor, offsets: Tensor, weight_TOC: Tensor, bias_O: Tensor) -> str | None:
    return None if weight_TOC.shape[0] % 2 else f"{weight_TOC.shape[0]} taps have no middle one"


def _inputs(shape: dict, random) -> tuple:
    lengths, joints, channels, outputs, taps = (shape[name] for name in ("T", "V", "C", "O", "K"))
    x_FVC = random(sum(lengths), joints, channels)
    offsets = torch.tensor([0, *lengths]).cumsum(0).to(x_FVC.device)
    return x_FVC, offsets, random(taps, outputs, channels, scale=(channels * taps) ** -0.5), random(outputs)


def _flops(shape: dict) -> int:
    """Two for each product and sum; taps beyond the ends of a clip are not counted."""
    reach = shape["K"] // 2
    pairs = sum(max(0, t - abs(shift)) for t in shape["T"] for shift in range(-reach, reach + 1))
    return 2 * pairs * shape["V"] * shape["C"] * shape["O"]


def _bytes(shape: dict, itemsize: int) -> int:
    rows = sum(shape["T"]) * shape["V"]
    return itemsize * (rows * (shape["C"] + shape["O"]) + shape["K"] * shape["C"] * shape["O"] + shape["O"])


_MODEL = {"C": 256, "O": 256, "K": 5}

SPEC = KernelSpec(
    name="temporal_conv",
    reference=reference,
    triton=_triton,
    refusal=_refusal,
    inputs=_inputs,
    cases=(
        Case({"T": [6, 1, 9, 2], "V": 21, "C": 40, "O": 24, "K": 5}, "ragged clips, one of a single frame"),
        Case({"T": [8, 3], "V": 9, **_MODEL}, "the model's channels"),
        Case({"T": [5], "V": 18, "C": 3, "O": 130, "K": 3}, "few inputs; one output more than a tile"),
        Case({"T": [3, 0, 4], "V": 1, "C": 16, "O": 16, "K": 1}, "an empty clip, one joint, one tap"),
        Case({"T": [], "V": 21, "C": 16, "O": 16, "K": 5}, "no clips"),
    ),
    training=tuple(
        Case({"T": [240] * 16, "V": v, **_MODEL}, f"16 clips of 240 frames, {v} joints") for v in (9, 18, 21)
    ),
    flops=_flops,
    backward_flops=lambda shape: 2 * _flops(shape),
    bytes=_bytes,
    # Reads x and the gradient of the output twice (for either gradient) and the weight; writes both gradients.
    backward_bytes=lambda shape, itemsize: (
        2 * _bytes(shape, itemsize) + itemsize * sum(shape["T"]) * shape["V"] * shape["O"]
    ),
)


def temporal_conv(x_FVC: Tensor, offsets: Tensor, weight_TOC: Tensor, bias_O: Tensor) -> Tensor:
    """y_FVO; see kernels/temporal_conv/reference.py."""
    return run(SPEC, x_FVC, offsets, weight_TOC, bias_O)
