"""launch/evaluate.py and the files it reads, in every format, valid and invalid."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from unisign_fast.evaluation.predictions import (
    Prediction,
    read_baseline,
    read_predictions,
    recorded_language,
    write_json,
    write_predictions,
)
from unisign_fast.pipelines.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    Prediction("-Ab:00:01.5-00:02.mp4", "it says, prediction: rain", "it said, ground-truth: rain"),
    Prediction("plain", "", "a\u0085b\u2028c"),
    Prediction("中文", '有 "引号" 。', "有引号。"),
]


def evaluate(*arguments: object) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    command = [sys.executable, ROOT / "launch/evaluate.py", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)


def write_published(folder: Path, rows: list[Prediction]) -> tuple[Path, Path]:
    predictions, references = folder / "pres.txt", folder / "refs.txt"
    predictions.write_text("".join(f"sample: {r.id}, prediction: {r.prediction}\n" for r in rows), "utf-8")
    references.write_text("".join(f"sample: {r.id}, ground-truth: {r.reference}\n" for r in rows), "utf-8")
    return predictions, references


def test_rows_survive_both_formats(tmp_path):
    write_predictions(tmp_path / "deep/rows.jsonl", ROWS)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["rows.jsonl"]
    assert read_predictions(tmp_path / "deep/rows.jsonl") == ROWS
    assert read_predictions(*write_published(tmp_path, ROWS)) == ROWS


def test_formats_mix_and_order_does_not_matter(tmp_path):
    write_predictions(tmp_path / "rows.jsonl", ROWS)
    _, references = write_published(tmp_path, ROWS[::-1])
    assert read_predictions(tmp_path / "rows.jsonl", references) == ROWS


def write_translations(path: Path, rows: list[tuple], language: str = "de") -> Path:
    """Lines as launch/translate.py writes them; `rows`: (file, clip, text, reference)."""
    about = {"score": -0.1, "start": 0.0, "end": 2.0, "took": 0.5, "language": language}
    rows = [dict(file=file, clip=clip, text=text, reference=reference) | about for file, clip, text, reference in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_translations_are_read_and_the_windows_of_a_clip_joined(tmp_path):
    rows = [("a.mp4", "a", "es regnet", "r"), ("b.mp4", "b", "ja", "nein"), ("a.mp4", "a", "viel", "r")]
    path = write_translations(tmp_path / "t.jsonl", rows)
    assert read_predictions(path) == [Prediction("a", "es regnet viel", "r"), Prediction("b", "ja", "nein")]
    assert recorded_language(path) == "de"
    write_translations(path, [*rows, ("other.mp4", "a", "x", "r")])
    with pytest.raises(InputError, match="t.jsonl: line 4: id: 'a' occurs twice"):
        read_predictions(path)
    write_translations(path, [("a.mp4", "a", "es regnet", "")])
    with pytest.raises(InputError, match="line 1: reference: the text of 'a' is empty; .*--references"):
        read_predictions(path)


def test_plain_text_is_read_line_by_line(tmp_path):
    hypotheses, references = tmp_path / "hypotheses.txt", tmp_path / "references.txt"
    hypotheses.write_bytes("\r\nja\u0085 ja\r\n\n".encode())
    references.write_text("eins\nzwei\ndrei")
    assert [(row.prediction, row.reference) for row in read_predictions(hypotheses, references)] == [
        ("", "eins"),
        ("ja\u0085 ja", "zwei"),
        ("", "drei"),
    ]
    assert recorded_language(hypotheses) is None
    with pytest.raises(InputError, match="hypotheses.txt: is plain text without references; .*--references"):
        read_predictions(hypotheses)
    references.write_text("eins\nzwei\n")
    with pytest.raises(
        InputError, match="references.txt: id: lacks 1 of the ids of .*hypotheses.txt, such as 'line 3'"
    ):
        read_predictions(hypotheses, references)
    references.write_text("eins\n\ndrei\n")
    with pytest.raises(InputError, match="references.txt: line 2: reference: the text of 'line 2' is empty"):
        read_predictions(hypotheses, references)


def test_the_language_is_that_of_the_lines_or_of_the_scores_beside(tmp_path):
    path = tmp_path / "predictions-dev.jsonl"
    write_predictions(path, [Prediction("a", "x", "x")])
    assert recorded_language(path) is None
    write_json(tmp_path / "scores-dev.json", {"values": {"WER": 1.0}, "language": "fr"})
    assert recorded_language(path) == "fr"
    lines = [{"clip": name, "text": "x", "reference": "x", "language": name} for name in ("de", "fr")]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match="predictions-dev.jsonl: language: its texts are in de, fr"):
        recorded_language(path)


def test_windows_line_ends_and_cut_off_spaces(tmp_path):
    predictions, references = write_published(tmp_path, [Prediction("a", "one", "two")])
    predictions.write_bytes(b"\xef\xbb\xbfsample: a, prediction:\r\n\r\n")
    assert read_predictions(predictions, references) == [Prediction("a", "", "two")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["no such file"]),
        (b"", ["holds no lines"]),
        (b"sample: a, prediction: x\nsample: a, prediction: y\n", ["line 2: id", "'a'", "occurs twice"]),
        (b"sample: a, prediction: x\nsecond line\n", ["line 2: prediction", "missing from this line"]),
        (b"sample: a, ground-truth: x\n", ["line 1: prediction", "missing from this line"]),
        (b'{"id": "a"}\n', ["line 1: prediction", "missing or not a string"]),
        (b'{"id": 7, "prediction": "x"}\n', ["line 1: id", "missing or not a string"]),
        (b'["a", "x"]\n', ["line 1: id", "missing or not a string"]),
        (b"sample: a, prediction: \xff\n", ["not UTF-8"]),
        (b"sample: b, prediction: x\n", ["pres.txt: id", "lacks 1", "'a'"]),
        (b"sample: a, prediction: x\nsample: b, prediction: x\n", ["refs.txt: id", "lacks 1", "'b'"]),
    ],
)
def test_bad_predictions_are_named(tmp_path, content, words):
    predictions, references = write_published(tmp_path, [Prediction("a", "one", "two")])
    predictions.unlink()
    if content is not None:
        predictions.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_predictions(predictions, references)
    assert str(tmp_path) in str(caught.value) and all(word in str(caught.value) for word in words), caught.value


def test_bad_references_are_named(tmp_path):
    predictions, references = write_published(tmp_path, [Prediction("a", "one", " ")])
    with pytest.raises(InputError, match="line 1: reference: the text of 'a' is empty"):
        read_predictions(predictions, references)
    with pytest.raises(InputError, match="--references"):
        read_predictions(predictions)


def test_an_output_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "folder", tmp_path / "file/scores.json", Path(".")):
        with pytest.raises(InputError, match="cannot be written"):
            write_json(path, {})
    assert {p.name for p in tmp_path.iterdir()} == {"folder", "file"}


def test_command_scores_published_files(tmp_path):
    predictions, references = write_published(tmp_path, [Prediction("a", "我 喜 欢 茶 。", "我喜欢水。")])
    out = tmp_path / "new/scores.json"
    files = ("--predictions", predictions, "--references", references)
    result = evaluate(*files, "--task", "slt", "--language", "zh", "--json", out)
    assert result.returncode == 0, result.stderr
    scores = json.loads(out.read_text("utf-8"))
    assert scores["values"]["BLEU-1"] == pytest.approx(80)
    assert (scores["task"], scores["language"], scores["count"]) == ("slt", "zh", 1)
    for shown in ("BLEU-1", "80.00", "csl-daily", "tok:13a|smooth:exp", "ROUGE-L"):
        assert shown in result.stdout


@pytest.mark.parametrize(("task", "metric", "expected"), [("cslr", "WER", 50), ("islr", "top-1 per class", 50)])
def test_command_scores_a_file_with_references_inside(tmp_path, task, metric, expected):
    write_predictions(tmp_path / "rows.jsonl", [Prediction("a", "x", "x"), Prediction("b", "y", "z")])
    out = tmp_path / "scores.json"
    result = evaluate("--predictions", tmp_path / "rows.jsonl", "--task", task, "--language", "en", "--json", out)
    assert result.returncode == 0, result.stderr
    assert json.loads(out.read_text())["values"][metric] == pytest.approx(expected)


def test_command_ends_with_one_line_and_status_2(tmp_path):
    result = evaluate("--predictions", tmp_path / "none.jsonl", "--task", "slt", "--language", "en")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1 and "none.jsonl" in result.stderr


def test_command_compares_two_systems(tmp_path):
    words = [f"w{i}" for i in range(40)]
    rows = [Prediction(f"clip{i}", word, word) for i, word in enumerate(words)]
    write_predictions(tmp_path / "good.jsonl", rows)
    worse = [Prediction(row.id, "x" if i % 2 else row.prediction, row.reference) for i, row in enumerate(rows)]
    write_predictions(tmp_path / "worse.jsonl", worse[::-1])
    files = ["--predictions", tmp_path / "good.jsonl", "--baseline", tmp_path / "worse.jsonl"]
    result = evaluate(*files, "--task", "islr", "--language", "en", "--json", tmp_path / "out.json")
    assert result.returncode == 0, result.stderr
    outcome = json.loads((tmp_path / "out.json").read_text())
    assert outcome["values"]["top-1 per instance"] == 100 and outcome["intervals"]["top-1 per instance"] == [100, 100]
    difference = outcome["differences"]["top-1 per instance"]
    assert difference["value"] == 50 and difference["p_value"] < 0.01
    assert 30 < difference["interval"][0] < 50 < difference["interval"][1] < 70
    assert "+50.00" in result.stdout and "approximate randomisation" in result.stdout


def test_a_baseline_of_other_clips_is_refused(tmp_path):
    rows = [Prediction("a", "x", "x"), Prediction("b", "y", "z")]
    write_predictions(tmp_path / "other.jsonl", [*rows, Prediction("c", "x", "x")])
    with pytest.raises(InputError, match="other.jsonl: id: differs in 1 clips from the predictions, such as 'c'"):
        read_baseline(tmp_path / "other.jsonl", rows)
    write_predictions(tmp_path / "other.jsonl", rows[::-1])
    assert read_baseline(tmp_path / "other.jsonl", rows) == rows


def test_command_takes_a_class_list(tmp_path):
    write_predictions(tmp_path / "rows.jsonl", [Prediction("a", "give ticket", "ticket")])
    (tmp_path / "classes.json").write_text('[["ticket", "give ticket"]]')
    options = ["--predictions", tmp_path / "rows.jsonl", "--language", "en", "--classes", tmp_path / "classes.json"]
    result = evaluate(*options, "--task", "islr")
    assert result.returncode == 0 and "100.00" in result.stdout and "exact class" in result.stdout, result
    result = evaluate(*options, "--task", "slt")
    assert result.returncode == 2 and "--classes: classes apply to words" in result.stderr


def test_command_scores_translations_in_their_language_against_a_run(tmp_path):
    path = write_translations(tmp_path / "t.jsonl", [("a.mp4", "a", "ฉันกินน้ำ", "ฉันกินน้ำ")], language="th")
    (tmp_path / "run").mkdir()
    write_predictions(tmp_path / "run/predictions-test.jsonl", [Prediction("a", "ฉัน", "ฉันกินน้ำ")])
    files = ("--predictions", path, "--baseline", tmp_path / "run", "--json", tmp_path / "out.json")
    result = evaluate(*files, "--task", "slt")
    assert result.returncode == 0 and result.stderr == "", result
    scores = json.loads((tmp_path / "out.json").read_text())
    assert scores["language"] == "th" and scores["values"]["BLEU-4"] == pytest.approx(100)
    assert scores["differences"]["BLEU-4"]["value"] > 0 and "tok:char" in scores["signature"]
    result = evaluate(*files, "--task", "slt", "--language", "de")
    assert result.stderr == (
        "warning: --language de: references: 100% of the letters are not in the script of German; most are THAI\n"
    )
    result = evaluate("--predictions", tmp_path / "run", "--task", "slt")
    assert (
        result.returncode == 2 and "predictions-test.jsonl does not name it; give the texts' language" in result.stderr
    )
    result = evaluate("--predictions", tmp_path, "--task", "slt")
    assert result.returncode == 2 and f"{tmp_path}: holds no predictions-test.jsonl; " in result.stderr
