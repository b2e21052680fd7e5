"""Reads clips from keypoint stores and hand crops into the model's input.

    store -> ClipReader.read -> Sample;  samples and their hand crops -> ClipReader.batch -> PackedBatch

Every random choice is a function of seed, epoch and clip id (pipelines/rng.py).
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ..clips.augmentation import Frames, augment, read_augmentation
from ..clips.dataset import ClipRef, ClipSet
from ..clips.frame_sampling import choose_frames, sample_frames
from ..clips.keypoint_normalization import normalize_parts
from ..crops.boxes import crop_points
from ..crops.sources import NO_FRAMES, StoredHandCrops, VideoHandCrops, WantedHands, want_hands
from ..errors import InputError
from ..rng import stream
from ..settings import DataSettings
from ..skeleton import HANDS, WHOLEBODY, Skeleton
from ..store.clip import Clip
from ..store.crop_store import CropStore, crops_folder
from ..store.keypoint_store import KeypointStore
from .collate import Sample, collate
from .packed_batch import PackedBatch


class Tokenizer(Protocol):
    """Converts text to lists of tokens with an end token; called from several threads at once."""

    fingerprint: str  # identifies this tokenizer

    def prompt_ids(self, language: str) -> list[int]: ...

    def target_ids(self, text: str) -> list[int]: ...


class BadClip(NamedTuple):
    """A clip that can't be used: its number in the clip set, its id, and why."""

    number: int
    id: str
    error: InputError


class LoadedClips(NamedTuple):
    """A batch, the numbers of its clips in order, and the clips that were left out."""

    batch: PackedBatch
    numbers: list[int]
    bad: list[BadClip]


