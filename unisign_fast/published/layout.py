"""How the published implementation names and shapes our parameters. Tables only; no model is built here.

Every tensor of ours is one published tensor, with four exceptions: the two hands share an encoder that is published
twice, but each has its own running statistics, of which the published code keeps the mixture; the cross attention's
three projections are published as one; and a layer that the published code never uses (`fusion_pose_rgb_linear`) does
not exist here.
"""

import re

import torch
from torch import Tensor

from unisign_fast.checkpoints.weight_files import RUNNING
from unisign_fast.model.batch_norm import MOMENTUM
from unisign_fast.pipelines.errors import InputError

PUBLISHED_PARTS = {"body": ("body",), "hand": ("left", "right"), "face": ("face_all",)}  # encoder -> published parts

RENAMES = (  # applied one after the other to a name of ours
    (r"^pose_encoders\.(\w+)\.embedding\.", r"proj_linear.\1."),
    (r"^pose_encoders\.(\w+)\.blocks\.(\d+)\.", r"gcn_modules.\1.layer\2_0."),
    (r"^temporal_encoders\.(\w+)\.blocks\.(\d+)\.", r"fusion_gcn_modules.\1.layer0_\2."),
    (r"\.graph\.adjacency$", ".gcn.A"),
    (r"\.graph\.shortcut_", ".residual.0."),
    (r"\.graph\.", ".gcn.conv."),
    (r"\.graph_norm\.", ".gcn.bn."),
    (r"\.time\.", ".tcn.0."),
    (r"\.time_norm\.", ".tcn.1."),
    (r"\.shortcut_norm\.", ".residual.1."),
    (r"^part_bias$", "part_para"),
    (r"^projection\.", "pose_proj."),
    (r"^language_model\.mt5\.", "mt5_model."),
    (r"^rgb\.backbone\.", "rgb_support_backbone.0."),
    (r"^rgb\.projection\.", "rgb_proj."),
    (r"^rgb\.fusion\.gate\.hidden\.", "fusion_gate.0."),
    (r"^rgb\.fusion\.gate\.out\.", "fusion_gate.2."),
    (r"^rgb\.fusion\.fourier$", "fusion_pose_rgb_DA.pe_layer.positional_encoding_gaussian_matrix"),
    (r"^rgb\.fusion\.map_attention\.out\.", "fusion_pose_rgb_DA.cross_attn.out_proj."),
    (r"^rgb\.fusion\.map_attention\.(?:query|key|value)\.", "fusion_pose_rgb_DA.cross_attn.in_proj_"),
    (r"^rgb\.fusion\.local\.", "fusion_pose_rgb_DA."),
    (r"_DA\.(query|key|value)$", lambda outcome: f"_DA.to_{outcome[1][0]}.weight"),
    (r"_DA\.out\.", "_DA.to_out."),
    (r"_DA\.offset_scale$", "_DA.to_offsets.0.weight"),
    (r"_DA\.offset_shift$", "_DA.to_offsets.0.bias"),
    (r"_DA\.offset_out$", "_DA.to_offsets.2.weight"),
    (r"_DA\.position_bias\.(weight|bias)([01])$", r"_DA.rel_pos_bias.mlp.\2.0.\1"),
    (r"_DA\.position_bias\.(weight|bias)2$", r"_DA.rel_pos_bias.mlp.2.\1"),
)
FLATTENED = re.compile(r"\.gcn\.conv\.(weight|bias)$|_DA\.to_[qkv]\.weight$")  # hops (or groups) and outputs: one axis
TRAILING_ONES = (  # kernel axes of size 1, which ours omit
    (2, re.compile(r"\.gcn\.conv\.weight$|\.residual\.0\.weight$|_DA\.to_[kv]\.weight$|_DA\.to_offsets\.0\.weight$")),
    (1, re.compile(r"_DA\.to_(q|out|offsets\.2)\.weight$|^fusion_gate\.\d\.weight$|\.tcn\.0\.weight$")),
)
JOINED = re.compile(r"map_attention\.(query|key|value)\.")  # three of ours, in this order, are one published tensor
UNUSED = "fusion_pose_rgb_linear"


def published_names(name: str) -> tuple[str, ...]:
    """The published names of our tensor `name`: two names for tensors shared by the hands."""
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    encoder = re.match(r"(?:proj_linear|(?:fusion_)?gcn_modules)\.(\w+)\.", name)
    if not encoder:
        return (name,)
    start, end = encoder.span(1)
    return tuple(name[:start] + part + name[end:] for part in PUBLISHED_PARTS[encoder[1]])


def publish(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors (state, gradients, statistics) by their published names and in their published shapes."""
    result: dict[str, Tensor] = {}
    for own_name, tensor in without_parts(named).items():
        for name in published_names(own_name):
            packed = _pack(name, tensor)
            result[name] = torch.cat([result[name], packed]) if JOINED.search(own_name) and name in result else packed
    return result


def unpublish(published: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `publish`: a tensor for every name in `own`, in the shapes given there."""
    result = {}
    for own_name, like in own.items():
        name = published_names(own_name)[0]
        tensor = published[name]
        if part := JOINED.search(own_name):
            tensor = tensor.chunk(3)[("query", "key", "value").index(part[1])]
        if name.endswith(".tcn.0.weight"):
            tensor = tensor[..., 0].permute(2, 0, 1)
        result[own_name] = tensor.expand_as(like) if name.endswith(RUNNING) else tensor.reshape(like.shape)
    return result


def check_copies(published: dict[str, Tensor], where: object) -> None:
    """Tensors that are stored twice must be equal, otherwise one copy would be lost: raises InputError naming the first
    difference."""
    for name, tensor in published.items():
        twin = name.replace(".left.", ".right.")
        if re.fullmatch(r"mt5_model\.(encoder|decoder)\.embed_tokens\.weight", name):
            twin = "mt5_model.shared.weight"
        if not torch.equal(tensor, published[twin]):
            raise InputError(
                where, f"{name} and {twin} differ, but Uni-Sign shares one tensor for both", "use a released file"
            )


def without_parts(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state of ours with one mixture of the running statistics of layers that both hands go through."""
    return {name: mixed(x) if name.endswith(RUNNING) and x.dim() == 2 else x for name, x in state.items()}


def mixed(running_2C: Tensor) -> Tensor:
    """The published running statistics [C] of a layer that both hands go through.

    In each step the left hand updates them with momentum 0.1, then the right hand does. Ours use the combined momentum
    of 0.19, so the left hand has weight 9/19: equal to the published result if every step has both hands. Equal inputs
    are returned bit for bit.
    """
    left_C, right_C = running_2C
    return torch.lerp(right_C, left_C, (1 - MOMENTUM) / (2 - MOMENTUM))


def _pack(name: str, tensor: Tensor) -> Tensor:
    if name.endswith(".tcn.0.weight"):  # taps first -> last
        tensor = tensor.permute(1, 2, 0)
    if FLATTENED.search(name):
        tensor = tensor.flatten(0, 1)
    for ones, pattern in TRAILING_ONES:
        if pattern.search(name):
            tensor = tensor.reshape(*tensor.shape, *[1] * ones)
    return tensor
