"""The paper's ablations, Tables 7 to 10 and 13: the runs each needs, the paper's figures, and the orderings it claims.

A table has a row for each setting and a column for each score. A run defines what is trained, but neither the seed nor
the number of clips; tables that share a run train it once. The figures are those of Li et al., ICLR 2025, as printed:
deformable attention's dev BLEU-4 is 26.25 in Table 9 and 26.30 in Table 10.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unisign_fast.evaluation.evaluate import MAIN_METRIC
from unisign_fast.evaluation.score_file import read_scores as read_scores_file
from unisign_fast.evaluation.summary import training_speed
from unisign_fast.pipelines.targets import Task
from unisign_fast.utils.event_log import EvaluationEvent, events_of, read_events

BOTH = ("sentences", "words")  # stores of the demo corpus


@dataclass(frozen=True)
class TrainingRun:
    """One training command; `start` is the run whose weights it starts from."""

    name: str  # also of its folder
    stage: Literal[1, 2, 3]
    stores: tuple[str, ...]  # folders of the corpus
    options: tuple[str, ...] = ()
    start: "TrainingRun | None" = None
    from_scratch: bool = False  # fine-tuned without pre-training, whose epochs are added

    @property
    def script(self) -> str:
        """Name of its script in launch/."""
        return "finetune" if self.stage == 3 else "pretrain"

    def epochs(self, stage_epochs: tuple[int, int, int]) -> int:
        """The epochs of this run, given the epochs of each stage."""
        return stage_epochs[self.stage - 1] + (stage_epochs[0] if self.from_scratch else 0)

    def finished(self, folder: Path) -> bool:
        """Whether `folder` holds the finished run."""
        return (folder / ("scores-test.json" if self.stage == 3 else "last/config.json")).is_file()

    def chain(self) -> "Iterator[TrainingRun]":
        """The runs it starts from, in order, followed by itself."""
        if self.start is not None:
            yield from self.start.chain()
        yield self


@dataclass(frozen=True)
class Column:
    """A score of the run for `task`. Time is in seconds per training clip, relative to the table's first setting."""

    task: Task
    split: Literal["train", "dev", "test"]
    metric: str  # of unisign_fast/evaluation/metrics.py, or "time"

    @property
    def title(self) -> str:
        """Task, split and metric, one below the other."""
        if self.metric == "time":
            return "time"
        short = {"top-1 per instance": "P-I", "top-1 per class": "P-C", "ROUGE-L": "ROUGE"}  # the paper's names
        return f"{self.task.upper()}\n{self.split}\n{short.get(self.metric, self.metric)}"

    @property
    def lower_is_better(self) -> bool:
        return self.metric in ("WER", "time")

    def is_better(self, one: float, other: float) -> bool:
        """Whether `one` is better than `other` at the two decimals that the paper prints."""
        one, other = round(one, 2), round(other, 2)
        return one < other if self.lower_is_better else one > other


@dataclass(frozen=True)
class Setting:
    """A row: its runs by task, and the paper's figures in the order of the columns."""

    name: str
    runs: dict[Task, TrainingRun]
    paper: tuple[float, ...]


@dataclass(frozen=True)
class Claim:
    """A claim that one setting is better than another in the columns of these tasks ("time": in the time column)."""

    better: str
    worse: str
    tasks: tuple[str, ...] = ("islr", "cslr", "slt")

    def covers(self, column: Column) -> bool:
        """Whether the claim is about this column."""
        return ("time" if column.metric == "time" else column.task) in self.tasks


@dataclass(frozen=True)
class Ablation:
    """One table of the paper."""

    number: int
    title: str
    columns: tuple[Column, ...]
    settings: tuple[Setting, ...]
    claims: tuple[Claim, ...]

    def runs(self) -> list[TrainingRun]:
        """Every run that the table needs, once, each after the one it starts from."""
        tuned = [run for setting in self.settings for run in setting.runs.values()]
        return list(dict.fromkeys(run for last in tuned for run in last.chain()))

    @property
    def rgb(self) -> bool:
        """Whether any run needs hand crops."""
        return any(run.stage == 2 for run in self.runs())

    def claimed(self, claim: Claim, column: int) -> bool:
        """Whether the claim applies to this column and the paper's own figures support it there."""
        paper = {setting.name: setting.paper[column] for setting in self.settings}
        score = self.columns[column]
        return claim.covers(score) and score.is_better(paper[claim.better], paper[claim.worse])


