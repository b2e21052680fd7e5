"""Generates predictions for a split, distributed over the ranks, and scores them."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from unisign_fast.checkpoints.model_folder import load_data_settings
from unisign_fast.evaluation.metrics import Scores, score
from unisign_fast.evaluation.predictions import Prediction, write_json, write_predictions
from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.batches.reader import ClipReader, LoadedClips
from unisign_fast.pipelines.clips.dataset import ClipSet
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.pipelines.skeletons import check_skeleton
from unisign_fast.pipelines.store.keypoint_store import KeypointStore
from unisign_fast.pipelines.targets import Task, language_code
from unisign_fast.pipelines.workers import compute_alone
from unisign_fast.text.tokenizer import Tokenizer
from unisign_fast.utils.distributed import Ranks

SHORTEST = 64  # shorter clips count as this many frames in a batch, since their beams also take memory
# Of a batch's hand crops: limits memory, and a GPU's kernels address at most 7,133 crops of 112 x 112 pixels.
MOST_CROP_PIXELS = 2048 * 112**2
MAIN_METRIC = {  # the metric that selects the best checkpoint, and its best value
    "slt": ("BLEU-4", max),
    "cslr": ("WER", min),
    "islr": ("top-1 per instance", max),
}


@dataclass(frozen=True)
class GenerationSettings:
    """How texts are generated; the default beams and length are the published ones."""

    beams: int = 4
    max_new_tokens: int = 100  # maximum length of a text
    frames_per_batch: int = 4096  # clips times frames of the longest; limits memory

    def __post_init__(self):
        for name in ("beams", "max_new_tokens", "frames_per_batch"):
            if getattr(self, name) < 1:
                option = f"--{name.replace('_', '-')}"
                raise InputError(option, f"{getattr(self, name)} is not valid", "give 1 or more")


@dataclass(frozen=True)
class Evaluation:
    """Predictions of a split in the order of its clips, their scores, and the clips that could not be read."""

    rows: list[Prediction]
    task: Task
    language: str  # language code of the texts
    scores: Scores
    bad_clips: list[str]
    clips_per_second: float

    def metadata(self) -> dict:
        """The fields of scores-SPLIT.json besides the scores."""
        return {"clips_per_second": round(self.clips_per_second, 2), "bad_clips": self.bad_clips}


def evaluate_split(
    model: UniSign,
    tokenizer: Tokenizer,
    reader: ClipReader,
    split: str,
    ranks: Ranks,
    generation: GenerationSettings = GenerationSettings(),
    show_progress: bool = False,
) -> Evaluation:
    """Translate every clip of a split and score the texts; returns the same on every rank.

    Frame choice and sampling depend on seed and clip id only, and ranks share whole batches, so the scores do not
    depend on the number of ranks. Bad clips are left out and listed. Raises InputError if no clip can be read.
    """
    start = time.perf_counter()
    check_skeleton(reader.skeleton, model.config.joints, reader.stores[0].path)
    clips = reader.clips(split)
    frames = np.minimum(clips.frames, reader.settings.max_frames)
    budget = frame_budget(generation.frames_per_batch, reader.settings)
    mine = length_batches(frames, budget)[ranks.rank :: ranks.world_size]
    console = Console(stderr=True)
    quiet = not (show_progress and ranks.is_first and console.is_terminal)
    predictions: dict[int, Prediction] = {}
    bad: dict[int, str] = {}
    model.eval()
    batches = _loaded(reader, clips, mine)
    for loaded in track(batches, "generating", total=len(mine), console=console, disable=quiet):
        bad.update({clip.number: str(clip.error) for clip in loaded.bad})
        batch = loaded.batch.to(ranks.device)
        texts: Sequence[list[int] | str] = model.generate(batch, generation.beams, generation.max_new_tokens)
        for number, clip_id, text, tokens in zip(loaded.numbers, batch.clip_ids, batch.texts, texts):
            prediction = tokens if isinstance(tokens, str) else tokenizer.decode(tokens)
            predictions[number] = Prediction(clip_id, prediction, text)
    for other_predictions, other_bad in ranks.gather((predictions, bad)):
        predictions.update(other_predictions)
        bad.update(other_bad)
    if not predictions:
        raise InputError(f"{reader.stores[0].path}: {split}", "none of its clips can be read", next(iter(bad.values())))
    rows = [predictions[number] for number in sorted(predictions)]
    language = language_code(reader.settings.language or clips[min(predictions)].clip.language)
    task = reader.settings.task
    scores = score(task, [r.prediction for r in rows], [r.reference for r in rows], language)
    rate = len(clips) / (time.perf_counter() - start)
    return Evaluation(rows, task, language, scores, [bad[n] for n in sorted(bad)], rate)


def evaluate_model(
    folder: Path,
    stores: Sequence[KeypointStore],
    task: Task | None,
    language: str | None,
    split: str,
    ranks: Ranks,
    generation: GenerationSettings,
) -> Evaluation:
    """Runs `evaluate_split` with the model in `folder`; task and language default to those of its training.

    Raises InputError if the model or the whole split cannot be read.
    """
    model, tokenizer = UniSign.load(folder)
    data = load_data_settings(folder)
    p_samp = data.p_samp if model.config.rgb else 0.0
    data = replace(data, task=task or data.task, language=language or data.language, p_samp=p_samp)
    reader = ClipReader(list(stores), data, tokenizer, device=ranks.device)
    return evaluate_split(model.to(ranks.device), tokenizer, reader, split, ranks, generation, show_progress=True)


def frame_budget(frames_per_batch: int, settings: DataSettings) -> int:
    """At most `frames_per_batch` frames, and so few that their sampled hands have at most `MOST_CROP_PIXELS`."""
    pixels = 2 * settings.p_samp * settings.crop_size**2  # a frame's share
    return int(min(frames_per_batch, MOST_CROP_PIXELS / pixels)) if pixels else frames_per_batch


def length_batches(frames: np.ndarray, frames_per_batch: int) -> list[list[int]]:
    """Batches of clip numbers for `frames` [clips], longest first, within the budget.

    Clips of similar length share a batch, since their texts also have similar lengths.
    """
    batches: list[list[int]] = []
    most = 0  # number of clips that the current batch may hold
    for number in np.argsort(-frames, kind="stable").tolist():
        if not batches or len(batches[-1]) >= most:
            batches.append([])
            most = frames_per_batch // max(int(frames[number]), SHORTEST)
        batches[-1].append(number)
    return batches


def _loaded(reader: ClipReader, clips: ClipSet, batches: list[list[int]]) -> Iterator[LoadedClips]:
    """Reads the batches, each while the previous one is processed."""
    ahead: deque[Future[LoadedClips]] = deque()
    with ThreadPoolExecutor(1, "evaluation", compute_alone, (reader.device,)) as pool:
        for numbers in batches:
            ahead.append(pool.submit(reader.batch, clips, numbers, epoch=0, training=False))
            if len(ahead) > 1:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def write_evaluation(folder: Path, split: str, evaluation: Evaluation) -> None:
    """Write predictions-SPLIT.jsonl and scores-SPLIT.json to `folder`. Raises InputError if it cannot be written to."""
    write_predictions(folder / f"predictions-{split}.jsonl", evaluation.rows)
    values = {"task": evaluation.task, "language": evaluation.language, **evaluation.scores.plain(), "split": split}
    write_json(folder / f"scores-{split}.json", values | evaluation.metadata())
