"""Reads what the report shows of a clip: skeleton, hand crops, video frames, and how the model used sampled crops.

Shapes: T frames, those that the model sees in evaluation; J packed joints of the store's skeleton (69 of the default
one); S side of a crop; V joints of a hand; G groups of sampling points.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.batches.packed_batch import PackedBatch
from unisign_fast.pipelines.batches.reader import ClipReader
from unisign_fast.pipelines.clips.dataset import ClipRef, ClipSet
from unisign_fast.pipelines.clips.frame_sampling import choose_frames
from unisign_fast.pipelines.crops.video import VideoFile
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.skeleton import HANDS, Skeleton, hand_rows
from unisign_fast.pipelines.store.clip import Clip
from unisign_fast.pipelines.store.crop_store import crops_folder
from unisign_fast.pipelines.store.keypoint_store import KeypointStore
from unisign_fast.pipelines.targets import language_code
from unisign_fast.report.fusion_probe import Fusion, probe
from unisign_fast.report.run_folder import RunFolder

FRAME_SIDE = 256  # longer side of a shown video frame, pixels


@dataclass(frozen=True)
class SampledCrop:
    """A hand crop that the model used."""

    frame: int  # of the T
    picture: np.ndarray  # [S, S, 3] uint8
    point_V2: np.ndarray  # keypoints in the crop, [0, 1]
    gate_V: np.ndarray | None  # None without weights
    position_GV2: np.ndarray | None  # sampling points in the crop; None without weights or with cross-attention


@dataclass(frozen=True)
class HandView:
    """One hand of a clip."""

    name: str  # of skeleton.HANDS
    confidence_T: np.ndarray  # mean over the hand's joints
    crops: dict[int, np.ndarray]  # frame of the T -> [S, S, 3] uint8; not every frame has one
    sampled: list[SampledCrop]


@dataclass(frozen=True)
class ClipView:
    """One clip."""

    clip: Clip
    target: str  # the reference
    language: str  # of the target
    skeleton: Skeleton  # of the keypoints
    frames: np.ndarray  # [T] frame numbers in the clip
    keypoints_TJ3: np.ndarray  # x, y as fractions of the picture, raw confidence
    hands: list[HandView]
    pictures: np.ndarray | None  # [T, h, w, 3] uint8: whole video frames, scaled down; None unless asked for
    problems: list[str] = field(default_factory=list)  # why pictures are missing


class NoTexts:
    """A stand-in for the Tokenizer: only pictures and poses of the batches are used."""

    fingerprint = "none"

    def prompt_ids(self, language: str) -> list[int]:
        return []

    def target_ids(self, text: str) -> list[int]:
        return []


class ClipViewer:
    """Reads the clips of a split for the page; `model` is None without weights or without an RGB branch."""

    def __init__(self, run: RunFolder, stores: list[KeypointStore], split: str, model: UniSign | None, faces: bool):
        """`faces`: also read video frames. Raises InputError if the split is empty or a crop store has crops of a size
        other than the run's.
        """
        self.model, self.faces = model, faces
        self._as_trained = ClipReader(stores, run.data, NoTexts(), run.seed)
        self.clips: ClipSet = self._as_trained.clips(split)
        self._every_hand, self._problems = None, []
        try:  # the published rule at p_samp 1 samples every hand of non-zero confidence
            every = replace(run.data, p_samp=1.0, sampling="published")
            self._every_hand = ClipReader(stores, every, NoTexts(), run.seed)
        except InputError as error:  # the crop size of a pose-only run need not be that of the store
            self._problems.append(str(error))

    def view(self, number: int) -> ClipView:
        """Clip `number` of `clips`; its `problems` say which pictures cannot be read.

        Raises InputError if its keypoints or its text cannot be read.
        """
        ref = self.clips[number]
        skeleton, keypoints = ref.store.skeleton, ref.store.keypoints(ref.clip)
        settings = self._as_trained.settings
        target, language = (
            ref.clip.target(settings.task, settings.language),
            language_code(settings.language or ref.clip.language),
        )
        frames = choose_frames(len(keypoints), settings.max_frames, None)
        packed = keypoints[frames][:, skeleton.packed_joints]
        problems = list(self._problems)
        has_pictures = bool(ref.clip.source) or (crops_folder(ref.store) / "crops.json").exists()
        if not has_pictures:
            problems.append(f"No hand crops and no video: {ref.store.path} holds keypoints only.")
        every = self._batch(self._every_hand, number, problems) if has_pictures else None
        sampled = self._batch(self._as_trained, number, problems) if has_pictures else None
        crops = self._sampled_crops(sampled) if sampled else []
        hands = []
        for hand, name in enumerate(HANDS):
            mine = [crops[row] for row in _rows(sampled, hand)] if sampled else []
            pictures = _pictures_by_frame(every, hand) if every else {}
            pictures |= {crop.frame: crop.picture for crop in mine}
            confidence = packed[:, skeleton.slices[name], 2].mean(axis=1)
            hands.append(HandView(name, confidence, dict(sorted(pictures.items())), mine))
        shown = self._video_frames(ref, frames, problems) if self.faces and ref.clip.source else None
        reasons = list(dict.fromkeys(problems))
        return ClipView(ref.clip, target, language, skeleton, frames, packed, hands, shown, reasons)

    def _sampled_crops(self, batch: PackedBatch) -> list[SampledCrop]:
        """The crops of a batch in order, each with its gates and sampling points."""
        count = len(batch.crops)
        fusion = probe(self.model, batch) if self.model and count else Fusion(None, None)
        gates, positions = ([None] * count if values is None else list(values) for values in fusion)
        frames, points = batch.crop_frame.tolist(), batch.crop_points.numpy()
        pictures = (_picture(batch, row) for row in range(count))
        return [SampledCrop(*row) for row in zip(frames, pictures, points, gates, positions, strict=True)]

    def _batch(self, reader: ClipReader | None, number: int, problems: list[str]) -> PackedBatch | None:
        if reader is None:
            return None
        loaded = reader.batch(self.clips, [number], epoch=0, training=False)
        problems += [str(bad.error) for bad in loaded.bad]
        return None if loaded.bad else loaded.batch

    def _video_frames(self, ref: ClipRef, frames: np.ndarray, problems: list[str]) -> np.ndarray | None:
        scale = min(1, FRAME_SIDE / max(ref.clip.width, ref.clip.height))
        size = max(1, round(scale * ref.clip.width)), max(1, round(scale * ref.clip.height))
        try:
            with VideoFile(ref.store.video(ref.clip), ref.clip.box) as video:
                pictures = [p for _, p in video.frames(ref.clip.video_start + frames)]
        except InputError as error:
            problems.append(str(error))
            return None
        return np.stack([np.asarray(Image.fromarray(p).resize(size)) for p in pictures])


def _rows(batch: PackedBatch, hand: int) -> range:
    """The crops of HANDS[hand]."""
    return range(len(batch.crops))[hand_rows(batch.crops_per_hand, hand)]


def _pictures_by_frame(batch: PackedBatch, hand: int) -> dict[int, np.ndarray]:
    return {int(batch.crop_frame[row]): _picture(batch, row) for row in _rows(batch, hand)}


def _picture(batch: PackedBatch, row: int) -> np.ndarray:
    return batch.crops[row].permute(1, 2, 0).contiguous().numpy()
