"""Deferred activations on a CPU, in chunks of frames: the reference makes a pass over memory for every operation."""

from torch import Tensor

from ..cpu.chunks import frame_chunks, in_chunks
from .reference import DeferredActivation
from .reference import deferred_activation as reference


def deferred_activation(x: DeferredActivation, joint_mean: bool = False) -> Tensor:
    """See kernels/deferred_activation/reference.py."""
    if x.plain:
        return reference(x, joint_mean)

    def activate(conv_out_FVC, residual_FVC, scale_C, shift_C, residual_scale_C, residual_shift_C) -> Tensor:
        residual = residual_FVC, residual_scale_C, residual_shift_C
        return reference(DeferredActivation(conv_out_FVC, scale_C, shift_C, *residual, x.relu_before_residual))

    vectors = x.scale_C, x.shift_C, x.residual_scale_C, x.residual_shift_C
    x_FVC = in_chunks(activate, frame_chunks(x.conv_out_FVC), (x.conv_out_FVC, x.residual_FVC), vectors)
    return x_FVC.mean(1) if joint_mean else x_FVC
