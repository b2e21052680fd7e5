"""From recordings to texts, as the launch/translate.py command does it.

    recording -> windows -> a small temporary store -> ClipReader -> model -> text and score

A recording of at most `window` frames is one window. A longer one is cut into as few as can be, equally long ones, of
which each has `overlap` x `window` frames in common with the one before, so that what a border cuts through is whole in
one of the two. Of a window the model sees `max_frames` frames, evenly spaced, as in evaluation. Training takes
max_frames of a longer clip, too: by default a window is twice as long.
"""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from unisign_fast.checkpoints.model_folder import find_model
from unisign_fast.evaluation.evaluate import GenerationSettings
from unisign_fast.kernels.packing import Packing
from unisign_fast.model.beam_search import beam_search
from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.batches.packed_batch import PackedBatch
from unisign_fast.pipelines.batches.reader import ClipReader
from unisign_fast.pipelines.corpus.recordings import Recording
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.store.keypoint_store import KeypointStore, KeypointStoreWriter
from unisign_fast.pipelines.targets import LANGUAGES
from unisign_fast.training.settings import RUNS

WINDOWS_PER_BATCH = 8
GENERATION = GenerationSettings()
NO_TEXT = "?"  # a clip needs some text to be read


@dataclass(frozen=True)
class Window:
    """Frames `first` to `end` (without it) of a recording."""

    recording: Recording
    first: int
    end: int

    @property
    def id(self) -> str:
        """The clip's own where the window is all of it: its hands are then sampled as in evaluation."""
        clip = self.recording.clip
        return clip.id if self.end - self.first == clip.frames else f"{clip.id}:{self.first}"


@dataclass(frozen=True)
class Translation:
    """What a window says; as JSON, a line of the command's output."""

    file: str
    clip: str  # id
    text: str
    score: float | None  # mean log-probability of the text's tokens; None of a task head
    start: float  # seconds in the video
    end: float
    took: float  # seconds, its share of the batch


