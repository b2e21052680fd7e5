"""The inverted bottleneck on a GPU. Each convolution writes its output once, together with the partial moments for its
normalization. These outputs and the block's input are saved for backward; the rest is recomputed.

x [R, C] holds the rows of a map with `cells` cells per crop. bn_silu/triton_tiles.py defines `bounds`, `stats` and the
partial sums.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ..bn_silu import gpu_kernel as passes
from ..bn_silu.convolution import rows
from ..bn_silu.op import gate_backward, gate_forward, running_stats
from ..bn_silu.reference import Norm, Parts
from ..bn_silu.triton_backward import backward_map, merged_sums
from . import triton_depthwise, triton_gate, triton_pointwise
from .reference import Block, Layer


class _Setting(NamedTuple):
    """The arguments of a call that are not tensors."""

    training: bool
    momentum: float
    sides: list[int]  # height and width of x
    kernel_size: int
    stride: int

    @property
    def out_sides(self) -> list[int]:
        """Height and width of the result."""
        return [-(-side // self.stride) for side in self.sides]

    @property
    def cells(self) -> tuple[int, int]:
        """Cells per map of x, and per map of the result."""
        (height, width), (out_height, out_width) = self.sides, self.out_sides
        return height * width, out_height * out_width

    def stats(self, partial: Tensor, cells: int, bounds: Tensor, norm: Sequence[Tensor]) -> Tensor:
        """The `stats` of a map: from the partial moments of the batch in training, else from the running statistics."""
        weight_C, bias_C, running_mean, running_var, tracked = norm
        layer = Norm(weight_C, bias_C, running_mean, running_var, tracked, self.momentum)
        return passes.merged_stats(partial, cells, bounds, layer) if self.training else running_stats(layer)


class _MBConv(Function):
    """Saves its input and the convolutions' outputs; recomputes the convolutions' inputs in backward."""

    @staticmethod
    def forward(ctx, setting: _Setting, x_NCHW, bounds, *tensors):
        """The result of `reference.mbconv`.

        tensors: weight and five normalization tensors of the expansion, or six times None; the same of the depthwise
        convolution; the four of `Excitation`; weight and normalization of the projection.
        """
        expand, depthwise, excitation, project = tensors[:6], tensors[6:12], tensors[12:16], tensors[16:]
        (cells, out_cells), x_RC = setting.cells, rows(x_NCHW).contiguous()
        expanded_RE, expand_stats, read_RE = None, None, x_RC
        if expand[0] is not None:
            weight_EC = expand[0].flatten(1)
            expanded_RE, partial = triton_pointwise.forward(x_RC, cells, bounds, weight_EC)
            expand_stats = setting.stats(partial, cells, bounds, expand[1:])
            # Repeating the product moves fewer bytes than a pass over its output, which is six times as wide as x.
            (read_RE,) = triton_pointwise.forward(x_RC, cells, bounds, weight_EC, None, None, expand_stats)
        taps_TE = depthwise[0].flatten(1).T.contiguous()
        deep_RE, partial = triton_depthwise.forward(read_RE, setting.sides, bounds, taps_TE, setting.stride)
        del read_RE
        deep_stats = setting.stats(partial, out_cells, bounds, depthwise[1:])
        gate_values = gate_forward(passes.mean(deep_RE, out_cells, deep_stats, bounds), excitation)
        weight_OE = project[0].flatten(1)
        y_RO, partial = triton_pointwise.forward(deep_RE, out_cells, bounds, weight_OE, deep_stats, gate_values[-1])
        y_stats = setting.stats(partial, out_cells, bounds, project[1:])
        ctx.setting = setting
        maps, stats = (x_RC, expanded_RE, deep_RE, y_RO), (expand_stats, deep_stats, y_stats)
        weights = *expand[:2], taps_TE, depthwise[1], *excitation, *project[:2]
        ctx.save_for_backward(bounds, *maps, *stats, *gate_values, *weights)
        return _as_map(passes.apply(y_RO, out_cells, y_stats, bounds, False), setting.out_sides)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_NOHW: Tensor):
        """Gradients of x and of all weights and normalizations, from the last layer to the first.

        Each normalization needs sums over all crops to compute the gradient of its map. The kernel that writes the
        gradient of its output also writes the partial sums.
        """
        bounds, x_RC, expanded_RE, deep_RE, y_RO, expand_stats, deep_stats, y_stats, *rest = ctx.saved_tensors
        gate_values, weights = rest[:4], rest[4:]
        expand, depthwise, excitation, project = weights[:2], weights[2:4], weights[4:8], weights[8:]
        setting, training = ctx.setting, ctx.setting.training
        (cells, out_cells), gate_NE = setting.cells, gate_values[-1]
        grad_RO = rows(grad_NOHW).contiguous()
        grad_RO, *grad_y_norm = passes.backward(grad_RO, y_RO, out_cells, y_stats, bounds, False, project[1], training)
        grad_project = triton_pointwise.weight_backward(grad_RO, deep_RE, out_cells, bounds, deep_stats, gate_NE)
        grad_RE = grad_RO @ project[0].flatten(1)
        grad_gate_NE, crop_sums = triton_gate.sums_of_crops(grad_RE, deep_RE, out_cells, deep_stats, bounds)
        grad_mean_NE, grad_excitation = gate_backward(grad_gate_NE, gate_values, excitation)
        partial = triton_gate.partial_sums(crop_sums, out_cells, bounds, gate_NE, grad_mean_NE)
        gate = [gate_NE, grad_mean_NE]
        grad_RE, *grad_deep_norm = _normalized(
            partial, grad_RE, deep_RE, out_cells, deep_stats, bounds, gate, True, depthwise[1], training
        )
        read = x_RC if expanded_RE is None else expanded_RE
        grad_RE, partial, grad_taps_ET = triton_depthwise.backward(
            grad_RE, read, setting.sides, bounds, depthwise[0], setting.stride, expand_stats
        )
        grad_expand: list[Tensor | None] = [None] * 3
        if expanded_RE is not None:
            grad_RE, *grad_norm = _normalized(
                partial, grad_RE, expanded_RE, cells, expand_stats, bounds, [], False, expand[1], training
            )
            grad_expand = [(grad_RE.T @ x_RC).view_as(expand[0]), *grad_norm]
            grad_RE = grad_RE @ expand[0].flatten(1)
        running = [None] * 3
        return (
            None, _as_map(grad_RE, setting.sides), None, *grad_expand, *running,
            grad_taps_ET.view(-1, 1, *[setting.kernel_size] * 2), *grad_deep_norm, *running, *grad_excitation,
            grad_project.view_as(project[0]), *grad_y_norm, *running,
        )  # fmt: skip


def _normalized(
    partial: Tensor, grad_RC: Tensor, x_RC: Tensor, cells: int, stats: Tensor, bounds: Tensor, gate: list[Tensor],
    activate: bool, weight_C: Tensor, training: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, weight and bias of a normalization whose partial sums are known."""
    sums, *grads = merged_sums(partial, weight_C)
    passes.sum_over_ranks(sums, training)
    return backward_map(grad_RC, x_RC, cells, stats, bounds, gate, activate, sums), *grads


def _as_map(x_RC: Tensor, sides: Sequence[int]) -> Tensor:
    height, width = sides
    rows, channels = x_RC.shape
    return x_RC.view(rows // (height * width), height, width, channels).permute(0, 3, 1, 2)


def mbconv(x_NCHW: Tensor, parts: Parts, block: Block, training: bool) -> Tensor:
    """See kernels/mbconv/reference.py."""
    expand, depthwise, excitation, project = block
    conv, sides = depthwise.conv, list(x_NCHW.shape[2:])
    setting = _Setting(training, depthwise.norm.momentum, sides, conv.weight.shape[-1], conv.stride)
    return _MBConv.apply(
        setting, x_NCHW, parts.bounds, *_tensors(expand), *_tensors(depthwise), *excitation, *_tensors(project)
    )


def _tensors(layer: Layer | None) -> list[Tensor | None]:
    """A layer's six tensors; the running statistics are updated in place."""
    return [None] * 6 if layer is None else [layer.conv.weight, *layer.norm[:5]]