class ClipReader:
    """Reads clips of several stores; hand crops are placed on `device`. Thread-safe."""

    def __init__(
        self,
        stores: list[KeypointStore],
        settings: DataSettings,
        tokenizer: Tokenizer,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ):
        """Raises InputError if stores differ in their skeleton, or a crop store has no crops of the requested size."""
        self.stores, self.settings, self.tokenizer, self.seed = stores, settings, tokenizer, seed
        self.device = torch.device(device)
        self.skeleton = _common_skeleton(stores)
        self._augmentation = read_augmentation(settings.augment)
        self._crop_stores = {store.path: _crop_store(store, settings) for store in stores} if settings.p_samp else {}
        self._sources = threading.local()  # a decoder belongs to a thread

    def clips(self, split: str) -> ClipSet:
        """All clips of a split ("train", "dev", "test"), store by store. Raises InputError if there is none."""
        task, language = self.settings.task, self.settings.language
        key = [task, language, self.tokenizer.fingerprint]
        return ClipSet.from_stores(
            self.stores, split, lambda clip: self.tokenizer.target_ids(clip.target(task, language)), key
        )

    def read(self, ref: ClipRef, epoch: int, training: bool) -> Sample:
        """One clip. Random choices depend on seed, epoch and clip id; in evaluation, on seed and clip id only.

        Raises InputError for a bad clip: lost or non-finite keypoints, no person in any frame, or no text.
        """
        store, clip, label_ids = ref
        epoch = epoch if training else 0
        text = clip.target(self.settings.task, self.settings.language)
        packed = store.packed_keypoints(clip)
        if not packed[..., 2].any():
            where, problem = (
                f"{store.path}: clip {clip.id}: keypoints",
                f"nobody is found in any of {clip.frames} frames",
            )
            raise InputError(where, problem, "leave the clip out")
        is_cut = clip.frames > self.settings.max_frames
        rng = stream(self.seed, epoch, clip.id, "frames") if training and is_cut else None
        frames = choose_frames(clip.frames, self.settings.max_frames, rng)
        chosen = shown = packed[frames] if is_cut else packed
        if training and self._augmentation:
            frames, shown = self._augmented(clip, epoch, frames, chosen)
            chosen = packed[frames]
        try:
            poses = normalize_parts(shown, self.skeleton)
        except ValueError:
            where, remedy = f"{store.path}: clip {clip.id}: keypoints", "extract the pose again, or leave the clip out"
            raise InputError(where, "are not all finite numbers", remedy) from None
        crop_frame, hand_N, crops_per_hand = self._sampled(chosen, clip.id, epoch)
        from_video = len(crop_frame) > 0 and self._crop_stores[store.path] is None
        video = store.video(clip) if from_video else None
        hands = want_hands(clip, video, packed, frames[crop_frame], hand_N, self.settings.boxes, self.skeleton)
        return Sample(
            text=text,
            poses=poses,
            hands=hands,
            crops_per_hand=crops_per_hand,
            crop_frame=crop_frame,
            crop_points=crop_points(hands.points_px, hands.boxes),
            prompt_ids=self.tokenizer.prompt_ids(self.settings.language or clip.language),
            label_ids=label_ids,
        )

    def batch(
        self,
        clips: ClipSet,
        numbers: Sequence[int],
        epoch: int,
        training: bool,
        stopped: Callable[[], bool] = lambda: False,
    ) -> LoadedClips:
        """Packs these clips, without the bad ones.

        A clip is bad if `read` raises InputError or its hands cannot be read: the video is missing, does not decode or
        differs in length from the pose, or a crop is damaged. Returns early once `stopped()` is true.
        """
        samples: dict[int, Sample] = {}
        by_store: dict[Path, list[int]] = {}
        bad: list[BadClip] = []
        for number in numbers:
            if stopped():
                break
            try:
                ref = clips[number]
                samples[number] = self.read(ref, epoch, training)
                by_store.setdefault(ref.store.path, []).append(number)
            except InputError as error:
                bad.append(BadClip(number, clips.name(number), error))
        crops: dict[int, Tensor] = {}
        for path, mine in by_store.items():
            for number, result in zip(mine, self._crops(path, [samples[n].hands for n in mine]), strict=True):
                if isinstance(result, InputError):
                    bad.append(BadClip(number, clips.name(number), result))
                else:
                    crops[number] = result
        good = [number for number in samples if number in crops]
        batch = collate([samples[n] for n in good], [crops[n] for n in good], self.settings.crop_size, self.skeleton)
        return LoadedClips(batch, good, bad)

    def _augmented(
        self, clip: Clip, epoch: int, frames: np.ndarray, keypoints: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The frames to show instead of `frames`, and their augmented keypoints, float32."""
        aspect = clip.width / clip.height
        before = Frames(keypoints.astype(np.float32), frames, aspect, self.skeleton.part_joints["body"])
        after = augment(before, self._augmentation, lambda purpose: stream(self.seed, epoch, clip.id, purpose))
        return after.numbers, after.keypoints

    def _sampled(
        self, keypoints: np.ndarray, clip_id: str, epoch: int
    ) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
        """Sampled frames, left-hand ones first; the hand of each; and the number of crops per hand."""
        p_samp, sampling = self.settings.p_samp, self.settings.sampling
        if p_samp == 0:
            return NO_FRAMES, NO_FRAMES, (0, 0)
        left, right = (
            sample_frames(
                keypoints[:, self.skeleton.part_joints[hand], 2],
                p_samp,
                sampling,
                stream(self.seed, epoch, clip_id, hand),
                self.skeleton.fingertips,
            )
            for hand in HANDS
        )
        counts = len(left), len(right)
        return np.concatenate([left, right]), np.repeat((0, 1), counts), counts

    def _crops(self, store: Path, wanted: Sequence[WantedHands]) -> list[Tensor | InputError]:
        """Reads the crops with this thread's source for the store."""
        if not any(len(hands.frames) for hands in wanted):
            size = self.settings.crop_size
            return [torch.zeros(0, 3, size, size, dtype=torch.uint8, device=self.device)] * len(wanted)
        sources: dict[Path, StoredHandCrops | VideoHandCrops] = self._sources.__dict__.setdefault("by_store", {})
        if store not in sources:
            crop_store = self._crop_stores[store]
            if crop_store is None:
                sources[store] = VideoHandCrops(self.settings.crop_size, self.device)
            else:
                sources[store] = StoredHandCrops(crop_store, self.device)
        return sources[store].read(wanted)


def _common_skeleton(stores: list[KeypointStore]) -> Skeleton:
    """The skeleton of all stores; the default one without any. Raises InputError if they differ."""
    for store in stores[1:]:
        if store.skeleton is not stores[0].skeleton:
            problem = f"has the skeleton {store.skeleton.name}, {stores[0].path} has {stores[0].skeleton.name}"
            raise InputError(store.path, problem, "name stores of one skeleton")
    return stores[0].skeleton if stores else WHOLEBODY


def _crop_store(store: KeypointStore, settings: DataSettings) -> CropStore | None:
    """The store's crops, if they are to be used."""
    there = (crops_folder(store) / "crops.json").exists()
    if settings.crops == "video" or settings.crops is None and (not there or settings.boxes != "clip"):
        return None
    crops = CropStore(store)
    if crops.size != settings.crop_size:
        problem = f"the crops of {crops.path} are {crops.size} pixels wide, not {settings.crop_size}"
        command = f"rm -r {crops.path}; python launch/prepare.py crops {store.path} --size {settings.crop_size}"
        remedy = f"cut them again ({command}), give --crop-size {crops.size}, or --crops video"
        raise InputError("--crop-size", problem, remedy)
    return crops