ISLR = (Column("islr", "test", "top-1 per instance"), Column("islr", "test", "top-1 per class"))
CSLR = (Column("cslr", "dev", "WER"), Column("cslr", "test", "WER"))
SLT = tuple(Column("slt", split, metric) for split in ("dev", "test") for metric in ("BLEU-4", "ROUGE-L"))
TIME = (Column("slt", "train", "time"),)
POSE = ("--p-samp", "0")


def pose_pretraining(*options: str, name: str = "") -> TrainingRun:
    """Stage 1."""
    return TrainingRun("stage1" + name, 1, BOTH, options)


def rgb_pretraining(*options: str, name: str) -> TrainingRun:
    """Stage 2 in two steps: learns RGB on words, where a single sign is the target, then continues on sentences."""
    words = TrainingRun(f"stage2-words{name}", 2, ("words",), options, pose_pretraining())
    return TrainingRun(f"stage2{name}", 2, BOTH, options, words)


def fine_tuning(
    tasks: tuple[Task, ...], start: TrainingRun, *options: str, name: str = "", from_scratch: bool = False
) -> dict[Task, TrainingRun]:
    """Stage 3 for each task."""
    return {
        task: TrainingRun(
            task + name,
            3,
            ("words",) if task == "islr" else ("sentences",),
            ("--task", task, *options),
            start,
            from_scratch,
        )
        for task in tasks
    }


def _task_heads(features: str) -> dict[Task, TrainingRun]:
    runs: dict[Task, TrainingRun] = {}
    heads: dict[Task, str] = {"islr": "classifier", "cslr": "ctc"}
    for task, head in heads.items():
        options = (*POSE, "--head", head, "--head-features", features)
        runs |= fine_tuning((task,), pose_pretraining(), *options, name=f"-{head}-{features}")
    return runs


def _pose_only(*tasks: Task) -> dict[Task, TrainingRun]:
    return fine_tuning(tasks, pose_pretraining(), *POSE, name="-pose")


def _data_fraction(share: str) -> dict[Task, TrainingRun]:
    start = pose_pretraining("--data-fraction", share, name=f"-data{share}")
    return fine_tuning(("cslr", "slt"), start, *POSE, name=f"-data{share}")


def _rgb_pose(p_samp: str = "0.1", fusion: str = "deformable") -> dict[Task, TrainingRun]:
    options, name = ("--p-samp", p_samp, "--fusion", fusion), f"-rgb{p_samp}-{fusion}"
    return fine_tuning(("cslr", "slt"), rgb_pretraining(*options, name=name), *options, name=name)


def _from_scratch(parts: str) -> dict[Task, TrainingRun]:
    options, name = ("--parts", parts), f"-scratch-{parts.replace(',', '-')}"
    start = pose_pretraining(*options, "--data-fraction", "0", name=name)
    return fine_tuning(("islr", "cslr"), start, *POSE, *options, name=name, from_scratch=True)