class Translator:
    """A model folder at work."""

    def __init__(
        self,
        source: str | Path,
        *,
        language: str | None = None,
        p_samp: float | None = None,
        window: int | None = None,
        overlap: float = 0.25,
    ):
        """`source` is a model folder or its id on the hub. `language` to write, and the share `p_samp` of frames whose
        hands are looked at, are by default the model's; `window` in frames. Raises InputError if the model can't be
        read or a choice is impossible.
        """
        if not 0 <= overlap < 1:
            raise InputError("--overlap", f"{overlap} is not possible", "give a share in [0, 1)")
        if language not in (None, *LANGUAGES):
            raise InputError("--language", f"{language!r} is not known", f"use one of {', '.join(LANGUAGES)}")
        model, self.tokenizer = UniSign.load(find_model(source))
        trained = model.companions.data
        if model.rgb is None and p_samp:
            raise InputError("--p-samp", f"{source} is a pose-only model", "leave it out, or name an RGB-pose model")
        p_samp = 0.0 if model.rgb is None else trained.p_samp if p_samp is None else p_samp
        self.language = language or trained.language  # None: each clip's own
        self.settings = replace(trained, language=None, p_samp=p_samp, crops=None)
        self.window = 2 * self.settings.max_frames if window is None else window
        if self.window < 1:
            raise InputError("--window", f"{window} is not possible", "give 1 frame or more")
        self.overlap = min(round(overlap * self.window), self.window - 1)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device).eval()
        if model.language_model is not None:
            model.language_model.label_smoothing = 0.0  # a score is a probability

    def windows(self, recording: Recording) -> Iterator[Window]:
        """The windows of a recording, in their order."""
        frames = recording.clip.frames
        if frames <= self.window:
            yield Window(recording, 0, frames)
            return
        count = math.ceil((frames - self.overlap) / (self.window - self.overlap))
        length = math.ceil((frames + (count - 1) * self.overlap) / count)
        for number in range(count):
            first = number * (frames - length) // (count - 1)
            yield Window(recording, first, first + length)

    def translate(self, recordings: Iterable[Recording]) -> Iterator[Translation | InputError]:
        """What each window says, or why it can't be used; in the order of the recordings."""
        group: dict[str, Window] = {}
        for window in (window for recording in recordings for window in self.windows(recording)):
            if len(group) == WINDOWS_PER_BATCH or window.id in group:  # a store knows its clips by their ids
                yield from self._translate(group)
                group = {}
            group[window.id] = window
        yield from self._translate(group)

    def _translate(self, windows: dict[str, Window]) -> list[Translation | InputError]:
        began = time.perf_counter()
        result: dict[str, tuple[str, float | None] | InputError] = {}
        with TemporaryDirectory(prefix="translate-") as folder:
            store, bad = self._store(windows, Path(folder) / "store")
            result |= bad
            if len(store.clips):
                reader = ClipReader([store], self.settings, self.tokenizer, device=self.device)
                clips = reader.clips("test")
                loaded = reader.batch(clips, range(len(clips)), epoch=0, training=False)
                result |= {clip.id: clip.error for clip in loaded.bad}
                result |= zip(loaded.batch.clip_ids, self._texts(loaded.batch.to(self.device)), strict=True)
        took = (time.perf_counter() - began) / max(1, len(windows))
        return [
            answer if isinstance(answer := result[id], InputError) else _translation(window, *answer, took)
            for id, window in windows.items()
        ]

    def _store(self, windows: dict[str, Window], path: Path) -> tuple[KeypointStore, dict[str, InputError]]:
        """The windows as clips of a store, and those that can't be."""
        bad = {}
        source = {"estimator": "windows", "version": "of recordings", "coordinates": "as theirs"}
        with KeypointStoreWriter(path, source) as writer:
            for id, window in windows.items():
                recording, clip = window.recording, window.recording.clip
                try:
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

    @torch.no_grad()
    def _texts(self, batch: PackedBatch) -> list[tuple[str, float | None]]:
        """The text of each clip, and how sure it is."""
        if not batch.lengths:
            return []
        if self.model.head is not None:
            return [(text, None) for text in self.model.generate(batch)]
        hidden_PD, packing = self.model.encode(self.model.sign_features(batch), batch)
        tokens = beam_search(
            self.model.language_model.mt5, hidden_PD, packing, GENERATION.beams, GENERATION.max_new_tokens
        )
        clips = hidden_PD.split(packing.lengths)
        return [
            (self.tokenizer.decode(ids), self._score(clip_PD, ids)) for clip_PD, ids in zip(clips, tokens, strict=True)
        ]

    def _score(self, hidden_PD: Tensor, tokens: list[int]) -> float:
        """The mean log-probability of the tokens of one clip, by a pass in which they are given."""
        labels_L = torch.tensor(tokens, device=self.device)
        packing, targets = Packing([len(hidden_PD)], self.device), Packing([len(tokens)], self.device)
        loss = self.model.language_model.token_loss(hidden_PD, packing, labels_L, targets)
        return -loss.item() / len(tokens)


def _translation(window: Window, text: str, score: float | None, took: float) -> Translation:
    name, _, clip = window.recording
    start, end = ((clip.video_start + frame) / clip.fps for frame in (window.first, window.end))
    return Translation(name, clip.id, text, score, start, end, took)


def demo_model() -> Path:
    """The newest model that quickstart.sh trained for sentences. Raises InputError if there is none."""
    result = [path for run in ("demo", "quickstart") for path in (RUNS / run).glob("slt-*/best/model.safetensors")]
    if not result:
        problem = f"none is named, and {RUNS} has none that launch/quickstart.sh trained"
        raise InputError("--model", problem, "name a model folder; bash launch/quickstart.sh makes one")
    return max(result, key=lambda path: path.stat().st_mtime).parent
