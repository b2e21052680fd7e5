"""The published code's data path, reimplemented from its rules as a baseline.

One pickle of a small array a frame and one video a clip; numpy frame by frame; the video read from its start, whole
frames converted; PIL; float pixels normalised on the CPU; clips padded with their last frame.
"""

import pickle
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unisign_fast.model.rgb_branch import IMAGENET_MEAN, IMAGENET_STD
from unisign_fast.pipelines.batches.collate import Sample
from unisign_fast.pipelines.clips.keypoint_normalization import CONFIDENT, MIN_POINTS
from unisign_fast.pipelines.skeleton import PART_JOINTS, PARTS, ROOT_JOINT


def write_pose(path: Path, keypoints: np.ndarray) -> None:
    """A pose pickle as published, from [T, 133, 3]: points in float64, scores in float32."""
    pose = {
        "keypoints": [frame[None, :, :2] for frame in keypoints],
        "scores": [frame[None, :, 2] for frame in keypoints],
    }
    path.write_bytes(pickle.dumps(pose))


def read_parts(path: Path, frames: np.ndarray | slice = slice(None)) -> dict[str, Tensor]:
    """The four normalised parts [T, V, 3] of a pose pickle that this benchmark wrote, of these frames or all."""
    pose = pickle.loads(path.read_bytes())
    wanted = np.arange(len(pose["scores"]))[frames].tolist()
    pose = {name: [values[frame] for frame in wanted] for name, values in pose.items()}
    parts, scale = {}, None
    for part in PARTS:
        points, scores = [], []
        for frame, confidence in zip(pose["keypoints"], pose["scores"]):
            joints = frame[0][PART_JOINTS[part]]
            points.append(joints - joints[ROOT_JOINT[part]] if part in ROOT_JOINT else joints)
            scores.append(confidence[0][PART_JOINTS[part]])
        motion = np.concatenate([np.stack(points), np.stack(scores)[..., None]], axis=-1)
        if part == "body":
            seen = motion[motion[..., 2] > CONFIDENT][:, :2]
            if len(seen) < MIN_POINTS:
                return {name: torch.zeros(len(points), len(PART_JOINTS[name]), 3) for name in PARTS}
            low, high = (np.array([pick(seen[:, axis]) for axis in range(2)]) for pick in (min, max))  # as published
            scale = (high - low).max()
            motion[..., :2] = ((motion[..., :2] - (low + high - scale) / 2) / scale - 0.5) * 2
        else:
            motion[..., :2] /= scale
        motion = np.clip(motion, -1, 1)
        motion[motion[..., 2] <= CONFIDENT] = 0
        parts[part] = torch.tensor(motion)
    return parts


def pad(clips: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The parts of several clips [B, T, V, 3], each padded with its last frame."""
    longest = max(len(clip["body"]) for clip in clips)
    return {
        part: torch.stack([torch.cat([c[part], c[part][-1:].expand(longest - len(c[part]), -1, -1)]) for c in clips])
        for part in PARTS
    }


def read_hands(video: Path, sample: Sample, size: int) -> Tensor:
    """The sample's hand crops [n, 3, size, size] float32, normalised, from one sequential pass over its video."""
    frames = sample.hands.clip.video_start + sample.hands.frames
    pictures, wanted, last = {}, set(frames.tolist()), frames.max()
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(stream)):
            picture = frame.to_ndarray(format="rgb24")
            if number in wanted:
                pictures[number] = picture
            if number == last:
                break
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    crops = torch.zeros(len(frames), 3, size, size)
    for row, (number, (x0, y0, x1, y1)) in enumerate(zip(frames.tolist(), sample.hands.boxes.tolist())):
        cut = pictures[number][max(y0, 0) : y1, max(x0, 0) : x1].copy()
        below, beside = max(0, y1 - y0 - cut.shape[0]), max(0, x1 - x0 - cut.shape[1])
        cut = np.pad(cut, ((0, below), (0, beside), (0, 0)))
        pixels = np.asarray(Image.fromarray(cut).resize((size, size)), np.float32).transpose(2, 0, 1) / 255
        crops[row] = torch.from_numpy((pixels - mean) / std)
    return crops
