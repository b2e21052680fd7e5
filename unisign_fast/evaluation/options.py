"""The options of launch/evaluate.py. Imports nothing slow, so that --help is fast."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.targets import Task, read_language
from unisign_fast.text.normalization import Normalization

Split = Literal["train", "dev", "test"]


@dataclass(frozen=True)
class Options:
    """What to score, a model or predictions, and how."""

    model: str | None = None  # model folder, run, or hub id
    stores: tuple[Path, ...] = ()  # keypoint stores to evaluate the model on
    split: Split = "test"  # split of the stores, or of a run's predictions
    out: Path | None = None  # folder for the model's predictions and scores
    predictions: Path | None = None  # output of evaluate or translate, plain text, or a run
    references: Path | None = None  # file of the references, if --predictions has none
    baseline: str | None = None  # system to compare with, named as in --predictions or --model
    task: Task | None = None  # sentences, glosses or words; by default the model's
    language: str | None = None  # language (zh, en, ...); by default the model's, the clips' or the file's
    normalization: Normalization = "published"  # nfkc also folds characters that mT5 cannot write
    classes: Path | None = None  # class list for islr: a class per line, synonyms separated by tabs; or JSON
    bleurt: Path | None = None  # folder of a BLEURT-20 checkpoint, for English slt
    json: Path | None = None  # file for the scores; with --model, in --out by default
    beams: int = 4  # beam width
    max_new_tokens: int = 100  # maximum length of a text
    frames_per_batch: int = 4096  # clips times frames of the longest; lower it to save memory

    def __post_init__(self):
        if (self.model is None) == (self.predictions is None):
            raise InputError(
                "--model, --predictions", "exactly one of them is required", "name a model or a file of predictions"
            )
        if self.model is not None and not (self.stores and self.out):
            missing = "--out" if self.stores else "--stores"
            raise InputError(missing, "is required with --model", "name keypoint stores, and a folder for the results")
        if self.model is None and self.task is None:
            raise InputError("--task", "is required with --predictions", "give slt, cslr or islr")
        if self.language is not None:
            object.__setattr__(self, "language", read_language(self.language))
