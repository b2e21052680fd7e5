"""Trains the runs of an ablation table at demo size and checks whether their scores show the paper's orderings."""

import subprocess
import sys
from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from unisign_fast.paper.ablations import BOTH, Ablation, Setting, TrainingRun, read_scores
from unisign_fast.pipelines.crops.cutting import cut_crops
from unisign_fast.pipelines.demo_corpus import write_demo_corpus
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.store.keypoint_store import KeypointStore
from unisign_fast.training.recipes import RECIPES

CROP_QUALITY = 90  # of JPEG
SCRIPTS = Path(__file__).parents[1] / "launch"
Values = dict[str, list[list[float]]]  # setting -> column -> one value per seed


def prepare_corpus(folder: Path, clips: int, crops: bool) -> None:
    """Writes the demo corpus unless it exists. For RGB, also cuts hand crops, so that no epoch decodes videos."""
    if not folder.exists():
        write_demo_corpus(folder, clips, seed=0)
    for store in BOTH if crops else ():
        cut_crops(KeypointStore.open(folder / store), RECIPES["demo"].crop_size, CROP_QUALITY)


def command(run: TrainingRun, seed: int, epochs: tuple[int, int, int], corpus: Path, folder: Path) -> list[str]:
    """The command line of one run; `folder` holds the runs of this seed."""
    stage = [] if run.stage == 3 else ["--stage", run.stage]
    start = [] if run.start is None else ["--start-from", folder / run.start.name / "last"]
    stores = [corpus / store for store in run.stores]
    count = run.epochs(epochs)
    schedule = ["--epochs", count, "--evaluate-every-epochs", count, "--checkpoint-every-steps", 1000]
    options = [*stage, *run.options, *start, "--stores", *stores, "--seed", seed, *schedule, "--out", folder / run.name]
    return [sys.executable, str(SCRIPTS / f"{run.script}.py"), *map(str, options)]


def train(arguments: list[str], progress: Progress, bar: TaskID) -> None:
    """Trains one run in a separate process, showing its last line; if it fails, prints more and raises InputError."""
    output = []
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            output.append(line.rstrip())
            progress.update(bar, last_line=line.strip()[:50])
    if process.returncode:
        print(*output[-30:], sep="\n", file=sys.stderr)
        problem, remedy = f"failed with status {process.returncode}", "fix the error above and run again to resume"
        raise InputError(" ".join(arguments[1:]), problem, remedy)


def train_all(table: Ablation, seeds: tuple[int, ...], epochs: tuple[int, int, int], corpus: Path, root: Path) -> None:
    """Trains every unfinished run of the table, with progress on stderr. Raises InputError if one fails."""
    pending = [
        (seed, run)
        for seed in seeds
        for run in table.runs()
        if not run.finished(root / f"seed{seed}" / run.name)
    ]  # fmt: skip
    columns = TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn()
    console = Console(stderr=True)
    with Progress(*columns, TextColumn("{task.fields[last_line]}", markup=False), console=console) as progress:
        bar = progress.add_task(f"Table {table.number}", total=len(pending), last_line="")
        for seed, run in pending:
            if not console.is_terminal:
                console.print(f"seed {seed}, {run.name}", markup=False, highlight=False)
            progress.update(bar, description=f"Table {table.number}, seed {seed}, {run.name}")
            train(command(run, seed, epochs, corpus, root / f"seed{seed}"), progress, bar)
            progress.advance(bar)


def collect(table: Ablation, seeds: tuple[int, ...], root: Path) -> Values:
    """The scores of the finished runs; time is relative to the first setting with the same seed."""

    def values(setting: Setting, seed: int) -> list[float]:
        scores = {
            task: read_scores(root / f"seed{seed}" / run.name, task)
            for task, run in setting.runs.items()
        }  # fmt: skip
        return [scores[column.task][column.split, column.metric] for column in table.columns]

    result = {s.name: [list(row) for row in zip(*(values(s, seed) for seed in seeds))] for s in table.settings}
    for number, column in enumerate(table.columns):
        if column.metric == "time":
            first = list(result[table.settings[0].name][number])
            for rows in result.values():
                rows[number] = [value / base for value, base in zip(rows[number], first)]
    return result


def verdicts(table: Ablation, values: Values) -> list[list[tuple[bool, int] | None]]:
    """For each claim and column, whether the ordering appears in the mean, and in how many seeds; None: not claimed."""
    rows = []
    for claim in table.claims:
        row = []
        for number, column in enumerate(table.columns):
            better, worse = values[claim.better][number], values[claim.worse][number]
            appears = column.is_better(mean(better), mean(worse)), sum(map(column.is_better, better, worse))
            row.append(appears if table.claimed(claim, number) else None)
        rows.append(row)
    return rows
