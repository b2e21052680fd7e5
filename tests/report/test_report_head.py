"""What a paper needs from a report: settings, commit and data in the head, the score table as CSV and LaTeX."""

import base64
import csv
import json
import re
from pathlib import Path

import pytest
from report_run import TEXTS, Page, write_keypoints, write_run

from unisign_fast.evaluation.predictions import Prediction
from unisign_fast.pipelines.errors import InputError
from unisign_fast.report.page import write_report
from unisign_fast.report.run_folder import read_run
from unisign_fast.report.score_table import as_csv, as_latex, score_table

ROWS = [Prediction(f"clip{i}", TEXTS[i % 3], TEXTS[(i + 1) % 3]) for i in (3, 4, 5)]


@pytest.fixture
def run(tmp_path) -> Path:
    return write_run(tmp_path / "run", write_keypoints(tmp_path / "store"), "slt", ROWS, evaluations=2)


def page_of(run: Path) -> Page:
    write_report(run, run.parent / "report.html", clips=0, faces=False)
    return Page(run.parent / "report.html")


def test_the_head_names_settings_commit_and_data(run):
    text = page_of(run).text
    for part in (
        f"Commit{40 * 'a'}, with uncommitted changes",
        "Commandlaunch/finetune.py --task slt",
        "Librariestorch 2.13",
        "Ranks2",
        "train 4, dev 2, test 6",
        "12 clips, 36 frames, CRC-32C ",
        "train.learning_rate0.0003",
        "data.languagenone",
    ):
        assert part in text, part
    assert "has changed since" not in text
    settings = json.loads((run / "settings.json").read_text())
    settings["start"]["data"][0]["content"] = "12 clips, 36 frames, CRC-32C 00000000"
    (run / "settings.json").write_text(json.dumps(settings))
    assert "Missing: The store has changed since the run started: its checksum is now " in page_of(run).text


@pytest.mark.parametrize("start", [None, [], {"data": 5, "versions": [1], "command": 7, "commit": {}}])
def test_a_run_that_recorded_no_start_has_a_head(run, start):
    settings = json.loads((run / "settings.json").read_text()) | {"start": start}
    (run / "settings.json").write_text(json.dumps(settings))
    text = page_of(run).text
    assert "Commitnot recorded" in text and "Librariesnot recorded" in text and "train 4, dev 2, test 6" in text


def test_links_hold_the_score_table(run):
    shown = page_of(run)
    links = {kind: href for kind in ("csv", "x-tex") for href in shown.values("href") if f"/{kind};" in href}
    table, latex = (base64.b64decode(link.split(",")[1]).decode() for link in links.values())
    assert shown.values("download") == ["run-scores.csv", "run-scores.tex"]
    scores = json.loads((run / "scores-test.json").read_text())
    rows = list(csv.DictReader(table.splitlines()))
    assert rows[0]["corpus"] == "store, test (3 clips)" and rows[0]["system"] == "this run, pose-only"
    for metric, value in scores["values"].items():
        low, high = scores["intervals"][metric]
        shown_row = [rows[0][name] for name in (metric, f"{metric} low", f"{metric} high")]
        assert shown_row == [f"{value:.2f}", f"{low:.1f}", f"{high:.1f}"]
    assert rows[1]["BLEU-4"] == "25.61" and rows[1]["chrF"] == "" and len(rows) == 10
    lines = latex.splitlines()
    assert lines[0].startswith("% Signature: BLEU") and lines[1] == r"\begin{tabular}{llrrrrrr}"
    assert (
        r"CSL-Daily test (Chinese) & paper, pose-only, Table 19 & 53.86 & 40.96 & 32.02 & 25.61 & 54.92 & -- \\"
        in lines
    )
    assert {line.count("&") for line in lines if line.endswith(r"\\")} == {7}
    assert lines[-1] == r"\end{tabular}"


def test_names_break_neither_table(run):
    settings = json.loads((run / "settings.json").read_text())
    settings["stores"] = ["/data/=HYPERLINK(1),\n50%_&{x}#$^~\\"]
    (run / "settings.json").write_text(json.dumps(settings))
    scores = json.loads((run / "scores-test.json").read_text()) | {"signature": "one\n\\input{secret}"}
    (run / "scores-test.json").write_text(json.dumps(scores))
    table = score_table(read_run(run), "pose-only")
    rows = list(csv.reader(as_csv(table).splitlines(keepends=True)))
    assert rows[1][0].startswith("'=HYPERLINK(1),") and len({len(row) for row in rows}) == 1
    lines = as_latex(table).splitlines()
    assert lines[0].startswith("%") and "input" in lines[0] and lines[1].startswith(r"\begin")
    corpus = lines[5].split(" & this run")[0]
    assert r"50\%\_\&\{x\}\#\$\textasciicircum{}\textasciitilde{}\textbackslash{}" in corpus
    assert not re.search(r"(?<!\\)[%&#$_]", corpus)


def test_invalid_scores_are_one_error(run):
    (run / "scores-test.json").write_text('{"values": {}}')
    with pytest.raises(InputError, match="scores-test.json: lacks signature, normalization, count; "):
        read_run(run)
    scores = {"values": {"BLEU-4": 1.0}, "signature": "s", "normalization": "\u202enone", "count": 1}
    (run / "scores-test.json").write_text(json.dumps(scores))
    with pytest.raises(InputError, match=r"scores-test.json: normalization: '\\u202enone' is not one of none, "):
        read_run(run)
