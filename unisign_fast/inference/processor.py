"""Prepares recordings as model input for translation.

    recording -> windows -> a small temporary store -> ClipReader -> PackedBatch

A recording of at most `window` frames is one window. A longer one is cut into as few windows of equal length as
possible, each sharing `overlap` x `window` frames with the previous one, so that a sign cut by the border of one window
is complete in the other. The model sees `max_frames` evenly spaced frames of a window, as in evaluation. Training also
subsamples longer clips to max_frames, so by default a window is twice as long.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self, TypedDict, Unpack

import torch

from unisign_fast.checkpoints.model_folder import find_model, load_data_settings, trained_languages
from unisign_fast.inference.inputs import Arrays, array_poses, pose_recordings
from unisign_fast.model.config import ModelConfig
from unisign_fast.pipelines.batches.packed_batch import PackedBatch
from unisign_fast.pipelines.batches.reader import ClipReader
from unisign_fast.pipelines.corpus.recordings import Recording
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.pipelines.skeleton import WHOLEBODY, Skeleton
from unisign_fast.pipelines.skeletons import check_skeleton
from unisign_fast.pipelines.store.keypoint_store import KeypointStore, KeypointStoreWriter
from unisign_fast.pipelines.targets import language_name, read_language
from unisign_fast.text.tokenizer import Tokenizer

NO_TEXT = "?"  # a placeholder: the reader refuses clips without a text


@dataclass(frozen=True)
class Window:
    """Frames `first` to `end` (exclusive) of a recording."""

    recording: Recording
    first: int
    end: int

    @property
    def id(self) -> str:
        """The clip's own id if the window covers the whole clip: its hands are then sampled as in evaluation."""
        clip = self.recording.clip
        return clip.id if self.end - self.first == clip.frames else f"{clip.id}:{self.first}"


@dataclass(frozen=True)
class Prepared:
    """Windows by id, the batch of the readable ones (None if there are none), and an error for each of the others."""

    windows: dict[str, Window]
    batch: PackedBatch | None
    bad: dict[str, InputError]


class ProcessorOptions(TypedDict, total=False):
    """The keyword arguments of `Processor` that the user chooses."""

    language: str | None
    p_samp: float | None
    window: int | None
    overlap: float
    device: torch.device | str


