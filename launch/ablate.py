"""The paper's experiments at demo size: Tables 7, 8, 9, 10, 13 (trained) and 12 (parameters, counted).

python launch/ablate.py 13
python launch/ablate.py 12
"""

import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Literal

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from unisign_fast.evaluation.predictions import write_json
from unisign_fast.paper.ablations import ABLATIONS, BOTH, Ablation, Setting, TrainingRun, read_scores
from unisign_fast.paper.parameters import parameter_table
from unisign_fast.pipelines.crops.cutting import cut_crops
from unisign_fast.pipelines.demo_corpus import write_demo_corpus
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.store.keypoint_store import KeypointStore
from unisign_fast.training.recipes import RECIPES, RUNS
from unisign_fast.utils.console import run_command

CROP_QUALITY = 90  # of JPEG
Values = dict[str, list[list[float]]]  # setting -> column -> one value a seed


def prepare_corpus(folder: Path, clips: int, crops: bool) -> None:
    """The corpus, if it is not there; with its hand crops where RGB is trained, so that no epoch decodes videos."""
    if not folder.exists():
        write_demo_corpus(folder, clips, seed=0)
    for store in BOTH if crops else ():
        cut_crops(KeypointStore.open(folder / store), RECIPES["demo"].crop_size, CROP_QUALITY)


def command(run: TrainingRun, seed: int, epochs: tuple[int, int, int], corpus: Path, folder: Path) -> list[str]:
    """The command line of one run; `folder` holds the runs of this seed."""
    stage = [] if run.stage == 3 else ["--stage", run.stage]
    start = [] if run.start is None else ["--start-from", folder / run.start.name / "last"]
    stores = [corpus / store for store in run.stores]
    length = run.epochs(epochs)
    often = ["--epochs", length, "--evaluate-every-epochs", length, "--checkpoint-every-steps", 1000]
    options = [*stage, *run.options, *start, "--stores", *stores, "--seed", seed, *often, "--out", folder / run.name]
    return [sys.executable, str(Path(__file__).with_name(f"{run.script}.py")), *map(str, options)]


def train(arguments: list[str], progress: Progress, bar: int) -> None:
    """One run in a process of its own, whose last line is shown; InputError with what it said if it fails."""
    said = []
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            said.append(line.rstrip())
            progress.update(bar, said=line.strip()[:50])
    if process.returncode:
        print(*said[-30:], sep="\n", file=sys.stderr)
        again = " ".join(arguments[1:])
        raise InputError(again, f"ended with status {process.returncode}", "see above; the next call goes on from here")


def train_all(table: Ablation, seeds: tuple[int, ...], epochs: tuple[int, int, int], corpus: Path, root: Path) -> None:
    """Every run of the table that is not finished, with progress on stderr."""
    waiting = [
        (seed, run)
        for seed in seeds
        for run in table.runs()
        if not run.finished(root / f"seed{seed}" / run.name)
    ]  # fmt: skip
    columns = TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn()
    console = Console(stderr=True)
    with Progress(*columns, TextColumn("{task.fields[said]}", markup=False), console=console) as progress:
        bar = progress.add_task(f"Table {table.number}", total=len(waiting), said="")
        for seed, run in waiting:
            if not console.is_terminal:
                console.print(f"seed {seed}, {run.name}", markup=False, highlight=False)
            progress.update(bar, description=f"Table {table.number}, seed {seed}, {run.name}")
            train(command(run, seed, epochs, corpus, root / f"seed{seed}"), progress, bar)
            progress.advance(bar)


def collect(table: Ablation, seeds: tuple[int, ...], root: Path) -> Values:
    """The scores of the finished runs; time relative to the first setting of the same seed."""

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
    """For each claim and column: whether the ordering appears in the mean, and in how many seeds; None: not claimed."""
    rows = []
    for claim in table.claims:
        row = []
        for number, column in enumerate(table.columns):
            better, worse = values[claim.better][number], values[claim.worse][number]
            appears = column.is_better(mean(better), mean(worse)), sum(map(column.is_better, better, worse))
            row.append(appears if table.claimed(claim, number) else None)
        rows.append(row)
    return rows


