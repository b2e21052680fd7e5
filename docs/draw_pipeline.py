"""Draws docs/images/pipeline.png: a clip of the demo corpus on its way from video to text.

    python docs/draw_pipeline.py

Everything in the picture comes out of the project's own functions: the signer and its keypoints, the frames that
score-aware sampling draws, the hand boxes and crops.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle

from unisign_fast.pipelines.clips.frame_sampling import sample_frames
from unisign_fast.pipelines.crops.boxes import hand_boxes, side_of_clip
from unisign_fast.pipelines.crops.video import VideoFile
from unisign_fast.pipelines.demo_corpus import make_clip
from unisign_fast.pipelines.demo_corpus.plan import plan_corpus
from unisign_fast.pipelines.rng import stream
from unisign_fast.pipelines.skeleton import HANDS, PART_EDGES, PART_JOINTS

OUT = Path(__file__).parent / "images" / "pipeline.png"
FRAMES, P_SAMP = 8, 0.1
COLOURS = {"body": "#4c78a8", "left": "#e45756", "right": "#f2a03d", "face": "#54a24b"}


def draw_skeleton(axis: plt.Axes, points_J2: np.ndarray) -> None:
    """The four parts that the model sees, over a frame; points in pixels."""
    for part, joints in PART_JOINTS.items():
        lines = [points_J2[joints[[v, w]]] for v, w in PART_EDGES[part]]
        axis.add_collection(LineCollection(lines, colors=COLOURS[part], linewidths=1.1))


def crop(picture_HW3: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The box cut out of the picture, black beyond its edges."""
    x0, y0, x1, y1 = box
    height, width = picture_HW3.shape[:2]
    patch = np.zeros((y1 - y0, x1 - x0, 3), np.uint8)
    top, left, bottom, right = max(y0, 0), max(x0, 0), min(y1, height), min(x1, width)
    patch[top - y0 : bottom - y0, left - x0 : right - x0] = picture_HW3[top:bottom, left:right]
    return patch


def main() -> None:
    """Make the clip, sample its hands and draw the strip."""
    plan = next(plan for plan in plan_corpus(60, seed=0) if len(plan.sentence.glosses) > 2)
    with TemporaryDirectory() as folder:
        keypoints_TJ3 = make_clip(plan, Path(folder))
        shown = np.linspace(4, len(keypoints_TJ3) - 5, FRAMES).astype(np.int64)
        with VideoFile(Path(folder) / f"{plan.id}.mp4") as video:
            pictures = dict(video.frames(np.arange(len(keypoints_TJ3))))
    height, width = pictures[0].shape[:2]
    points_TJ2 = keypoints_TJ3[..., :2] * (width, height)
    hands_px = np.concatenate([points_TJ2[:, PART_JOINTS[hand]] for hand in HANDS])
    confidence = np.concatenate([keypoints_TJ3[:, PART_JOINTS[hand], 2] for hand in HANDS])
    side = side_of_clip(hands_px, confidence)
    sampled = [
        (hand, frame)
        for hand in HANDS
        for frame in sample_frames(keypoints_TJ3[:, PART_JOINTS[hand], 2], P_SAMP, "paper", stream(0, 0, plan.id, hand))
    ][:FRAMES]

    figure, axes = plt.subplots(2, FRAMES, figsize=(12, 3.7))
    figure.subplots_adjust(left=0.003, right=0.997, top=0.94, bottom=0.11, wspace=0.06, hspace=0.16)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, frame in zip(axes[0], shown):
        axis.imshow(pictures[frame])
        draw_skeleton(axis, points_TJ2[frame])
        axis.set(xlim=(0, width), ylim=(height, 0))
    for axis, (hand, frame) in zip(axes[1], sampled):
        (box,) = hand_boxes(points_TJ2[None, frame, PART_JOINTS[hand]], side)
        patch = crop(pictures[frame], box)
        axis.imshow(patch)
        axis.add_patch(Rectangle((0, 0), side - 1, side - 1, fill=False, edgecolor=COLOURS[hand], linewidth=3))
        axis.text(side / 2, 1.04 * side, f"{hand}, frame {frame}", fontsize=7, color="#555555", ha="center", va="top")
    axes[0, 0].set_title("keypoints of every frame", loc="left", fontsize=9)
    drawn = f"hand crops of the frames drawn by score-aware sampling (p_samp {P_SAMP})"
    axes[1, 0].set_title(drawn, loc="left", fontsize=9)
    figure.supxlabel(f"the sentence that mT5 learns to write: {plan.sentence.english}", fontsize=11)
    OUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUT, dpi=130)
    print(f"{OUT}: {len(keypoints_TJ3)} frames, {len(sampled)} hand crops drawn")


if __name__ == "__main__":
    main()