class Processor:
    """Prepares keypoints and videos for a model, as they were prepared for its training."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        data: DataSettings,
        *,
        rgb: bool = False,
        skeleton: Skeleton = WHOLEBODY,
        language: str | None = None,
        p_samp: float | None = None,
        window: int | None = None,
        overlap: float = 0.25,
        device: torch.device | str = "cpu",
    ):
        """`data` says how clips were prepared in training, `rgb` whether the model has an RGB branch, and `skeleton`
        which keypoints it reads.

        The target `language` and `p_samp`, the share of frames whose hands are sampled (paper, section 3.3), default
        to those of training. `window` is in frames, `overlap` a share of it. Raises InputError if a value is
        impossible.
        """
        if not 0 <= overlap < 1:
            raise InputError("--overlap", f"{overlap} is not valid", "give a share in [0, 1)")
        if p_samp and not rgb:
            raise InputError("--p-samp", "the model is pose-only", "leave it out, or name an RGB-pose model")
        p_samp = 0.0 if not rgb else data.p_samp if p_samp is None else p_samp
        self.tokenizer, self.skeleton = tokenizer, skeleton
        self.language = read_language(language) if language else data.language  # None: each clip's own
        self.settings = replace(data, language=None, p_samp=p_samp, crops=None)
        self.window = 2 * data.max_frames if window is None else window
        if self.window < 1:
            raise InputError("--window", f"{window} is not valid", "give 1 frame or more")
        self.overlap = min(round(overlap * self.window), self.window - 1)
        self.device = torch.device(device)

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Unpack[ProcessorOptions]) -> Self:
        """The processor of a model folder, a run or a hub id; `options` as in the constructor. A model trained in one
        language uses that language by default. Raises InputError if the folder cannot be read.
        """
        folder = find_model(source)
        data = load_data_settings(folder)
        if data.language is None and len(trained := trained_languages(folder)) == 1 and language_name(trained[0]):
            data = replace(data, language=trained[0])
        config = ModelConfig.load(folder / "config.json")
        return cls(Tokenizer(folder), data, rgb=config.rgb, skeleton=config.joints, **options)

    def __call__(
        self,
        keypoints: Arrays,
        scores: Arrays | None = None,
        *,
        fps: float = 25.0,
        width: int | None = None,
        height: int | None = None,
    ) -> PackedBatch:
        """Makes a batch of the keypoints of one or several clips; each window is a clip of the batch.

        Keypoints [T, 133, 3] (x, y, confidence), or [T, 133, 2] beside scores [T, 133]; x and y in fractions of the
        picture, or in pixels if `width` and `height` are given. Raises InputError if they cannot be used.
        """
        with TemporaryDirectory(prefix="keypoints-") as folder:
            poses = array_poses(keypoints, scores, fps, width, height, self.skeleton)
            clips = pose_recordings(poses, Path(folder) / "store", self.language, self.skeleton)
            (prepared,) = self.batches(clips, max_windows=None)
            for error in prepared.bad.values():
                raise error
            assert prepared.batch is not None  # as no window is bad
            return prepared.batch.to(self.device)

    def decode(self, tokens: list[int] | str) -> str:
        """The text of one clip in the result of `UniSign.generate`."""
        return tokens if isinstance(tokens, str) else self.tokenizer.decode(tokens)

    def windows(self, recording: Recording) -> Iterator[Window]:
        """The windows of a recording, in order."""
        frames = recording.clip.frames
        if frames <= self.window:
            yield Window(recording, 0, frames)
            return
        count = math.ceil((frames - self.overlap) / (self.window - self.overlap))
        length = math.ceil((frames + (count - 1) * self.overlap) / count)
        for number in range(count):
            first = number * (frames - length) // (count - 1)
            yield Window(recording, first, first + length)

    def batches(self, recordings: Iterable[Recording], max_windows: int | None) -> Iterator[Prepared]:
        """The windows of all recordings in order, at most `max_windows` per batch; None: no limit."""
        group: dict[str, Window] = {}
        for window in (window for recording in recordings for window in self.windows(recording)):
            if len(group) == max_windows or window.id in group:  # ids are unique within a store
                yield self._prepare(group)
                group = {}
            group[window.id] = window
        if group:
            yield self._prepare(group)

    def _prepare(self, windows: dict[str, Window]) -> Prepared:
        with TemporaryDirectory(prefix="translate-") as folder:
            store, bad = self._store(windows, Path(folder) / "store")
            batch = None
            if len(store.clips):
                reader = ClipReader([store], self.settings, self.tokenizer, device=self.device)
                clips = reader.clips("test")
                loaded = reader.batch(clips, range(len(clips)), epoch=0, training=False)
                bad |= {clip.id: clip.error for clip in loaded.bad}
                batch = loaded.batch
        return Prepared(windows, batch if batch and batch.lengths else None, bad)

    def _store(self, windows: dict[str, Window], path: Path) -> tuple[KeypointStore, dict[str, InputError]]:
        """Writes the windows as clips of a store; also returns an error for each that cannot be stored."""
        bad = {}
        source = {"estimator": "windows", "version": "of recordings", "coordinates": "as theirs"}
        with KeypointStoreWriter(path, source, skeleton=self.skeleton) as writer:
            for id, window in windows.items():
                recording, clip = window.recording, window.recording.clip
                try:
                    check_skeleton(recording.store.skeleton, self.skeleton, recording.name)
                    if self.settings.p_samp and not recording.video:
                        problem, remedy = "has no video, and the model needs hand crops", "give it, or p_samp 0"
                        raise InputError(recording.name, problem, remedy)
                    writer.add(
                        recording.store.keypoints(clip)[window.first : window.end],
                        id=id,
                        split="test",
                        language=self.language or clip.language,
                        text=NO_TEXT,
                        gloss=NO_TEXT,
                        fps=clip.fps,
                        width=clip.width,
                        height=clip.height,
                        source=recording.video,
                        video_start=clip.video_start + window.first,
                        video_frames=clip.video_frames or clip.video_start + clip.frames,
                    )
                except InputError as error:
                    bad[id] = error
        return KeypointStore.open(path), bad
