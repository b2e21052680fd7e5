"""Translates videos, keypoints and stores in Python, as launch/translate.py does on the command line."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

import torch

from unisign_fast.checkpoints.model_folder import find_model
from unisign_fast.evaluation.evaluate import GenerationSettings
from unisign_fast.inference.inputs import FPS, Arrays, Input, NamedPose, array_poses, find_inputs, pose_recordings
from unisign_fast.inference.processor import Prepared, Processor, Window
from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.batches.packed_batch import PackedBatch
from unisign_fast.pipelines.corpus.recordings import Recording, estimated_recordings
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.skeleton import WHOLEBODY
from unisign_fast.pipelines.skeletons import check_skeleton
from unisign_fast.pipelines.targets import language_code
from unisign_fast.training.settings import RUNS

if TYPE_CHECKING:
    from unisign_fast.pipelines.pose_estimation.networks import PersonDetector, PoseNetwork

WINDOWS_PER_BATCH = 8
GENERATION = GenerationSettings()
Source = str | Path


@dataclass(frozen=True)
class Beam:
    """A candidate text of a window."""

    text: str
    score: float  # mean log-probability of its tokens


@dataclass(frozen=True)
class Translation:
    """The translation of a window."""

    file: str
    clip: str  # id
    text: str
    score: float | None  # mean log-probability of the text's tokens; None for a task head
    start: float  # seconds in the video
    end: float
    took: float  # seconds of computation: its share of the batch's
    language: str  # language code of the text
    reference: str  # reference text, "" if unknown
    beams: list[Beam] = field(default_factory=list)  # the best texts, `text` first; [] for a task head


class Translator:
    """Translates with the model of a folder: `Translator(FOLDER)(keypoints)`."""

    def __init__(
        self,
        source: Source,
        *,
        language: str | None = None,
        p_samp: float | None = None,
        window: int | None = None,
        overlap: float = 0.25,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        """`source` is a model folder, a run, or a hub id. The model runs in float32, on a GPU if there is one, unless
        `dtype` or `device` is given.

        The other arguments are those of `Processor`. Raises InputError if the model cannot be read or a value is
        impossible.
        """
        folder = find_model(source)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.processor = Processor.from_pretrained(
            folder, language=language, p_samp=p_samp, window=window, overlap=overlap, device=self.device
        )
        self.model = UniSign.from_pretrained(folder, dtype=dtype, device=self.device)

    @property
    def language(self) -> str | None:
        """The target language; None: each clip's own."""
        return self.processor.language

    def __call__(
        self,
        inputs: Arrays | Source | Sequence[Source],
        scores: Arrays | None = None,
        *,
        fps: float | Sequence[float] = FPS,
        width: int | Sequence[int] | None = None,
        height: int | Sequence[int] | None = None,
        format: str | None = None,
    ) -> list[Translation]:
        """Translates one or several inputs into a `Translation` for each window, in order.

        Inputs are keypoints as arrays, [T, 133, 3] (x, y, confidence) or [T, 133, 2] beside `scores` [T, 133], in
        fractions of the picture or in pixels of `width` x `height`; or paths of keypoint stores, pose files (of
        `format`, or of the first format that can read them) and videos. Keypoints of a video come from a nearby store,
        or are estimated. Raises InputError if an input cannot be used.
        """
        paths = _paths(inputs)
        usable: list[Input]
        bad: list[InputError] = []
        if paths is None:
            usable = [*array_poses(cast(Arrays, inputs), scores, fps, width, height, self.processor.skeleton)]
        else:
            usable, bad = find_inputs(paths, format=format)
        with TemporaryDirectory(prefix="inputs-") as folder:
            recordings, lost = ([], []) if bad else self.recordings(usable, Path(folder))
            results = [] if lost else list(self.translate(recordings))
        for error in [*bad, *lost, *(result for result in results if isinstance(result, InputError))]:
            raise error
        return [result for result in results if isinstance(result, Translation)]

    def recordings(
        self, usable: Sequence[Input], folder: Path, networks: "tuple[PersonDetector, PoseNetwork] | None" = None
    ) -> tuple[list[Recording], list[InputError]]:
        """The clips of all inputs, and an error for each video that yields none. Keypoints that are in no store yet are
        written to stores in `folder`.

        `networks` estimate the keypoints of videos; None: `default_networks()`. Raises InputError if these are
        unavailable or the target language is unknown.
        """
        videos = [item for item in usable if isinstance(item, Path)]
        poses = [item for item in usable if isinstance(item, NamedPose)]
        if videos and self.language is None:
            problem = "videos do not determine the target language"
            raise InputError("--language", problem, "give it, such as --language zh")
        if videos:
            check_skeleton(WHOLEBODY, self.processor.skeleton, videos[0])
        estimated: list[Recording] = []
        bad: list[InputError] = []
        if videos:
            assert self.language is not None  # checked above
            networks = networks or default_networks()
            estimated, bad = estimated_recordings(videos, folder / "estimated", self.language, *networks)
        by_video = {recording.name: [recording] for recording in estimated}
        given = iter(pose_recordings(poses, folder / "given", self.language, self.processor.skeleton) if poses else [])
        clips: list[Recording] = []
        for item in usable:
            if isinstance(item, Path):
                clips += by_video.get(str(item), [])
            else:
                clips += [next(given)] if isinstance(item, NamedPose) else item
        return clips, bad

    def translate(self, recordings: Iterable[Recording]) -> Iterator[Translation | InputError]:
        """The translation of each window, or why it cannot be translated, in the order of the recordings."""
        began = time.perf_counter()
        for prepared in self.processor.batches(recordings, WINDOWS_PER_BATCH):
            texts = self._texts(prepared)
            took = (time.perf_counter() - began) / len(prepared.windows)
            for id, window in prepared.windows.items():
                yield prepared.bad[id] if id in prepared.bad else self._translation(window, *texts[id], took)
            began = time.perf_counter()

    def _texts(self, prepared: Prepared) -> dict[str, tuple[str, list[Beam]]]:
        """The text and the beams of each readable window."""
        if prepared.batch is None:
            return {}
        batch: PackedBatch = prepared.batch.to(self.device)
        if self.model.head is not None:
            return {
                id: (cast(str, text), []) for id, text in zip(batch.clip_ids, self.model.generate(batch), strict=True)
            }
        decode, result = self.processor.tokenizer.decode, {}
        by_window = self.model.hypotheses(batch, GENERATION.beams, GENERATION.max_new_tokens)
        for id, hypotheses in zip(batch.clip_ids, by_window, strict=True):
            beams = [Beam(decode(hypothesis.tokens), hypothesis.score) for hypothesis in hypotheses]
            result[id] = beams[0].text, beams
        return result

    def _translation(self, window: Window, text: str, beams: list[Beam], took: float) -> Translation:
        name, _, clip = window.recording
        start, end = ((clip.video_start + frame) / clip.fps for frame in (window.first, window.end))
        language = self.language or clip.language
        try:
            reference = clip.target(self.processor.settings.task, language)
        except InputError:
            reference = ""
        score = beams[0].score if beams else None
        written = language_code(language)
        return Translation(name, clip.id, text, score, start, end, took, written, reference, beams)


def _paths(inputs: object) -> list[Source] | None:
    """The inputs as paths, or None if they are arrays."""
    items = inputs if isinstance(inputs, (list, tuple)) else [inputs]
    paths: list[Source] = [item for item in items if isinstance(item, (str, Path))]
    return paths if paths and len(paths) == len(items) else None


def default_networks() -> "tuple[PersonDetector, PoseNetwork]":
    """rtmlib's networks on the CPU, downloaded once; needs the optional extra `poses`."""
    from unisign_fast.pipelines.pose_estimation.networks import open_networks

    return open_networks()


def demo_model() -> Path:
    """The newest model that quickstart.sh trained for sentences. Raises InputError if there is none."""
    result = [path for run in ("demo", "quickstart") for path in (RUNS / run).glob("slt-*/best/model.safetensors")]
    if not result:
        problem = f"no model is named, and {RUNS} has none that launch/quickstart.sh trained"
        raise InputError("--model", problem, "name a model folder, or run bash launch/quickstart.sh")
    return max(result, key=lambda path: path.stat().st_mtime).parent
