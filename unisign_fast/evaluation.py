"""Generating predictions for a split, shared among ranks, and scoring them."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from pipelines.clip_reader import ClipReader
from pipelines.errors import InputError
from pipelines.loader import collate
from unisign_fast.engine import Ranks
from unisign_fast.metrics import Scores, score
from unisign_fast.model import UniSign
from unisign_fast.predictions import Prediction, write_json, write_predictions
from unisign_fast.text_codec import TextCodec

BEAMS = 4  # published
MAX_NEW_TOKENS = 100  # published
MAIN_METRIC = {
    "slt": ("BLEU-4", max),
    "cslr": ("WER", min),
    "islr": ("top-1 per instance", max),
}  # decides the best checkpoint


@dataclass(frozen=True)
class Evaluation:
    """Predictions of a split in the order of its clips, their scores, and what could not be read."""

    rows: list[Prediction]
    scores: Scores
    bad_clips: list[str]
    clips_per_second: float


def evaluate_split(
    model: UniSign, codec: TextCodec, reader: ClipReader, split: str, ranks: Ranks, clips_per_batch: int = 32
) -> Evaluation:
    """Translate every clip of a split and score the texts; the same on every rank.

    Frame choice and sampling follow from seed and clip id alone, so the scores do not depend on the number of ranks or
    on the batch. A bad clip is left out and named. Raises InputError when none is left.
    """
    start = time.perf_counter()
    refs = reader.clips(split)
    by_length = sorted(range(len(refs)), key=lambda i: refs[i].clip.frames)
    mine = by_length[ranks.rank :: ranks.world_size]
    found: dict[int, Prediction] = {}
    bad: dict[int, str] = {}
    model.eval()
    for first in range(0, len(mine), clips_per_batch):
        samples, numbers = [], []
        for number in mine[first : first + clips_per_batch]:
            try:
                samples.append(reader.read(refs[number], epoch=0, training=False))
                numbers.append(number)
            except InputError as error:
                bad[number] = str(error)
        batch = collate(samples, reader.settings.crop_size).to(ranks.device)
        for number, clip_id, text, tokens in zip(numbers, batch.clip_ids, batch.texts, _generate(model, batch)):
            prediction = tokens if isinstance(tokens, str) else codec.decode(tokens[1:])
            found[number] = Prediction(clip_id, prediction, text)
    for other_found, other_bad in ranks.gather((found, bad)):
        found.update(other_found)
        bad.update(other_bad)
    if not found:
        raise InputError(f"{reader.stores[0].path}: {split}", "no clip of it can be read", next(iter(bad.values())))
    rows = [found[number] for number in sorted(found)]
    settings = reader.settings
    language = settings.language or refs[0].clip.language
    scores = score(settings.task, [r.prediction for r in rows], [r.reference for r in rows], language)
    return Evaluation(rows, scores, [bad[n] for n in sorted(bad)], len(refs) / (time.perf_counter() - start))


def _generate(model: UniSign, batch) -> list:
    with torch.no_grad():
        return model.generate(batch, BEAMS, MAX_NEW_TOKENS)


def write_evaluation(folder: Path, split: str, evaluation: Evaluation) -> None:
    """Write predictions-SPLIT.jsonl, and scores-SPLIT.json beside it."""
    write_predictions(folder / f"predictions-{split}.jsonl", evaluation.rows)
    values = asdict(evaluation.scores) | {
        "clips_per_second": round(evaluation.clips_per_second, 2),
        "bad_clips": evaluation.bad_clips,
    }
    write_json(folder / f"scores-{split}.json", values)