ABLATIONS = {
    table.number: table
    for table in (
        Ablation(
            7,
            "fine-tuning paradigm, pose-only",
            ISLR + CSLR,
            (
                Setting("head on sign", _task_heads("sign"), (56.92, 53.67, 37.4, 36.4)),
                Setting("head on encoder", _task_heads("encoder"), (70.97, 68.54, 39.2, 38.3)),
                Setting("unified", _pose_only("islr", "cslr"), (77.88, 76.55, 28.2, 27.4)),
            ),
            (
                Claim("unified", "head on sign"),
                Claim("unified", "head on encoder"),
                Claim("head on encoder", "head on sign", ("islr",)),
                Claim("head on sign", "head on encoder", ("cslr",)),
            ),
        ),
        Ablation(
            8,
            "share of the pre-training data, pose-only",
            CSLR + SLT,
            (
                Setting("0 %", _data_fraction("0"), (74.7, 73.6, 3.75, 20.46, 3.51, 20.56)),
                Setting("25 %", _data_fraction("0.25"), (31.5, 31.0, 20.68, 49.68, 21.13, 49.9)),
                Setting("50 %", _data_fraction("0.5"), (31.5, 30.1, 21.85, 50.98, 22.58, 51.62)),
                Setting("75 %", _data_fraction("0.75"), (28.8, 28.5, 24.74, 54.28, 24.95, 54.87)),
                Setting("100 %", _pose_only("cslr", "slt"), (28.2, 27.4, 25.27, 54.34, 25.61, 54.92)),
            ),
            (Claim("25 %", "0 %"), Claim("50 %", "25 %"), Claim("75 %", "50 %"), Claim("100 %", "75 %")),
        ),
        Ablation(
            9,
            "score-aware sampling, p_samp",
            TIME + CSLR + SLT,
            (
                Setting("0 %", _pose_only("cslr", "slt"), (1.0, 28.2, 27.4, 25.27, 54.34, 25.61, 54.92)),
                Setting("10 %", _rgb_pose("0.1"), (1.3, 26.7, 26.0, 26.25, 56.03, 26.36, 56.51)),
                Setting("25 %", _rgb_pose("0.25"), (1.7, 27.0, 26.2, 26.37, 56.11, 26.55, 56.48)),
                Setting("50 %", _rgb_pose("0.5"), (2.2, 26.8, 26.4, 26.30, 56.39, 26.86, 57.43)),
            ),
            (
                Claim("10 %", "0 %"),
                Claim("25 %", "10 %", ("slt",)),
                Claim("50 %", "25 %", ("slt",)),
                Claim("0 %", "10 %", ("time",)),
                Claim("10 %", "25 %", ("time",)),
                Claim("25 %", "50 %", ("time",)),
            ),
        ),
        Ablation(
            10,
            "fusion module, RGB-pose",
            CSLR + SLT,
            (
                Setting("cross", _rgb_pose(fusion="cross"), (27.3, 27.0, 25.74, 55.63, 26.11, 56.22)),
                Setting("deformable", _rgb_pose(), (26.7, 26.0, 26.30, 56.03, 26.36, 56.51)),
            ),
            (Claim("deformable", "cross"),),
        ),
        Ablation(
            13,
            "sub-poses, pose-only, from scratch",
            ISLR + CSLR,
            (
                Setting("hands", _from_scratch("hands"), (36.07, 34.20, 54.3, 53.9)),
                Setting("+ body", _from_scratch("hands,body"), (41.56, 38.28, 53.0, 52.9)),
                Setting("+ face", _from_scratch("hands,body,face"), (43.45, 41.10, 51.2, 50.7)),
            ),
            (Claim("+ body", "hands"), Claim("+ face", "+ body")),
        ),
    )
}


def read_scores(run: Path, task: Task) -> dict[tuple[str, str], float]:
    """(split, metric) -> score of a finished fine-tuning run; dev scores are those of the weights that were tested.

    ("train", "time") is in seconds per training clip. Raises InputError if the run's score file is invalid.
    """
    metric, better = MAIN_METRIC[task]
    test = read_scores_file(run / "scores-test.json", (metric,)).values
    evaluations = [event.scores for event in events_of(read_events(run / "log.jsonl"), EvaluationEvent)]
    dev = better((scores for scores in evaluations if metric in scores), key=lambda scores: scores[metric])
    scores = {("test", name): value for name, value in test.items()}
    scores |= {("dev", name): value for name, value in dev.items()}
    speed = training_speed(run)
    assert speed is not None, "a finished run has logged steps"
    return scores | {("train", "time"): 1 / speed}
