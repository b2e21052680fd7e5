"""Evaluation against the way the published code does it: the same weights and clips on the same device, in one run.

    python benchmarks/evaluation.py --model runs/demo/slt-pose/best --stores data/demo/sentences

The published way is in published_evaluation.py. Both take turns, one thread each, with 4 beams and up to 100 new
tokens. Texts may differ where the published padding changes the ends of clips.
"""

import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

sys.path[0] = str(Path(__file__).parents[1])  # the project's root in the place of this file's own folder
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.published_evaluation import BEAMS, MAX_NEW_TOKENS, PublishedEvaluation
from pipelines.clip_reader import ClipReader
from pipelines.errors import InputError
from pipelines.keypoint_store import KeypointStore
from unisign_fast.console import run_command
from unisign_fast.engine import Ranks
from unisign_fast.evaluation import MAIN_METRIC, GenerationSettings, evaluate_split
from unisign_fast.metrics import score
from unisign_fast.model_folder import find_model, load_data_settings, load_model
from unisign_fast.predictions import write_json


@dataclass(frozen=True)
class Row:
    """One way of evaluating: median seconds of a pass, and the median ratio to ours in the same round."""

    way: str
    device: str
    clips: int
    seconds: float
    times_as_long: float
    metric: str
    score: float
    same_texts: int  # as ours


def evaluation(
    model: str = "runs/demo/slt-pose/best",
    stores: tuple[Path, ...] = (Path("data/demo/sentences"),),
    split: Literal["train", "dev", "test"] = "test",
    clips_per_batch: tuple[int, ...] = (1, 8),
    rounds: int = 3,
    json: Path | None = None,
) -> None:
    """Time both ways of evaluating, scores included, and print how they compare.

    Args:
        model: Model folder or hub id of a pose-only model.
        stores: Keypoint stores.
        split: Split of the stores.
        clips_per_batch: Of the published way; its script evaluates with 8.
        rounds: Passes over the split of each way, after one that warms up.
        json: File to write the numbers to.
    """
    torch.set_num_threads(1)
    folder = find_model(model)
    loaded, codec = load_model(folder)
    if loaded.config.rgb or loaded.head is not None:
        raise InputError("--model", f"{folder} is no pose-only model that generates text", "name one fine-tuned so")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loaded.to(device)
    data = replace(load_data_settings(folder), p_samp=0.0)
    reader = ClipReader([KeypointStore.open(store) for store in stores], data, codec, device=device)
    theirs = PublishedEvaluation(loaded, codec, reader, device)
    settings = GenerationSettings(BEAMS, MAX_NEW_TOKENS)
    times: dict[str, list[float]] = {f"published, batches of {clips}": [] for clips in clips_per_batch} | {"ours": []}
    scores, same = {}, {}
    for number in range(rounds + 1):
        begin = time.perf_counter()
        found = evaluate_split(loaded, codec, reader, split, Ranks(0, 1, device), settings)
        took = {"ours": time.perf_counter() - begin}
        scores["ours"], same["ours"] = found.scores, len(found.rows)
        for way, clips in zip(times, clips_per_batch):
            begin = time.perf_counter()
            texts = theirs.texts(split, clips)
            scores[way] = score(data.task, texts, [row.reference for row in found.rows], found.language)
            took[way] = time.perf_counter() - begin
            same[way] = sum(text == row.prediction for text, row in zip(texts, found.rows, strict=True))
        for way, seconds in took.items() if number else ():
            times[way].append(seconds)
    metric = MAIN_METRIC[data.task][0]
    rows = [
        Row(
            way,
            str(device),
            len(found.rows),
            statistics.median(seconds),
            statistics.median(slow / fast for slow, fast in zip(seconds, times["ours"], strict=True)),
            metric,
            scores[way].values[metric],
            same[way],
        )
        for way, seconds in times.items()
    ]
    report(rows, rounds, json)


def report(rows: list[Row], rounds: int, json: Path | None) -> None:
    """Print the rows, and write them to `json`."""
    table = Table(title=f"evaluation on {rows[0].device}, one thread, medians of {rounds} rounds")
    for column in ("way", "clips/s", "times as long as ours", rows[0].metric, "texts as ours"):
        table.add_column(column)
    for row in rows:
        speed, same = f"{row.clips / row.seconds:.1f}", f"{row.same_texts} of {row.clips}"
        table.add_row(row.way, speed, f"{row.times_as_long:.2f}", f"{row.score:.2f}", same)
    Console().print(table)
    if json is not None:
        write_json(json, {"torch": torch.__version__, "rounds": rounds, "rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    run_command(evaluation)
