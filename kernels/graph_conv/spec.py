"""Cases, FLOPs and bytes of the graph convolution."""

from ..deferred_activation.spec import activated_bytes, activation_bytes, activation_inputs
from ..spec import Case, KernelSpec
from .op import graph_conv


def _inputs(shape: dict, random) -> tuple:
    joints, channels, outputs, hops = (shape[name] for name in ("V", "C", "O", "K"))
    shortcut = random(outputs, channels, scale=channels**-0.5), random(outputs)
    return (
        activation_inputs(shape, random),
        random(hops, joints, joints, scale=joints**-0.5),
        random(hops, outputs, channels, scale=(hops * channels) ** -0.5),
        random(hops, outputs),
        shortcut if shape["shortcut"] else None,
        shape["batch_stats"],
    )


def _products(shape: dict) -> tuple[int, int, int]:
    """FLOPs of aggregating, of mixing channels, and of the shortcut; two for each product and sum."""
    rows = shape["F"] * shape["V"] * 2
    mix = rows * shape["C"] * shape["O"]
    return rows * shape["K"] * shape["V"] * shape["C"], shape["K"] * mix, shape["shortcut"] * mix


def _backward_flops(shape: dict) -> int:
    """dY W_k serves x and adjacency; D_k X is computed again for the weight."""
    aggregate, mix, shortcut = _products(shape)
    return 3 * aggregate + 2 * mix + 2 * shortcut


def _outputs_and_weights(shape: dict, itemsize: int) -> tuple[int, int]:
    """Bytes of the outputs, and of all parameters."""
    outs, matrices = 1 + shape["shortcut"], shape["K"] + shape["shortcut"]
    weights = shape["K"] * shape["V"] ** 2 + matrices * shape["O"] * (shape["C"] + 1)
    return itemsize * outs * shape["F"] * shape["V"] * shape["O"], itemsize * weights


def _bytes(shape: dict, itemsize: int) -> int:
    """Reads the activation's tensors and the weights; writes x and the outputs."""
    return (
        activation_bytes(shape, itemsize)
        + activated_bytes(shape, itemsize)
        + sum(_outputs_and_weights(shape, itemsize))
    )


def _backward_bytes(shape: dict, itemsize: int) -> int:
    """Reads what the activation is made of, x, the outputs, their gradients and the weights; writes the gradients of
    the activation's tensors and of the weights.
    """
    outs, weights = _outputs_and_weights(shape, itemsize)
    return 2 * (activation_bytes(shape, itemsize) + outs + weights) + activated_bytes(shape, itemsize)


def _case(
    reason: str, frames: int, joints: int, sizes: tuple[int, int, int], x: str, shortcut: bool, batch_stats: bool = True
) -> Case:
    shape = {
        "F": frames,
        "V": joints,
        **dict(zip("COK", sizes)),
        "X": x,
        "shortcut": shortcut,
        "batch_stats": batch_stats,
    }
    return Case(shape, reason)


# The model's layers: embedding to block 1, block 1 to 2, 2 to 3, and those of the temporal encoder.
_LAYERS = (
    ((64, 64, 2), "plain", False),
    ((64, 128, 2), "ReLU, then added", True),
    ((128, 256, 2), "relu_before_residual, both scaled", True),
    ((256, 256, 2), "plain", False),
    ((256, 256, 2), "added", False),
)

SPEC = KernelSpec(
    operation=graph_conv,
    inputs=_inputs,
    cases=(
        _case("hands: six frames a tile, the last not full", 13, 21, (64, 64, 2), "ReLU, then added", False),
        _case(
            "body: fourteen frames a tile, a shortcut", 15, 9, (64, 130, 2), "relu_before_residual, both scaled", True
        ),
        _case("face: exactly one tile, odd channels", 7, 18, (20, 37, 2), "scaled", True, batch_stats=False),
        _case("the most joints, one hop", 5, 32, (16, 16, 1), "plain", False),
        _case("one frame, one joint", 1, 1, (3, 2, 2), "plain", True),
        _case("no frames", 0, 21, (64, 64, 2), "both scaled", True),
    ),
    training=tuple(
        _case(f"16 clips of 240 frames, {v} joints, {c} to {o} channels, input {x}", 3840, v, (c, o, k), x, shortcut)
        for v in (9, 18, 21)
        for (c, o, k), x, shortcut in _LAYERS
    ),
    flops=lambda shape: sum(_products(shape)),
    backward_flops=_backward_flops,
    bytes=_bytes,
    backward_bytes=_backward_bytes,
)
