"""What benchmarks/kernels.py times: the single operations, and the two parts of the model that are made of them."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from unisign_fast.kernels.deferred_activation.reference import (
    ConvOutput,
    DeferredActivation,
    deferred_activation,
    with_batch_stats,
)
from unisign_fast.kernels.dispatch import forcing
from unisign_fast.kernels.packing import Packing
from unisign_fast.kernels.registry import SPECS
from unisign_fast.kernels.spec import Case, KernelSpec
from unisign_fast.kernels.temporal_conv.reference import Clips
from unisign_fast.kernels.testing import make_inputs
from unisign_fast.kernels.varlen_attention.reference import allowed_pairs, padded_heads
from unisign_fast.model.fusion import PriorGuidedFusion
from unisign_fast.model.st_gcn import PoseEncoder, TemporalEncoder
from unisign_fast.model.unisign import ENCODER_OF
from unisign_fast.pipelines.skeleton import PART_JOINTS, PARTS, adjacency

PASSES = ("forward", "backward")
DTYPE = torch.bfloat16
CLIPS, FRAMES, CROPS = 16, 240, 768  # of a training step
CHANNELS = (64, 64, 128, 256)  # of the pose encoder, the paper's

Work = list[tuple[int, int]]  # useful bytes and FLOPs in bfloat16 of each step of a pass


@dataclass(frozen=True)
class Subject:
    """What is timed; every provider takes the same arguments."""

    name: str
    sizes: str
    items: int  # packed frames or hand crops
    make_inputs: Callable[[], tuple]
    providers: dict[str, Callable]
    work: dict[str, Work]


def work(spec: KernelSpec, case: Case) -> dict[str, Work]:
    """Useful bytes and FLOPs of one operation, forward and backward."""
    forward = spec.bytes(case.shape, 2), spec.flops(case.shape)
    backward = spec.backward_bytes(case.shape, 2), spec.backward_flops(case.shape)
    return {"forward": [forward], "backward": [backward]}


def compile_static(function: Callable) -> Callable:
    """torch.compile for the sizes of the next call.

    What was compiled before is forgotten: otherwise torch makes a function's second size dynamic and runs its ninth
    eagerly.
    """
    torch.compiler.reset()
    return torch.compile(function, dynamic=False)


def operation(spec: KernelSpec, case: Case, device: str) -> Subject:
    """A single operation at one of its training sizes."""
    providers = {
        "eager": spec.operation.reference,
        "compiled": compile_static(spec.operation.reference),
        "gpu": spec.operation.gpu,
    }
    if spec.name in LIBRARIES:
        providers["library"] = LIBRARIES[spec.name]
    counts = (case.shape[letter] for letter in ("F", "N", "T", "Q", "parts") if letter in case.shape)
    items = next(count if isinstance(count, int) else sum(count) for count in counts)
    inputs = partial(make_inputs, spec, case.shape, DTYPE, device)
    return Subject(spec.name, case.reason, items, inputs, providers, work(spec, case))


def library_temporal_conv(
    x: DeferredActivation, clips: Clips, weight_TOC: Tensor, bias_O: Tensor, batch_stats: bool
) -> ConvOutput:
    """cuDNN's: the temporal convolution of clips of one length as a padded 2-D convolution in channels-last layout."""
    (frames, joints, _), count = x.conv_out_FVC.shape, clips.cu_seqlens.numel() - 1
    x_BCTV = deferred_activation(x).view(count, frames // count, joints, -1).permute(0, 3, 1, 2)
    weight_OCT1 = weight_TOC.permute(1, 2, 0)[..., None].contiguous(memory_format=torch.channels_last)
    y_BOTV = nn.functional.conv2d(x_BCTV, weight_OCT1, bias_O, padding=(weight_TOC.shape[0] // 2, 0))
    return with_batch_stats(y_BOTV.permute(0, 2, 3, 1).reshape(frames, joints, -1), batch_stats)


def library_attention(
    projected: tuple[Tensor, ...],
    bias: Tensor | None,
    queries: Packing,
    keys: Packing,
    heads: int,
    causal: bool,
    *_: object,
) -> Tensor:
    """PyTorch's attention of padded sequences without dropout: memory-efficient on a GPU, the only one there that takes
    a trained bias.
    """
    padded = padded_heads([packing.pad(x) for x, packing in zip(projected, (queries, keys))], heads)
    masked = ~allowed_pairs(queries, keys, causal)
    mask = torch.zeros(masked.shape, dtype=padded[0].dtype, device=masked.device).masked_fill(masked, -torch.inf)
    if bias is not None:
        mask = mask + bias[:, : queries.longest, : keys.longest]
    mask = mask.expand(len(queries.lengths), heads, queries.longest, -1)
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        out = nn.functional.scaled_dot_product_attention(*padded, attn_mask=mask, scale=1.0)
    return queries.pack(out.transpose(1, 2).flatten(2))


LIBRARIES: dict[str, Callable] = {"temporal_conv": library_temporal_conv, "varlen_attention": library_attention}


class GraphStack(nn.Module):
    """Pose encoder and temporal encoder of every part, the hands' shared: keypoints of the parts to [F, 4 * C]."""

    def __init__(self):
        super().__init__()
        graphs = {ENCODER_OF[part][0]: torch.from_numpy(adjacency(part)) for part in PARTS}
        self.pose = nn.ModuleDict({name: PoseEncoder(graph, CHANNELS) for name, graph in graphs.items()})
        self.time = nn.ModuleDict({name: TemporalEncoder(graph, CHANNELS[-1]) for name, graph in graphs.items()})

    def forward(self, poses: list[Tensor], cu_seqlens: Tensor) -> Tensor:
        clips = Clips.of(cu_seqlens, len(poses[0]))
        names = [ENCODER_OF[part][0] for part in PARTS]
        return torch.cat([self.time[n](self.pose[n](x), clips) for n, x in zip(names, poses)], -1)


def graph_stack(device: str) -> Subject:
    """All graph and temporal convolutions of a training step."""
    module, frames = GraphStack().to(device, DTYPE), CLIPS * FRAMES
    poses = [torch.randn(frames, len(PART_JOINTS[part]), 3).to(device, DTYPE) for part in PARTS]
    inputs = (poses, torch.arange(0, frames + 1, FRAMES, device=device)), list(module.parameters())
    sizes = f"{CLIPS} clips of {FRAMES} frames, four parts"
    return Subject("graph stack", sizes, frames, lambda: inputs, _module_providers(module), _graph_stack_work())


def _graph_stack_work() -> dict[str, Work]:
    """Useful bytes and FLOPs of all layers of both encoders and the four parts, as each operation counts itself.

    The temporal encoder has three blocks: the second and the third begin with a residual added.
    """
    joints = Counter(len(PART_JOINTS[part]) for part in PARTS)  # two hands of 21
    blocks = {("graph_conv", "added"): 2, ("temporal_conv", "scaled"): 3}
    total = {direction: [] for direction in PASSES}
    layers = [(spec, case) for spec in SPECS for case in spec.training if "X" in case.shape]
    for spec, case in layers:
        times = blocks.get((spec.name, case.shape["X"]), 1) * joints[case.shape["V"]]
        for direction, steps in work(spec, case).items():
            total[direction] += times * steps
    return total


def fusion(device: str) -> Subject:
    """Prior-guided fusion of a step's hand crops; as published, one crop after the other, too."""
    channels = CHANNELS[-1]
    module = PriorGuidedFusion(channels, "deformable", "live", "pose,fused").to(device, DTYPE)
    pose = torch.rand(CROPS, 21, channels).to(device, DTYPE).requires_grad_()
    maps = torch.rand(CROPS, channels, 4, 4).to(device, DTYPE).requires_grad_()
    points = torch.rand(CROPS, 21, 2).to(device, DTYPE)
    inputs = (pose, maps, points), list(module.parameters())

    def one_by_one(crops, weights):
        return torch.cat([module(*(x[i : i + 1] for x in crops)) for i in range(CROPS)])

    providers = _module_providers(module) | {"one by one": _forced("reference", one_by_one)}
    # The fused features are as large as the pose features.
    moved = 2 * sum(x.numel() for x in (pose, pose, maps, points, *inputs[1]))
    flops = CROPS * _flops_of_a_crop(channels)
    counted = {"forward": [(moved, flops)], "backward": [(2 * moved, 2 * flops)]}
    return Subject("fusion", f"{CROPS} hand crops", CROPS, lambda: inputs, providers, counted)


def _flops_of_a_crop(channels: int) -> int:
    """FLOPs of the forward pass: matrix products only, counted by PyTorch."""
    with torch.device("meta"):
        module = PriorGuidedFusion(channels, "deformable", "live", "pose,fused")
        inputs = torch.empty(1, 21, channels), torch.empty(1, channels, 4, 4), torch.empty(1, 21, 2)
    with FlopCounterMode(display=False) as counter:
        _forced("reference", module)(*inputs)
    return counter.get_total_flops()


def _module_providers(module: nn.Module) -> dict[str, Callable]:
    """The module eager, compiled as a whole, and on the kernels; each takes inputs, and weights that want gradients."""
    compiled = compile_static(module)
    return {
        "eager": _forced("reference", lambda inputs, weights: module(*inputs)),
        "compiled": _forced("reference", lambda inputs, weights: compiled(*inputs)),
        "gpu": _forced("gpu", lambda inputs, weights: module(*inputs)),
    }


def _forced(version: str, call: Callable) -> Callable:
    """`call` with that version of the kernels."""

    def run(*inputs):
        with forcing(version):
            return call(*inputs)

    return run
