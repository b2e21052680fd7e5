"""Graph convolution over the joints: the operation the model calls."""

import torch
from torch import Tensor

from kernels.dispatch import run
from kernels.graph_conv.reference import graph_conv as reference
from kernels.registry import Case, KernelSpec

MOST_JOINTS = 32


@torch.library.custom_op("unisign_fast::graph_conv", mutates_args=())
def _forward(x_FVC: Tensor, adjacency_KVV: Tensor, weight_KOC: Tensor, bias_VO: Tensor) -> Tensor:
    from kernels.graph_conv.triton_kernel import forward

    return forward(*(tensor.contiguous() for tensor in (x_FVC, adjacency_KVV, weight_KOC, bias_VO)))


@_forward.register_fake
def _(x_FVC: Tensor, adjacency_KVV: Tensor, weight_KOC: Tensor, bias_VO: Tensor) -> Tensor:
    return x_FVC.new_empty(*x_FVC.shape[:2], weight_KOC.shape[1])


@torch.library.custom_op("unisign_fast::graph_conv_backward", mutates_args=())
def _backward(
    grad_FVO: Tensor, x_FVC: Tensor, adjacency_KVV: Tensor, weight_KOC: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from kernels.graph_conv.triton_kernel import backward

    return backward(*(tensor.contiguous() for tensor in (grad_FVO, x_FVC, adjacency_KVV, weight_KOC)))


@_backward.register_fake
def _(grad_FVO, x_FVC, adjacency_KVV, weight_KOC):
    of_bias = grad_FVO.new_empty(grad_FVO.shape[1:], dtype=torch.float32)
    return *(x.new_empty(x.shape) for x in (x_FVC, adjacency_KVV, weight_KOC)), of_bias


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:3])


def _gradients(ctx, grad_FVO: Tensor):
    return _backward(grad_FVO, *ctx.saved_tensors)


_forward.register_autograd(_gradients, setup_context=_save)


def _triton(x_FVC: Tensor, adjacency_KVV: Tensor, weight_KOC: Tensor, bias_KO: Tensor) -> Tensor:
    # The bias goes through the adjacency: a small product that autograd can take care of, in float32.
    bias_VO = adjacency_KVV.sum(1, dtype=torch.float32).T @ bias_KO.float()
    return _forward(x_FVC, adjacency_KVV, weight_KOC, bias_VO)


def _refusal(x_FVC: Tensor, *_: Tensor) -> str | None:
    joints = x_FVC.shape[1]
    return f"{joints} joints are more than {MOST_JOINTS}" if joints > MOST_JOINTS else None


def _inputs(shape: dict, random) -> tuple:
    frames, joints, channels, outputs, hops = (shape[name] for name in ("F", "V", "C", "O", "K"))
    return (
        random(frames, joints, channels),
        random(hops, joints, joints, scale=joints**-0.5),
        random(hops, outputs, channels, scale=(hops * channels) ** -0.5),
        random(hops, outputs),
    )


def _products(shape: dict) -> tuple[int, int]:
    """FLOPs of aggregating and of mixing channels, two for each product and sum."""
    rows = shape["F"] * shape["V"] * shape["K"] * 2
    return rows * shape["V"] * shape["C"], rows * shape["C"] * shape["O"]


def _backward_flops(shape: dict) -> int:
    """dY W_k serves x and adjacency; D_k X is computed again for the weight."""
    aggregate, mix = _products(shape)
    return 3 * aggregate + 2 * mix


def _bytes(shape: dict, itemsize: int) -> int:
    rows = shape["F"] * shape["V"]
    weights = shape["K"] * (shape["V"] ** 2 + shape["O"] * shape["C"] + shape["O"])
    return itemsize * (rows * (shape["C"] + shape["O"]) + weights)


def _backward_bytes(shape: dict, itemsize: int) -> int:
    """Reads x, the gradient of the output and the weights; writes the gradients of x and of the weights."""
    return 2 * _bytes(shape, itemsize) - itemsize * shape["F"] * shape["V"] * shape["O"]


_CHANNELS = ((64, 64), (64, 128), (128, 256), (256, 256))

SPEC = KernelSpec(
    name="graph_conv",
    reference=reference,
    triton=_triton,
    refusal=_refusal,
    inputs=_inputs,
    cases=(
        Case({"F": 13, "V": 21, "C": 64, "O": 64, "K": 2}, "hands: six frames a tile, the last tile not full"),
        Case({"F": 15, "V": 9, "C": 128, "O": 256, "K": 2}, "body: fourteen frames a tile, two tiles of outputs"),
        Case({"F": 7, "V": 18, "C": 20, "O": 37, "K": 2}, "face: exactly one tile, odd channels"),
        Case({"F": 5, "V": 32, "C": 16, "O": 16, "K": 1}, "the most joints, one hop"),
        Case({"F": 1, "V": 1, "C": 3, "O": 2, "K": 3}, "one frame, one joint, three hops"),
        Case({"F": 0, "V": 21, "C": 64, "O": 64, "K": 2}, "no frames"),
    ),
    training=tuple(
        Case({"F": 3840, "V": v, "C": c, "O": o, "K": 2}, f"16 clips of 240 frames, {v} joints, {c} to {o} channels")
        for v in (9, 18, 21)
        for c, o in _CHANNELS
    ),
    flops=lambda shape: sum(_products(shape)),
    backward_flops=_backward_flops,
    bytes=_bytes,
    backward_bytes=_backward_bytes,
)


def graph_conv(x_FVC: Tensor, adjacency_KVV: Tensor, weight_KOC: Tensor, bias_KO: Tensor) -> Tensor:
    """y_FVO; see kernels/graph_conv/reference.py."""
    return run(SPEC, x_FVC, adjacency_KVV, weight_KOC, bias_KO)
