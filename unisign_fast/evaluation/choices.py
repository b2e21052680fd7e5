"""The options of launch/evaluate.py. Imports nothing slow, so that --help is fast."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.targets import Task, read_language
from unisign_fast.text.normalization import Normalization

Split = Literal["train", "dev", "test"]


@dataclass(frozen=True)
class Choices:
    """What to score and how: a model or predictions."""

    model: str | None = None  # model folder, run, or id on the hub
    stores: tuple[Path, ...] = ()  # keypoint stores to evaluate the model on
    split: Split = "test"  # of the stores, or of a run's predictions
    out: Path | None = None  # folder for the model's predictions and scores
    predictions: Path | None = None  # lines of evaluate or translate, plain text, or a run
    references: Path | None = None  # file of their references, if they are not beside them
    baseline: str | None = None  # to compare with: as --predictions, or as --model
    task: Task | None = None  # sentences, glosses or words; by default the model's
    language: str | None = None  # of the texts (zh, en, ...); by default the model's, the clips' or the file's
    normalization: Normalization = "published"  # nfkc also folds characters that mT5 cannot write
    classes: Path | None = None  # for islr: one class per line, synonyms separated by tabs; or JSON
    bleurt: Path | None = None  # folder of a BLEURT-20 checkpoint, for English slt
    json: Path | None = None  # file for the scores; for a model by default in --out
    beams: int = 4  # width of the beam search
    max_new_tokens: int = 100  # longest text
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
