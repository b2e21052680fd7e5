"""Tables of launch/ablate.py: the paper's rows beside ours, the orderings that the paper claims, and parameters."""

from pathlib import Path
from statistics import mean, stdev

from rich import box
from rich.console import Console
from rich.table import Table

from unisign_fast.evaluation.predictions import write_json
from unisign_fast.paper.ablations import ABLATIONS, Ablation
from unisign_fast.paper.experiments import Values, collect, prepare_corpus, train_all, verdicts
from unisign_fast.paper.parameters import ParameterRow, parameter_table


def report_ablation(
    number: int, seeds: tuple[int, ...], epochs: tuple[int, int, int], clips: int, out: Path, json: Path | None
) -> None:
    """Train the unfinished runs of an ablation table, print the table, and write its numbers to `json`."""
    table = ABLATIONS[number]
    corpus = out / f"corpus{clips}"
    root = out / f"clips{clips}-epochs{'-'.join(map(str, epochs))}"
    prepare_corpus(corpus, clips, table.rgb)
    train_all(table, seeds, epochs, corpus, root)
    values = collect(table, seeds, root)
    result = verdicts(table, values)
    caption = f"ours: demo corpus of {clips} clips, epochs {epochs}, seeds {seeds}; mean ± standard deviation"
    for shown in (score_table(table, values, caption), claim_table(table, result, len(seeds))):
        Console().print(shown)
    if json is not None:
        columns = [vars(column) for column in table.columns]
        rows = [{"setting": s.name, "paper": s.paper, "ours": values[s.name]} for s in table.settings]
        claims = [{**vars(claim), "appears": row} for claim, row in zip(table.claims, result)]
        sizes = {"seeds": seeds, "epochs": epochs, "clips": clips}
        write_json(json, {"table": number, **sizes, "columns": columns, "rows": rows, "claims": claims})


def report_parameters(json: Path | None) -> None:
    """Print Table 12, and write its numbers to `json`."""
    rows = parameter_table()
    Console().print(parameters_table(rows))
    if json is not None:
        write_json(json, {"table": 12, "rows": [vars(row) for row in rows]})


def score_table(table: Ablation, values: Values, caption: str) -> Table:
    """For every setting, the paper's row and ours below it."""
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
    caption = f"{sum(mean for mean, _ in cells)} of the paper's {len(cells)} orderings appear in the mean, "
    caption += f"{sum(count == seeds for _, count in cells)} in every seed; -: not in the paper's own figures"
    shown = Table(title="Orderings the paper claims", caption=caption, box=box.SIMPLE, pad_edge=False)
    shown.add_column("better than", no_wrap=True)
    for column in table.columns:
        shown.add_column(column.title, justify="right")
    for claim, row in zip(table.claims, result):
        words = ("-" if cell is None else f"{'yes' if cell[0] else 'NO'} {cell[1]}/{seeds}" for cell in row)
        shown.add_row(f"{claim.better} > {claim.worse}", *words)
    return shown


def parameters_table(rows: list[ParameterRow]) -> Table:
    """Table 12."""
    shown = Table(title="Table 12: parameters, millions", box=box.SIMPLE, caption="the paper truncates its figures")
    shown.add_column("part")
    for name in ("paper", "counted"):
        shown.add_column(name, justify="right")
    for row in rows:
        shown.add_row(row.part, "-" if row.paper is None else str(row.paper), f"{row.parameters / 1e6:.3f}")
    return shown
