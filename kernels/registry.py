"""Every operation, for tests and benchmarks to go through; the operations themselves do not know of it."""

from .spec import KernelSpec


def kernels() -> tuple[KernelSpec, ...]:
    """Every operation."""
    from .deferred_activation.op import SPEC as activation
    from .deformable_attention.op import SPEC as deformable_attention
    from .deformable_offsets.op import SPEC as deformable_offsets
    from .graph_conv.op import SPEC as graph_conv
    from .position_bias.op import SPEC as position_bias
    from .temporal_conv.op import SPEC as temporal_conv

    return activation, graph_conv, temporal_conv, deformable_offsets, deformable_attention, position_bias
