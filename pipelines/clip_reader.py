"""Reading one clip: from a keypoint store and a video to the numbers the model sees.

Everything random follows from the seed, the epoch and the clip's id (pipelines/random_streams.py).
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np

from pipelines.errors import InputError
from pipelines.hand_boxes import crop_points, hand_boxes
from pipelines.hand_crops import HandCropReader
from pipelines.keypoint_store import KeypointStore
from pipelines.manifest import LANGUAGES, TASKS, Clip
from pipelines.part_normalize import choose_frames, normalize_parts
from pipelines.random_streams import stream
from pipelines.score_sampling import RULES, Rule, sample_frames
from pipelines.skeleton import HANDS, PART_JOINTS

LENGTH_TOLERANCE = 3  # frames by which pose and video may differ: many files declare a few more than can be decoded
MAX_BOX_SIDE = 2  # times the larger side of the picture; beyond it the keypoints are not fractions of the picture


@dataclass(frozen=True)
class DataSettings:
    """What a clip is turned into."""

    task: Literal["slt", "cslr", "islr"] = "slt"  # the target: sentence, glosses or word
    language: Literal["zh", "en"] | None = None  # of prompt and target; None: the clip's own
    max_frames: int = 256  # of a clip; from a longer one so many are chosen
    p_samp: float = 0.1  # share of frames whose hand pictures are sampled; 0 is pose-only, and no video is opened
    sampling: Rule = "paper"  # Algorithm 1, or the published code's rule
    crop_size: int = 112  # side of a hand crop, pixels

    def __post_init__(self):
        self._check("task", self.task in TASKS, f"choose one of {', '.join(TASKS)}")
        self._check("language", self.language in (None, *LANGUAGES), f"choose one of {', '.join(LANGUAGES)}")
        self._check("max_frames", self.max_frames >= 1, "give 1 or more")
        self._check("p_samp", 0 <= self.p_samp <= 1, "give a share in [0, 1]")
        self._check("sampling", self.sampling in RULES, f"choose one of {', '.join(RULES)}")
        self._check("crop_size", self.crop_size >= 1, "give 1 or more pixels")

    def _check(self, name: str, good: bool, remedy: str) -> None:
        if not good:
            raise InputError(f"--{name.replace('_', '-')}", f"{getattr(self, name)!r} is not possible", remedy)


class TextCodec(Protocol):
    """Text to tokens, each list with its end token; called from several threads at once."""

    def prompt_ids(self, language: str) -> list[int]: ...

    def target_ids(self, text: str) -> list[int]: ...


class ClipRef(NamedTuple):
    """A clip and the store it is in."""

    store: KeypointStore
    clip: Clip


@dataclass(frozen=True)
class Sample:
    """One clip, ready to be packed; arrays as in PackedBatch, crop_frame counting the clip's own chosen frames."""

    clip_id: str
    text: str
    poses: np.ndarray  # [T, 69, 3] float32
    crops: np.ndarray  # [n, 3, S, S] uint8, left ones first
    crops_per_hand: tuple[int, int]
    crop_frame: np.ndarray  # [n] int64
    crop_points: np.ndarray  # [n, 21, 2] float32
    prompt_ids: list[int]
    label_ids: list[int]

    def rows(self, hand: int) -> slice:
        """The rows of `crops`, `crop_frame` and `crop_points` that belong to HANDS[hand]."""
        left = self.crops_per_hand[0]
        return slice(left, None) if hand else slice(left)


