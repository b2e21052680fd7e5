"""Evaluation compared with the published code's: the same weights and clips on the same device, in one run.

    python benchmarks/evaluation.py --model runs/demo/slt-pose/best --stores data/demo/sentences
    python benchmarks/evaluation.py --model random --max-new-tokens 40   mT5-Base's geometry, CSL-News's lengths

The published evaluation is in baseline/evaluation.py. Both run interleaved, one thread each, with 4 beams, and use the
published mixture of both hands' running statistics. Texts may differ where the published padding changes the ends of
clips, and with random weights, where rounding decides between tokens.
"""

import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

sys.path[0] = str(Path(__file__).parents[1])  # the project's root instead of this file's own folder
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.baseline.evaluation import BEAMS, PublishedEvaluation
from benchmarks.step.data import StepTokenizer
from benchmarks.step.options import StepOptions
from unisign_fast.checkpoints.model_folder import find_model, load_data_settings
from unisign_fast.evaluation.evaluate import MAIN_METRIC, GenerationSettings, evaluate_split
from unisign_fast.evaluation.metrics import score
from unisign_fast.evaluation.predictions import write_json
from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.batches.reader import ClipReader
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.store.keypoint_store import KeypointStore
from unisign_fast.published.layout import unpublish
from unisign_fast.text.tokenizer import Tokenizer
from unisign_fast.training.recipes import RecipeName
from unisign_fast.utils.console import run_command
from unisign_fast.utils.distributed import Ranks

RANDOM = "random"  # instead of a model folder


@dataclass(frozen=True)
class Row:
    """One evaluation method: median seconds per pass, and the median ratio to ours in the same round."""

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
    clips: int = 16,
    max_new_tokens: int = 100,
    clips_per_batch: tuple[int, ...] = (1, 8),
    rounds: int = 3,
    json: Path | None = None,
) -> None:
    """Time both evaluation methods, scores included, and print a comparison.

    Args:
        model: Model folder or hub id of a pose-only model, or "random" for one of mT5-Base's geometry on made clips.
        stores: Keypoint stores.
        split: Split of the stores.
        clips: Number of synthetic clips for a random model.
        max_new_tokens: Longest text.
        clips_per_batch: Batch size of the published evaluation; its script uses 8. rounds: Passes over the split with
        each method, after one warm-up pass. json: File to write the numbers to.
    """
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        if model == RANDOM:
            (loaded, tokenizer, reader), split = random_model(Path(folder), clips, device), "train"
        else:
            loaded, tokenizer, reader = trained_model(model, stores, device)
        compare(
            loaded, tokenizer, reader, split, GenerationSettings(BEAMS, max_new_tokens), clips_per_batch, rounds, json
        )


def trained_model(model: str, stores: tuple[Path, ...], device: torch.device) -> tuple[UniSign, Tokenizer, ClipReader]:
    """A model and the reader of its clips. Raises InputError if it is not pose-only or writes no text."""
    folder = find_model(model)
    loaded, tokenizer = UniSign.load(folder)
    if loaded.config.rgb or loaded.head is not None:
        raise InputError("--model", f"{folder} is not a pose-only model that generates text", "name one fine-tuned so")
    data = replace(load_data_settings(folder), p_samp=0.0)
    return (
        loaded.to(device),
        tokenizer,
        ClipReader([KeypointStore.open(path) for path in stores], data, tokenizer, device=device),
    )


def random_model(
    folder: Path, clips: int, device: torch.device, recipe: RecipeName = "base"
) -> tuple[UniSign, Tokenizer, ClipReader]:
    """A recipe's geometry with the vocabulary of made texts, and as many made clips of CSL-News's lengths."""
    job = StepOptions(recipe=recipe, clips=clips, clips_per_step=1).job(folder, (0.0,))
    tokenizer = StepTokenizer(Path(job.tokenizer))
    torch.manual_seed(0)
    model = UniSign(replace(job, vocabulary=len(tokenizer)).model)
    return model.to(device), tokenizer, ClipReader([KeypointStore.open(job.store)], job.data, tokenizer, device=device)


def compare(
    loaded: UniSign,
    tokenizer: Tokenizer,
    reader: ClipReader,
    split: str,
    settings: GenerationSettings,
    clips_per_batch: tuple[int, ...],
    rounds: int,
    json: Path | None,
) -> None:
    """Time both methods, interleaved; see `evaluation`."""
    device, task = reader.device, reader.settings.task
    theirs = PublishedEvaluation(loaded, tokenizer, reader, device, settings.max_new_tokens)
    loaded.load_state_dict(unpublish(theirs.forward.w, loaded.state_dict()))
    times: dict[str, list[float]] = {f"published, batches of {clips}": [] for clips in clips_per_batch} | {"ours": []}
    scores, same = {}, {}
    for number in range(rounds + 1):
        begin = time.perf_counter()
        result = evaluate_split(loaded, tokenizer, reader, split, Ranks(0, 1, device), settings)
        took = {"ours": time.perf_counter() - begin}
        scores["ours"], same["ours"] = result.scores, len(result.rows)
        for way, clips in zip(times, clips_per_batch):
            begin = time.perf_counter()
            texts = theirs.texts(split, clips)
            scores[way] = score(task, texts, [row.reference for row in result.rows], result.language)
            took[way] = time.perf_counter() - begin
            same[way] = sum(text == row.prediction for text, row in zip(texts, result.rows, strict=True))
        for way, seconds in took.items() if number else ():
            times[way].append(seconds)
    metric = MAIN_METRIC[task][0]
    rows = [
        Row(
            way,
            str(device),
            len(result.rows),
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
