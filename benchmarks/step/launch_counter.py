"""Counting kernel launches, bytes and FLOPs of a training step on meta tensors, by phase of the forward pass.

On meta tensors nothing is computed, so the whole geometry is counted in seconds, without a GPU. An operator of ATen
counts as one launch unless it only makes a view or allocates; MORE_LAUNCHES names those that launch several kernels.
Triton kernels are counted where they are launched. A host synchronisation (`item`, `nonzero`) raises on meta tensors.
"""

import bisect
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

ACCUMULATION = "gradient accumulation"  # into the parameters' gradients, by the first micro-batch a copy at most
ALLOCATIONS = {
    "aten::detach",
    "aten::empty",
    "aten::empty_like",
    "aten::empty_strided",
    "aten::new_empty",
    "aten::new_empty_strided",
    "aten::_unsafe_view",
    "aten::_reshape_alias",
    "aten::lift_fresh",
    "aten::set_",
    "aten::is_same_size",
}
MORE_LAUNCHES = {  # kernels of one call on a GPU, read off profiles of torch 2.11 by its source
    "aten::embedding_dense_backward": 6,  # sorts the tokens
    "aten::index_put": 7,  # copies, and sorts the indices
    "aten::index_put_": 6,
    "aten::index_copy": 2,  # copies first
    "aten::index_fill": 2,
    "aten::_index_put_impl_": 6,
    "aten::cumsum": 2,
    "aten::repeat_interleave": 3,
    "aten::_scaled_dot_product_efficient_attention_backward": 2,
    "aten::_scaled_dot_product_flash_attention_backward": 3,
    "aten::convolution_backward": 2,
    "aten::native_batch_norm": 2,
    "unisign_fast_meta::rms_norm_backward": 2,
    "aten::native_batch_norm_backward": 2,
}
PRODUCTS = {"mm": 0, "bmm": 0, "matmul": 0, "addmm": 1, "baddbmm": 1}  # and which argument is the left matrix
OUR_NAMESPACE = "unisign_fast"


@dataclass
class Tally:
    """What one phase launches; `seconds` is the sum over its operators of the longer of bytes and FLOPs."""

    launches: int = 0
    triton: int = 0  # Triton launches among them
    bytes: int = 0
    flops: int = 0  # of ATen's products, convolutions and attention
    seconds: float = 0.0
    custom_bytes: int = 0  # of the operators of this project, whose FLOPs the caller knows


class LaunchCounter(TorchDispatchMode):
    """Tallies by (phase, pass); `enter(phase)` says where the forward pass is.

    The backward pass belongs to the phase that made its node: autograd numbers nodes in the order of the forward pass.
    `triton_launches` gives how many Triton kernels were launched so far (`len` of what kernels/launch.py records).
    """

    def __init__(self, bytes_a_second: float, flops_a_second: float, triton_launches: Callable[[], int]):
        super().__init__()
        self.rates = bytes_a_second, flops_a_second
        self.tallies: dict[tuple[str, str], Tally] = defaultdict(Tally)
        self.operators: dict[str, int] = defaultdict(int)  # launches of each
        self._triton_launches, self._counted_triton = triton_launches, triton_launches()
        self._starts, self._phases, self.phase = [], [], "input"

    def enter(self, phase: str) -> None:
        """Begin a phase of the forward pass, which ends the one before; recomputation in backward is ignored."""
        if torch._C._current_autograd_node() is not None:
            return
        self.phase = phase
        self._starts.append(torch.autograd._get_sequence_nr())
        self._phases.append(phase)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self._collect_triton()
        name = func.name().partition(".")[0]
        if name.startswith(OUR_NAMESPACE + "::"):
            return self._run_ours(name, args, kwargs or {})
        if _is_composite(func.name()):
            with self:
                return func.decompose(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        if not (func.is_view or name in ALLOCATIONS):
            self._count(func, name, args, kwargs or {}, result)
        return result

    def __exit__(self, *exception) -> None:
        self._collect_triton()
        return super().__exit__(*exception)

    def _run_ours(self, name: str, args: tuple, kwargs: dict):
        """An operator of this project: its own function on meta tensors, in which every operator is counted."""
        with self:
            result = torch._library.custom_ops.OPDEFS[name]._init_fn(*args, **kwargs)
        tally = self.tallies[self._where()]
        tally.custom_bytes += _bytes((args, kwargs)) + _bytes(result)
        return result

    def _collect_triton(self) -> None:
        """Tally the Triton kernels launched since the last operator."""
        launched = self._triton_launches() - self._counted_triton
        if launched:
            self._counted_triton += launched
            tally = self.tallies[self._where()]
            tally.triton += launched
            tally.launches += launched

    def _count(self, func, name: str, args: tuple, kwargs: dict, result: object) -> None:
        tally = self.tallies[self._where()]
        launches = MORE_LAUNCHES.get(name, 1)
        moved = _bytes((args, kwargs)) + _bytes(result)
        flops = _flops(name, args, kwargs, result)
        tally.launches += launches
        tally.bytes += moved
        tally.flops += flops
        tally.seconds += max(moved / self.rates[0], flops / self.rates[1])
        self.operators[name] += launches

    def _where(self) -> tuple[str, str]:
        node = torch._C._current_autograd_node()
        if node is None:
            return self.phase, "forward"
        place = bisect.bisect_right(self._starts, node._sequence_nr()) - 1
        if node.name().endswith("AccumulateGrad"):
            return ACCUMULATION, "backward"
        return self._phases[max(0, place)], "backward"


def _is_composite(name: str) -> bool:
    """Whether an operator is made of others, without a kernel of its own. Within operators of this project such ones
    arrive whole, and `to` would look like a view.
    """
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return has_kernel(name, "CompositeImplicitAutograd") and not has_kernel(name, "CPU")


def _flops(name: str, args: tuple, kwargs: dict, result: object) -> int:
    """FLOPs of matrix products, convolutions and attention; all other operators are bound by bytes.

    By torch's formulas for attention and the forward pass of convolutions. Torch's of the backward pass ignores groups,
    and those of products do not take every overload (sums in float32, results written in place).
    """
    operator = name.removeprefix("aten::").removesuffix("_")  # addmm_ is addmm in place
    if operator in PRODUCTS:
        return 2 * result.numel() * args[PRODUCTS[operator]].shape[-1]
    if operator == "convolution_backward":
        grad_y, _, weight = args[:3]
        return 2 * sum(args[10][:2]) * grad_y.numel() * weight[0].numel()
    formula = flop_registry.get(getattr(torch.ops.aten, operator, None))
    return formula(*args, **kwargs, out_val=result) if formula else 0


def _bytes(values: object) -> int:
    return sum(x.numel() * x.element_size() for x in tree_leaves(values) if isinstance(x, Tensor))
