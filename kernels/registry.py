"""The specs of all operations, for tests and benchmarks to iterate over. No operation imports this module."""

from .batch_norm.spec import SPEC as batch_norm
from .bn_silu.spec import SPEC as bn_silu
from .cross_entropy.spec import SPEC as cross_entropy
from .deferred_activation.spec import SPEC as deferred_activation
from .deformable_attention.spec import SPEC as deformable_attention
from .deformable_offsets.spec import SPEC as deformable_offsets
from .geglu.spec import SPEC as geglu
from .graph_conv.spec import SPEC as graph_conv
from .mbconv.spec import SPEC as mbconv
from .position_bias.spec import SPEC as position_bias
from .projections.spec import SPEC as projections
from .residual_rms_norm.spec import SPEC as residual_rms_norm
from .spec import KernelSpec
from .temporal_conv.spec import SPEC as temporal_conv
from .varlen_attention.spec import SPEC as varlen_attention

SPECS: tuple[KernelSpec, ...] = (
    batch_norm,
    deferred_activation,
    graph_conv,
    temporal_conv,
    deformable_offsets,
    deformable_attention,
    position_bias,
    varlen_attention,
    residual_rms_norm,
    geglu,
    cross_entropy,
    bn_silu,
    mbconv,
)
# Operations whose GPU backend is a library's function, without a kernel of ours.
LIBRARY_SPECS: tuple[KernelSpec, ...] = (projections,)