class ClipReader:
    """Reads clips of some stores as the settings say. Safe to use from several threads at once."""

    def __init__(self, stores: list[KeypointStore], settings: DataSettings, codec: TextCodec, seed: int = 0):
        self.stores, self.settings, self.codec, self.seed = stores, settings, codec, seed

    def clips(self, split: str) -> list[ClipRef]:
        """All clips of a split ("train", "dev", "test"), store by store; InputError if there is none."""
        refs = [ClipRef(store, clip) for store in self.stores for clip in store.clips if clip.split == split]
        if not refs:
            where = ", ".join(str(store.path) for store in self.stores)
            raise InputError(f"{where}: manifest.jsonl: split", f"no clip is {split!r}", "name a store that has some")
        return refs

    def read(self, ref: ClipRef, epoch: int, training: bool) -> Sample:
        """One clip; random choices follow from seed, epoch and clip id, in evaluation from seed and clip id alone.

        Raises InputError for a bad clip: lost or non-finite keypoints, no text, a video that is missing, does not
        decode or is of another length than the pose.
        """
        store, clip = ref
        epoch = epoch if training else 0
        text = clip.target(self.settings.task, self.settings.language)
        keypoints = store.keypoints(clip)
        if not np.isfinite(keypoints).all():
            where = f"{store.path}: clip {clip.id}: keypoints"
            raise InputError(where, "are not all finite numbers", "extract the pose again, or leave the clip out")
        rng = stream(self.seed, epoch, clip.id, "frames") if training else None
        frames = choose_frames(len(keypoints), self.settings.max_frames, rng)
        keypoints = keypoints[frames]
        crops, crops_per_hand, crop_frame, points = self._hands(ref, keypoints, frames, epoch)
        return Sample(
            clip_id=clip.id,
            text=text,
            poses=normalize_parts(keypoints),
            crops=crops,
            crops_per_hand=crops_per_hand,
            crop_frame=crop_frame,
            crop_points=points,
            prompt_ids=self.codec.prompt_ids(self.settings.language or clip.language),
            label_ids=self.codec.target_ids(text),
        )

    def _hands(
        self, ref: ClipRef, keypoints: np.ndarray, frames: np.ndarray, epoch: int
    ) -> tuple[np.ndarray, tuple[int, int], np.ndarray, np.ndarray]:
        """Samples and crops the hands of the chosen `frames`: crops, crops per hand, crop_frame, crop_points."""
        store, clip = ref
        size, p_samp, rule = self.settings.crop_size, self.settings.p_samp, self.settings.sampling
        sampled, hands = [], []
        for hand in HANDS:
            hand_TVC = keypoints[:, PART_JOINTS[hand]]
            rng = stream(self.seed, epoch, clip.id, hand)
            sampled.append(sample_frames(hand_TVC[:, :, 2], p_samp, rule, rng))
            hands.append(hand_TVC[sampled[-1], :, :2])
        crop_frame, points = np.concatenate(sampled), np.concatenate(hands).astype(np.float64)
        crops_per_hand = (len(sampled[0]), len(sampled[1]))
        if len(crop_frame) == 0:
            return np.zeros((0, 3, size, size), np.uint8), crops_per_hand, crop_frame, points.astype(np.float32)
        with HandCropReader(store.video(clip)) as video:
            _check_length(video, clip)
            points_px = points * (video.width, video.height)
            boxes = hand_boxes(points_px)
            side = boxes[0, 2] - boxes[0, 0]
            if side > MAX_BOX_SIDE * max(video.width, video.height):
                problem = f"a hand would be {side} pixels wide in a picture of {video.width}x{video.height}"
                remedy = "give x and y as fractions of width and height"
                raise InputError(f"{store.path}: clip {clip.id}: keypoints", problem, remedy)
            crops = video.read(clip.video_start + frames[crop_frame], boxes, size)
        return crops, crops_per_hand, crop_frame, crop_points(points_px, boxes)


def _check_length(video: HandCropReader, clip: Clip) -> None:
    """InputError if the video is not as long as the pose's video was."""
    expected = clip.video_frames or clip.video_start + clip.frames
    if video.declared_frames and abs(video.declared_frames - expected) > LENGTH_TOLERANCE:
        problem = f"has {video.declared_frames} frames, the pose of clip {clip.id} is for {expected}"
        raise InputError(video.video, problem, "extract the pose from this very video again")
