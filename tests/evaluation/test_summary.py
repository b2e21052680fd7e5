"""The table of finished runs, from the files that runs write."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from unisign_fast.evaluation.summary import Row, summarise, summary_table, write_rows
from unisign_fast.pipelines.errors import InputError

SCORES = {
    "slt": {"values": {"BLEU-1": 70.0, "BLEU-4": 44.5}, "signature": "tok:13a", "count": 96},
    "cslr": {"values": {"WER": 12.25}, "signature": "sub:4", "count": 95},
}


def write_run(folder: Path, task: str, p_samp: float, rates: list[float]) -> None:
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps({"data": {"task": task, "p_samp": p_samp}}))
    (folder / "scores-test.json").write_text(json.dumps(SCORES[task]))
    write_log(folder, rates)


def write_log(folder: Path, rates: list[float]) -> None:
    folder.mkdir(exist_ok=True)
    events = [{"event": "start"}, *({"event": "step", "clips_per_s": rate} for rate in rates)]
    (folder / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


@pytest.fixture
def root(tmp_path) -> Path:
    write_run(tmp_path / "slt-pose", "slt", 0.0, [30.0, 10.0, 20.0])
    write_run(tmp_path / "cslr-rgb", "cslr", 0.1, [5.0])
    write_log(tmp_path / "stage1", [60.0, 50.0, 40.0])
    write_log(tmp_path / "stage2", [])
    for stage in (1, 2):
        settings = {"stage": stage, "data": {"task": "slt", "p_samp": 0.0}}
        (tmp_path / f"stage{stage}/settings.json").write_text(json.dumps(settings))
    return tmp_path


def test_rows_hold_the_main_metric_and_the_median_speed_of_each_stage(root):
    (cslr, slt), skipped = summarise(root)
    assert skipped == []
    speeds = [50.0, None, 20.0]
    assert slt == Row("slt-pose", "SLT", "pose-only", "BLEU-4", "tok:13a", 44.5, 96, speeds, slt.setting)
    speeds = [50.0, None, 5.0]
    assert cslr == Row("cslr-rgb", "CSLR", "RGB-pose", "WER", "sub:4", 12.25, 95, speeds, cslr.setting)


def test_seeds_of_one_setting_are_summarised(tmp_path):
    for seed, top1 in enumerate((96.0, 92.5, 98.0)):
        write_run(tmp_path / f"islr-{seed}", "slt", 0.1, [5.0])
        settings = {"out": f"islr-{seed}", "data": {"task": "slt", "p_samp": 0.1}, "train": {"seed": seed, "epochs": 5}}
        (tmp_path / f"islr-{seed}/settings.json").write_text(json.dumps(settings | {"start": {"ranks": seed}}))
        scores = SCORES["slt"] | {"values": {"BLEU-4": top1}}
        (tmp_path / f"islr-{seed}/scores-test.json").write_text(json.dumps(scores))
    write_run(tmp_path / "other", "slt", 0.1, [5.0])
    rows, _ = summarise(tmp_path)
    console = Console(width=160, file=io.StringIO())
    console.print(summary_table("runs", rows))
    (line,) = [line for line in console.file.getvalue().splitlines() if "seeds" in line]
    assert "median of 3 seeds" in line and "96.00 (92.50 to 98.00)" in line


def test_a_terminal_of_80_columns_shows_names_in_full():
    rows = [
        Row(f"islr-rgb-seed{seed}", "ISLR", "RGB-pose", "top-1 per instance", "exact", 91.67, 108, [58.7] * 3, "")
        for seed in range(3)
    ]
    console = Console(width=80, file=io.StringIO())
    console.print(summary_table("runs", rows))
    shown = console.file.getvalue()
    assert all(row.run in shown for row in rows) and "…" not in shown


def test_table_shows_other_runs_beside(root, tmp_path):
    rows, _ = summarise(root)
    write_rows(
        tmp_path / "untrained.json", [Row("run", "SLT", "pose-only", "BLEU-4", "tok:13a", 0.5, 96, [None] * 3, "")]
    )
    console = Console(width=160, file=io.StringIO())
    console.print(summary_table("runs", rows, [tmp_path / "untrained.json"]))
    lines = console.file.getvalue().splitlines()
    (slt,) = [line.split() for line in lines if "SLT" in line and "pose-only" in line]
    assert [cell for cell in slt if cell != "│"] == [
        "slt-pose",
        "SLT",
        "pose-only",
        "BLEU-4",
        "44.50",
        "0.50",
        "96",
        "50.0",
        "-",
        "20.0",
    ]
    (cslr,) = [line for line in lines if "CSLR" in line]
    assert "untrained" in "".join(lines) and "12.25" in cslr and "sub:4" in "".join(lines)


def test_other_folders_are_skipped_with_a_line_each(root):
    (root / "notes").mkdir()
    (root / "file.txt").touch()
    write_run(root / "killed", "slt", 0.0, [1.0])
    (root / "killed/scores-test.json").unlink()
    write_run(root / "odd", "slt", 0.0, [1.0])
    (root / "odd/scores-test.json").write_text("[]")
    write_run(root / "torn", "slt", 0.0, [1.0])
    (root / "torn/settings.json").write_text("{")
    write_run(root / "unset", "slt", 0.0, [1.0])
    (root / "unset/settings.json").write_text('{"data": {"task": "slt"}}')
    rows, skipped = summarise(root)
    assert [row.run for row in rows] == ["cslr-rgb", "slt-pose"]
    messages = [line.removeprefix(f"{root}/") for line in skipped]
    assert messages[:2] == [
        "killed: has no test scores; finish the run",
        "notes: is not a run; name a folder of runs",
    ]
    assert messages[2].startswith("odd/scores-test.json: ")
    assert messages[3].startswith("torn/settings.json: holds no settings of a run (")
    assert "unset/settings.json: holds no settings of a run (" in messages[4] and "p_samp" in messages[4]
    assert len(messages) == 5


def test_one_run_is_shown_alone(root):
    ((row,), skipped) = summarise(root / "slt-pose")
    assert (row.run, row.clips_per_second, skipped) == ("slt-pose", [50.0, None, 20.0], [])


def test_missing_rows_are_one_error(tmp_path):
    with pytest.raises(InputError, match="no run there has test scores; train with launch/finetune.py first"):
        summarise(tmp_path)
    (tmp_path / "rows.json").write_text('[{"task": "SLT", "modality": "pose-only", "score": [1]}]')
    with pytest.raises(InputError, match=r"rows.json: holds no rows of a table \(.*score"):
        summary_table("runs", [], [tmp_path / "rows.json"])
    with pytest.raises(InputError, match=r"gone.json: holds no rows of a table \(cannot be read"):
        summary_table("runs", [], [tmp_path / "gone.json"])
