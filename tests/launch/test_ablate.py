"""The ablation tables: a table of one run is trained; the paper's tables are checked without training."""

import json
from pathlib import Path

import pytest
from rich.progress import Progress

from unisign_fast.evaluation.evaluate import MAIN_METRIC
from unisign_fast.paper.ablations import (
    ABLATIONS,
    ISLR,
    Ablation,
    Claim,
    Setting,
    fine_tuning,
    pose_pretraining,
    read_scores,
)
from unisign_fast.paper.experiments import collect, command, prepare_corpus, train, train_all, verdicts
from unisign_fast.paper.parameters import parameter_table
from unisign_fast.pipelines.errors import InputError


@pytest.fixture(params=ABLATIONS, ids=lambda number: f"table {number}")
def table(request) -> Ablation:
    return ABLATIONS[request.param]


def papers_own(table: Ablation, sign: float = 1) -> dict[str, list[list[float]]]:
    """The paper's figures instead of ours, for two seeds."""
    return {setting.name: [[sign * value] * 2 for value in setting.paper] for setting in table.settings}


def test_every_run_is_trained_once_and_after_the_one_it_starts_from(table):
    runs = table.runs()
    assert len({run.name for run in runs}) == len(runs), "a folder each"
    for number, run in enumerate(runs):
        assert (run.start is None) == (run.stage == 1)
        assert run.start is None or run.start in runs[:number]


def test_tables_share_what_is_the_same(table):
    assert ABLATIONS[10].settings[1].runs == ABLATIONS[9].settings[1].runs
    assert ABLATIONS[8].settings[-1].runs == ABLATIONS[9].settings[0].runs
    folders = {run.name: run for other in ABLATIONS.values() for run in other.runs()}
    assert all(folders[run.name] == run for run in table.runs()), "one name, one run"


def test_every_row_has_a_figure_of_the_paper_and_a_run_for_every_column(table):
    for setting in table.settings:
        assert len(setting.paper) == len(table.columns)
        assert {column.task for column in table.columns} == set(setting.runs)
    names = [setting.name for setting in table.settings]
    assert all(claim.better in names and claim.worse in names for claim in table.claims)


def test_the_papers_figures_show_all_its_claims_and_negated_none(table):
    cells = [cell for row in verdicts(table, papers_own(table)) for cell in row if cell is not None]
    assert cells and all(cell == (True, 2) for cell in cells)
    negated = verdicts(table, papers_own(table, -1))
    assert all(cell == (False, 0) for row in negated for cell in row if cell is not None)


def test_an_ordering_that_the_paper_does_not_show_is_not_counted():
    table = ABLATIONS[8]  # dev WER is 31.5 at 25 % and at 50 %
    result = verdicts(table, papers_own(table))
    assert result[1][0] is None and result[1][1] is not None
    more_rgb = verdicts(ABLATIONS[9], papers_own(ABLATIONS[9]))[1]
    assert more_rgb[6] is None, "ROUGE on test falls from 10 % to 25 %"


def test_an_ordering_in_some_seeds_only_is_counted_by_seed():
    table = ABLATIONS[10]
    values = {"cross": [[30.0, 30.0]] * 2 + [[20.0, 20.0]] * 4, "deformable": [[10.0, 31.0]] * 2 + [[19.0, 20.0]] * 4}
    assert verdicts(table, values)[0] == [(True, 1)] * 2 + [(False, 0)] * 4


def write_run(folder: Path, metric: str, dev: list[float], test: float, rate: float) -> None:
    """The files of a finished fine-tuning run that `read_scores` reads."""
    folder.mkdir(parents=True)
    events = [{"event": "step", "step": 1, "clips_per_s": rate}]
    events += [{"event": "evaluation", "scores": {metric: value, "other": value + 1}} for value in dev]
    (folder / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (folder / "scores-test.json").write_text(json.dumps({"values": {metric: test}}))


@pytest.mark.parametrize("task, best", [("cslr", 20.0), ("slt", 40.0)])
def test_dev_scores_are_those_of_the_weights_that_were_tested(tmp_path, task, best):
    metric = MAIN_METRIC[task][0]
    write_run(tmp_path / "run", metric, [30.0, 20.0, 40.0, 35.0], 33.0, 4.0)
    scores = read_scores(tmp_path / "run", task)
    assert scores["dev", metric] == best and scores["dev", "other"] == best + 1
    assert scores["test", metric] == 33.0 and scores["train", "time"] == 0.25


def test_parameters_are_those_of_table_12():
    rows = {row.part: row for row in parameter_table()}
    assert rows["EfficientNet-B0 with its classifier"].parameters == 5_288_548
    assert rows["EfficientNet-B0 without it, as used"].parameters == 4_007_548
    assert rows["mT5-Base"].parameters == 582_401_280
    assert rows["whole model, pose-only"].parameters == 587_747_368  # of the published checkpoint
    for row in rows.values():  # the paper truncates
        assert row.paper is None or row.paper <= row.parameters / 1e6 < row.paper + 0.1


def test_a_table_is_trained_once_and_then_read(tmp_path, capfd):
    start = pose_pretraining("--data-fraction", "0")
    runs = fine_tuning(("islr",), start, "--p-samp", "0")
    settings = Setting("one", runs, (50.0, 50.0)), Setting("other", runs, (60.0, 60.0))
    table = Ablation(0, "two names of one run", ISLR, settings, (Claim("other", "one"),))
    corpus, root = tmp_path / "corpus", tmp_path / "runs"
    prepare_corpus(corpus, 60, crops=False)
    for _ in range(2):
        train_all(table, (3,), (1, 1, 1), corpus, root)
    log = (root / "seed3/islr/log.jsonl").read_text()
    assert log.count('"event": "finished"') == 1 and log.count('"event": "start"') == 1
    assert json.loads((root / "seed3/islr/settings.json").read_text())["train"]["seed"] == 3
    values = collect(table, (3,), root)
    assert values["one"] == values["other"] and 0 <= values["one"][0][0] <= 100
    assert verdicts(table, values) == [[(False, 0)] * 2], "equal is not better"
    capfd.readouterr()


def test_a_run_that_fails_ends_the_table_with_its_output(tmp_path, capfd):
    run = pose_pretraining("--data-fraction", "2")
    line = command(run, 0, (1, 1, 1), tmp_path, tmp_path)
    with Progress(disable=True) as progress, pytest.raises(InputError, match="failed with status 2; fix"):
        train(line, progress, progress.add_task("", last_line=""))
    assert "--data-fraction: 2.0 is not valid" in capfd.readouterr().err
