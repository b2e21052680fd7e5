"""Figures of a clip: coordinates of its SVGs, and the data that the player in script.js draws."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from unisign_fast.pipelines.clips.keypoint_normalization import CONFIDENT
from unisign_fast.pipelines.skeleton import HANDS, PARTS, Skeleton
from unisign_fast.report.charts import thinned
from unisign_fast.report.clip_view import ClipView, HandView, SampledCrop
from unisign_fast.report.pictures import FRACTION, data_uri, packed_numbers, sprite

MAX_CROPS = 6  # sampled crops per hand that are shown enlarged
SHOULDERS = "left_shoulder", "right_shoulder"  # joint names; a skeleton may lack them


class Mark(NamedTuple):
    """A sampled frame on the strip."""

    percent: float  # of the strip's width
    frame: int


@dataclass(frozen=True)
class Strip:
    """A hand's mean confidence over the frames; 100 x 40 units, 1 at the top."""

    hand: str
    line: str
    threshold: float  # height of CONFIDENT
    marks: list[Mark]
    summary: str  # one sentence


@dataclass(frozen=True)
class CropFigure:
    """A sampled crop with its gates and sampling points; 100 x 100 units."""

    uri: str
    samples: str  # path of dots
    joints: list[tuple[float, float, float]]  # x, y, radius
    caption: str


@dataclass(frozen=True)
class ClipFigures:
    """Everything that is shown of a clip except its texts."""

    index: int  # of the clip on the page, from 0
    target: str
    language: str
    about: str
    strips: list[Strip]
    crops: list[CropFigure]
    crops_left_out: int
    has_gates: bool
    has_samples: bool
    player: dict
    problems: list[str]


def clip_figures(view: ClipView, index: int) -> ClipFigures:
    """The figures of a clip, which is number `index` on the page, from 0."""
    clip = view.clip
    chosen = [(hand.name, crop) for hand in view.hands for crop in thinned(hand.sampled, MAX_CROPS)]
    sampled = [crop for hand in view.hands for crop in hand.sampled]
    tags = "".join(f", {name} {value}" for name, value in clip.tags.items())
    frames = f"{len(view.frames)} of {clip.frames}" if len(view.frames) < clip.frames else f"{clip.frames}"
    return ClipFigures(
        index=index,
        target=view.target,
        language=view.language,
        about=f"{frames} frames at {clip.fps:g} per second, video {clip.width}x{clip.height}{tags}",
        strips=[_strip(hand) for hand in view.hands],
        crops=[_crop_figure(hand, crop, view) for hand, crop in chosen],
        crops_left_out=len(sampled) - len(chosen),
        has_gates=any(crop.gate_V is not None for crop in sampled),
        has_samples=any(crop.position_GV2 is not None for crop in sampled),
        player=_player(view, index),
        problems=view.problems,
    )


def _strip(hand: HandView) -> Strip:
    frames = len(hand.confidence_T)
    x = (np.arange(frames) + 0.5) / frames * 100
    y = 40 * (1 - hand.confidence_T.clip(0, 1))
    sampled = [crop.frame for crop in hand.sampled]
    confidence = f"between {hand.confidence_T.min():.2f} and {hand.confidence_T.max():.2f}"
    which = f"sampled: {', '.join(str(t + 1) for t in sampled)}" if sampled else "no frame is sampled"
    return Strip(
        hand=hand.name,
        line=" ".join(f"{a:.2f},{b:.1f}" for a, b in zip(x, y)),
        threshold=40 * (1 - float(CONFIDENT)),
        marks=[Mark(round(float(x[t]), 2), t + 1) for t in sampled],
        summary=f"{hand.name.capitalize()} hand: mean confidence {confidence} over {frames} frames; {which}.",
    )


def _crop_figure(hand: str, crop: SampledCrop, view: ClipView) -> CropFigure:
    side = view.hands[HANDS.index(hand)]
    caption = f"{hand.capitalize()} hand, frame {crop.frame + 1}: confidence {side.confidence_T[crop.frame]:.2f}"
    radius_V = np.full(len(crop.point_V2), 1.5)
    if crop.gate_V is not None:
        caption += f", gate {crop.gate_V.mean():.2f} on average, {crop.gate_V.max():.2f} at most"
        radius_V = 1.2 + 4 * crop.gate_V
    dots = [] if crop.position_GV2 is None else (100 * crop.position_GV2.reshape(-1, 2)).tolist()
    joints = zip(*(100 * crop.point_V2).T.tolist(), radius_V.tolist())
    return CropFigure(
        uri=data_uri(crop.picture),
        samples="".join(f"M{x:.1f} {y:.1f}h0" for x, y in dots),
        joints=[(round(x, 1), round(y, 1), round(r, 1)) for x, y, r in joints],
        caption=caption,
    )


def _player(view: ClipView, index: int) -> dict:
    """The data that script.js draws."""
    return {
        "id": view.clip.id,
        "index": index,
        "width": view.clip.width,
        "height": view.clip.height,
        "fps": view.clip.fps * len(view.frames) / view.clip.frames,  # of the chosen frames
        "rate": view.clip.fps,  # of all frames
        "frames": view.frames.tolist(),
        "fraction": FRACTION,
        "confident": float(CONFIDENT),
        "keypoints": packed_numbers(view.keypoints_TJ3),
        "joints": view.keypoints_TJ3.shape[1],
        "parts": {part: _edges(view.skeleton, part) for part in PARTS},
        "slices": {part: [joints.start, joints.stop] for part, joints in view.skeleton.slices.items()},
        "hands": [
            {
                "name": hand.name,
                "shown": list(hand.crops),
                "sprite": sprite(list(hand.crops.values())) if hand.crops else None,
                "sampled": [crop.frame for crop in hand.sampled],
            }
            for hand in view.hands
        ],
        "video": None if view.pictures is None else sprite(list(view.pictures)),
    }


def _edges(skeleton: Skeleton, name: str) -> list[list[int]]:
    """Lines between packed joints: the model's graph without the edges that meet at the nose, which hide the person.

    The shoulders are joined to each other, and each hand is joined to its wrist.
    """
    part, body, first = skeleton.parts[name], skeleton.parts["body"], skeleton.slices[name].start
    center = {"body": skeleton.parts["face"].anchor, "face": part.root}.get(name)
    edges = [[first + a, first + b] for a, b in part.edges if center not in (a, b)]
    if name == "body":
        shoulders = [first + index for index, joint in enumerate(body.joints) if skeleton.joints[joint] in SHOULDERS]
        edges += [shoulders] if len(shoulders) == len(SHOULDERS) else []
    if name in HANDS:
        assert part.anchor is not None and part.root is not None, "only the body has none"
        edges.append([skeleton.slices["body"].start + part.anchor, first + part.root])
    return edges