def score_table(table: Ablation, values: Values, caption: str) -> Table:
    """The paper's row and ours, below each other, for every setting."""
    shown = Table(title=f"Table {table.number}: {table.title}", caption=caption, box=box.SIMPLE, pad_edge=False)
    shown.add_column("setting", no_wrap=True)
    shown.add_column("")
    for column in table.columns:
        shown.add_column(f"{column.title} {'↓' if column.lower_is_better else '↑'}", justify="right")
    for setting in table.settings:
        shown.add_row(setting.name, "paper", *map(str, setting.paper))
        ours = (f"{mean(v):.1f}" + (f"±{stdev(v):.1f}" if len(v) > 1 else "") for v in values[setting.name])
        shown.add_row("", "ours", *ours)
    return shown


def claim_table(table: Ablation, result: list[list[tuple[bool, int] | None]], seeds: int) -> Table:
    """Whether the paper's orderings appear, with the share of seeds in which they do."""
    cells = [cell for row in result for cell in row if cell is not None]
    told = f"{sum(mean for mean, _ in cells)} of the paper's {len(cells)} orderings appear in the mean, "
    told += f"{sum(count == seeds for _, count in cells)} in every seed; - where the paper's figures show none"
    shown = Table(title="Orderings the paper claims", caption=told, box=box.SIMPLE, pad_edge=False)
    shown.add_column("better than", no_wrap=True)
    for column in table.columns:
        shown.add_column(column.title, justify="right")
    for claim, row in zip(table.claims, result):
        words = ("-" if cell is None else f"{'yes' if cell[0] else 'NO'} {cell[1]}/{seeds}" for cell in row)
        shown.add_row(f"{claim.better} > {claim.worse}", *words)
    return shown


def report_parameters(json: Path | None) -> None:
    """Table 12."""
    rows = parameter_table()
    shown = Table(title="Table 12: parameters, millions", box=box.SIMPLE, caption="the paper cuts digits off")
    shown.add_column("part")
    for name in ("paper", "counted"):
        shown.add_column(name, justify="right")
    for row in rows:
        shown.add_row(row.part, "-" if row.paper is None else str(row.paper), f"{row.parameters / 1e6:.3f}")
    Console().print(shown)
    if json is not None:
        write_json(json, {"table": 12, "rows": [vars(row) for row in rows]})


def ablate(
    table: Literal[7, 8, 9, 10, 12, 13],
    /,
    seeds: tuple[int, ...] = (0, 1, 2),
    epochs: tuple[int, int, int] = (8, 4, 3),
    clips: int = 400,
    out: Path = RUNS / "ablate",
    json: Path | None = None,
) -> None:
    """Train a table's runs on a demo corpus and print the paper's rows beside ours.

    Finished runs are taken as they are, by every table that needs them; a stopped call goes on where it was.

    Args:
        table: Number of the paper's table. 7: fine-tuning paradigm; 8: share of the pre-training data; 9: p_samp;
            10: fusion module; 12: parameters, which trains nothing; 13: sub-poses.
        seeds: Seeds of all training; the corpus stays the same.
        epochs: Of stages 1, 2 and 3.
        clips: Of the demo corpus, half of them sentences, half words.
        out: Folder of corpus and runs.
        json: File to write the numbers to.
    """
    if table == 12:
        report_parameters(json)
        return
    if min(epochs) < 1 or not seeds:
        raise InputError("--epochs" if seeds else "--seeds", "too few", "give 1 or more")
    chosen = ABLATIONS[table]
    corpus = out / f"corpus{clips}"
    root = out / f"clips{clips}-epochs{'-'.join(map(str, epochs))}"
    prepare_corpus(corpus, clips, chosen.rgb)
    train_all(chosen, seeds, epochs, corpus, root)
    values = collect(chosen, seeds, root)
    result = verdicts(chosen, values)
    caption = f"ours: demo corpus of {clips} clips, epochs {epochs}, seeds {seeds}; mean ± standard deviation"
    for shown in (score_table(chosen, values, caption), claim_table(chosen, result, len(seeds))):
        Console().print(shown)
    if json is not None:
        columns = [vars(column) for column in chosen.columns]
        rows = [{"setting": s.name, "paper": s.paper, "ours": values[s.name]} for s in chosen.settings]
        claims = [{**vars(claim), "appears": row} for claim, row in zip(chosen.claims, result)]
        sizes = {"seeds": seeds, "epochs": epochs, "clips": clips}
        write_json(json, {"table": table, **sizes, "columns": columns, "rows": rows, "claims": claims})


if __name__ == "__main__":
    run_command(ablate)
