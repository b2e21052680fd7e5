"""The gate of a feed-forward in plain PyTorch: the reference that every faster version is tested against."""

from torch import Tensor
from torch.nn.functional import dropout, gelu


def geglu(gate_up_R2F: Tensor, p: float, seed: Tensor | None) -> Tensor:
    """gelu(gate) * up, with dropout (Shazeer, 2020: GLU variants; gelu by its tanh form, as in mT5).

    Args:
        gate_up_R2F: gate and up projection side by side.
        p: the probability of dropping an element.
        seed: [1] int64, the seed from which the backward pass redraws the mask (kernels/dropout); None if torch's
        generator draws it.
    Returns:
        [R, F]
    """
    gate_RF, up_RF = gate_up_R2F.chunk(2, -1)
    return dropout(gelu(gate_RF, approximate="tanh") * up_RF, p)
