"""The specs of all operations, for tests and benchmarks to iterate over. No operation imports this module."""

from .deferred_activation.spec import SPEC as deferred_activation
from .deformable_attention.spec import SPEC as deformable_attention
from .deformable_offsets.spec import SPEC as deformable_offsets
from .graph_conv.spec import SPEC as graph_conv
from .position_bias.spec import SPEC as position_bias
from .spec import KernelSpec
from .temporal_conv.spec import SPEC as temporal_conv

SPECS: tuple[KernelSpec, ...] = (
    deferred_activation,
    graph_conv,
    temporal_conv,
    deformable_offsets,
    deformable_attention,
    position_bias,
)
