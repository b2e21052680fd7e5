"""The backward pass of the graph convolution on a GPU. cuBLAS computes P_k = dY W_k and the weights' gradients. One
Triton kernel does the rest in a single pass over P: the gradient of x is the sum over k of D_k^T P_k, that of the
adjacency P_k X^T. In float32, another one computes the activation's gradients.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..deferred_activation.triton_kernel import ActivationGradient, activation_gradients, store_activation_gradient
from ..deferred_activation.triton_stats import output_gradient
from ..launch import compute_capability, launch, operator
from .parameter_gradients import parameter_gradients
from .triton_kernel import aggregate, diagonal_of, shares, tile_rows, used_rows


@triton.jit(do_not_specialize=["rows", "tiles", "tiles_a_program"])
def graph_conv_backward(
    products, shortcut_grad, kept_grad, adjacency, partial,
    x, conv_out, scale, shift, residual, residual_scale, grad_conv_out, grad_residual, sums,
    rows, tiles, tiles_a_program,
    KIND: tl.constexpr, RELU_BEFORE_RESIDUAL: tl.constexpr, SHORTCUT: tl.constexpr, KEPT: tl.constexpr,
    K: tl.constexpr, V: tl.constexpr, C: tl.constexpr, WIDTH: tl.constexpr, USED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """products [rows, WIDTH]: P_k for all k, and the products with the biases. shortcut_grad, kept_grad [rows, C]: the
    gradients of x through the shortcut and from elsewhere. partial [programs * blocks, K, ROWS, ROWS]: sums of P_k X^T,
    in its diagonal blocks alone.

    A program handles one block of channels in a share of the tiles.
    """
    program, block, local = tl.program_id(0), tl.program_id(1), tl.arange(0, ROWS)
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    first_sum, second_sum = tl.zeros((ROWS, ROWS), tl.float32), tl.zeros((ROWS, ROWS), tl.float32)
    first_bias, second_bias = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    first, second = tl.trans(diagonal_of(adjacency, 0, ROWS)), tl.trans(diagonal_of(adjacency, K - 1, ROWS))
    begin = program * tiles_a_program
    for tile in range(begin, tl.minimum(begin + tiles_a_program, tiles)):
        row, valid = tile_rows(tile, rows, USED, ROWS)
        place, inside = row[:, None] * C + column[None, :], valid[:, None] & (column < C)[None, :]
        x_tile = tl.load(x + place, inside, 0)
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for k in tl.static_range(K):
            product = tl.load(products + row[:, None] * WIDTH + k * C + column[None, :], inside, 0)
            through_bias = tl.load(products + row * WIDTH + K * C + k, valid & (block == 0), 0).to(tl.float32)
            if k == 0:
                first_sum = tl.dot(product, tl.trans(x_tile), first_sum, input_precision="ieee")
                first_bias += through_bias
            else:
                second_sum = tl.dot(product, tl.trans(x_tile), second_sum, input_precision="ieee")
                second_bias += through_bias
            total = tl.dot(first if k == 0 else second, product, total, input_precision="ieee")
        if SHORTCUT:
            total += tl.load(shortcut_grad + place, inside, 0).to(tl.float32)
        if KEPT:
            total += tl.load(kept_grad + place, inside, 0).to(tl.float32)
        store_activation_gradient(
            total, x_tile, conv_out, scale, shift, residual, residual_scale, grad_conv_out, grad_residual, sums,
            tile, place, inside, column, C, KIND, RELU_BEFORE_RESIDUAL,
        )  # fmt: skip
    at = partial + ((program * tl.num_programs(1) + block) * K * ROWS + local[:, None]) * ROWS + local[None, :]
    diagonal_blocks = local[:, None] // V == local[None, :] // V
    tl.store(at, first_sum + first_bias[:, None], diagonal_blocks)
    if K == 2:
        tl.store(at + ROWS * ROWS, second_sum + second_bias[:, None], diagonal_blocks)


def _tile(dtype: torch.dtype) -> dict[str, int]:
    """Rows and columns of a tile, warps and stages: the largest that do not spill."""
    if dtype == torch.float32:
        return {"ROWS": 32, "COLUMNS": 16, "warps": 8, "stages": 2}
    return {"ROWS": 64, "COLUMNS": 64 if compute_capability() >= 90 else 32, "warps": 8, "stages": 2}


@operator("graph_conv_backward")
def backward(
    grad_x_FVC: Tensor | None,
    grad_out: list[Tensor],
    grad_shortcut_out: list[Tensor],
    x_FVC: Tensor,
    graph: list[Tensor],
    out: list[Tensor],
    shortcut_out: list[Tensor],
    x: list[Tensor],
    relu_before_residual: bool,
    weight_KOC: Tensor,
    shortcut: list[Tensor],
) -> list[Tensor]:
    """Gradients of adjacency, weight, bias, the shortcut's weight and bias if any, and the activation's tensors.

    `graph`, `out` and `shortcut_out` are results of `forward`; `grad_out` and `grad_shortcut_out` are the gradients of
    the last two. The gradients of batch statistics may be missing, and that of x_FVC None.
    """
    frames, joints, channels = x_FVC.shape
    (diagonal, _, matrix), hops = graph, len(weight_KOC)
    block = _tile(x_FVC.dtype)
    tiles, tiles_a_program, (programs, blocks) = shares(x_FVC, block)
    whole = (output_gradient(grad_out, out)[0] if len(grad_out) > 1 else grad_out[0]).flatten(0, 1)
    products = whole @ matrix
    shortcut_grad, shortcut_sums, grad_shortcut = products, None, []  # not read without a shortcut
    if shortcut:
        shortcut_whole, shortcut_sums = output_gradient(grad_shortcut_out, shortcut_out)
        shortcut_whole = shortcut_whole.flatten(0, 1)
        shortcut_grad = shortcut_whole @ shortcut[0]
        grad_shortcut = [shortcut_whole.T @ x_FVC.flatten(0, 1)]
    partial = torch.empty(programs * blocks, hops, *[block["ROWS"]] * 2, dtype=torch.float32, device=x_FVC.device)
    # With the activation's gradient in the same launch, float32 spills.
    fused = len(x) == 1 or x_FVC.dtype != torch.float32
    result = ActivationGradient(x if fused else [x_FVC], relu_before_residual, tiles)
    launch(
        graph_conv_backward, (programs, blocks),
        products, shortcut_grad, x_FVC if grad_x_FVC is None else grad_x_FVC, diagonal, partial,
        *result.arguments(x_FVC), frames * joints, tiles, tiles_a_program,
        **result.constants, SHORTCUT=bool(shortcut), KEPT=grad_x_FVC is not None,
        K=hops, V=joints, C=channels, WIDTH=matrix.shape[1], USED=used_rows(joints, block["ROWS"]), **block,
    )  # fmt: skip
    del products, shortcut_grad
    grad_matrix = whole.T @ aggregate([x_FVC], False, graph)[0]
    grads, grad_shortcut_bias = parameter_gradients(partial, shortcut_sums, result, weight_KOC, joints, grad_matrix)
    unfused = result.grad_conv_out, x_FVC, x, relu_before_residual
    grad_x = result.gradients() if fused else activation_gradients(*unfused)
    return [*grads, *grad_shortcut, *grad_shortcut_bias, *grad_x]
