"""The page of a release: its numbers, hostile texts, and how it looks in a real browser."""

import json
import runpy
from collections import Counter
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from toy_training import ROOT

from unisign_fast.pipelines.curation.report import read_corpus_report
from unisign_fast.pipelines.errors import InputError
from unisign_fast.report.charts import LEFT, RIGHT, TOP, WIDTH
from unisign_fast.report.corpus_page import histogram, rank_curve, write_corpus_page
from unisign_fast.utils.console import run_command

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'\"]]>"


def clip(source: str, seconds: float, text: str, *reasons: str, posed: bool = True, language: str = "zh") -> dict:
    series = "晚间新闻" if source < "p4" else HOSTILE
    measured = {"seconds": seconds, "signer_share": 1.0} if posed else None
    where = {"id": f"{source}-1", "source": source, "series": series, "split": "dev" if source == "p2" else "train"}
    return where | {
        "language": language,
        "text": text,
        "start": 5.0,
        "end": 5.0 + seconds,
        "quality": measured,
        "reasons": list(reasons),
    }


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    """A release as curate.py writes it, one programme with hostile names and texts."""
    root = tmp_path_factory.mktemp("corpus")
    folder = root / "releases" / "0123456789abcdef"
    folder.mkdir(parents=True)
    programmes = []
    for n in range(6):
        lag = {"start_seconds": 2.0 + 0.2 * n, "end_seconds": 1.5 + 0.1 * n, "confidence": 9.0 if n else 1.5}
        (root / "parts" / f"key{n}").mkdir(parents=True)
        part = {"frames": 2500, "fps": 25.0, "seconds": 50.0, "first": 0}
        (root / "parts" / f"key{n}" / "part.json").write_text(json.dumps(part))
        named = {"source": f"p{n}", "series": "晚间新闻" if n < 4 else HOSTILE, "language": "zh" if n < 4 else "en"}
        known = {"licence": HOSTILE if n == 5 else "CC BY 4.0", "consent": "by letter", "date": "2026-11-28"}
        programmes.append(named | known | {"seconds": 600.0, "lag": lag, "parts": [f"key{n}"], "missing_parts": 0})
    clips = [clip(f"p{n % 4}", 4.0 + n % 11, "今天天气很好。" + "看" * (n % 13)) for n in range(120)]
    clips += [
        clip("p5", 6.0, HOSTILE, language="en"),
        clip("p5", 2.0, "Nobody signs", "min_signer_share", language="en"),
    ]
    clips += [
        clip("p1", 2.0, "短", "min_seconds", "min_hand_speed"),
        clip("p1", 9.0, "无", "part_missing", posed=False),
    ]
    (folder / "quality.jsonl").write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in clips))
    record = {"clips": {"candidates": len(clips), "kept": 121}, "programmes": programmes, "settings": {}}
    (folder / "release.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def page(release, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("page") / "release.html"
    write_corpus_page(release, out)
    return out


def test_numbers_of_a_release(release):
    report = read_corpus_report(release)
    assert [(stage.count, round(stage.seconds)) for stage in report.stages][0] == (6, 3600)
    assert [stage.count for stage in report.stages] == [6, 124, 123, 121]
    assert report.stages[1].seconds == report.stages[2].seconds + 9.0 == report.stages[3].seconds + 13.0
    assert dict(report.reasons) == dict.fromkeys(
        ("min_signer_share", "min_seconds", "min_hand_speed", "part_missing"), 1
    )
    assert [(one.name, one.programmes, one.sentences, one.clips) for one in report.series] == [
        ("晚间新闻", 4, 122, 120),
        (HOSTILE, 2, 2, 1),
    ]
    assert [one.estimated for one in report.lags] == [False] + 5 * [True]
    assert report.texts["zh"].vocabulary["天"] == 240 and set(report.texts["zh"].vocabulary) == set("今天气很好看")
    assert report.splits == {"train": 91, "dev": 30} and report.real_time == 2.0


def test_damaged_releases_are_one_line(release, tmp_path):
    with pytest.raises(InputError, match="release.json: cannot be read"):
        read_corpus_report(tmp_path)
    (tmp_path / "release.json").write_bytes((release / "release.json").read_bytes())
    for wrong in (b'{"source": 3}\n', b"[" * 100_000, b"\xff\n"):
        (tmp_path / "quality.jsonl").write_bytes(wrong)
        with pytest.raises(InputError, match="quality.jsonl: line 1: is damaged"):
            write_corpus_page(tmp_path, tmp_path / "out.html")
    assert not (tmp_path / "out.html").exists()


def test_figures_hold_every_value():
    shown = histogram("Durations", [1.0, 2.0, 2.5, 30.0], "seconds", "clips")
    assert sum(int(count) for _, count in shown.rows) == 4
    assert all(LEFT <= bar.x and bar.y >= TOP and bar.x + bar.width <= WIDTH - RIGHT + 0.5 for bar in shown.bars)
    assert "mean 8.875, median 2.25 seconds" in shown.summary
    for same in (0.0, 2.7, 5.6):
        one = histogram("One", [same, same], "seconds", "programmes")
        assert [bar.height > 0 for bar in one.bars] == [True, False, False, False] and len(one.x_ticks) >= 2
        assert sum(int(count) for _, count in one.rows) == 2
    curve = rank_curve("Vocabulary", Counter({"a": 100, "b": 10, "c": 1}), "words")
    assert "3 different words, the most frequent one 100 times, 1 once" in curve.summary
    assert (
        curve.line.split()[0] == f"{LEFT:.1f},{TOP:.1f}"
        and rank_curve("One", Counter("a"), "words").line.count(",") == 2
    )


def test_the_command_writes_the_page_beside_the_release(release, capsys):
    command = runpy.run_path(str(ROOT / "launch" / "report.py"))["report"]
    run_command(command, [str(release)])
    assert (release.parent / f"{release.name}.html").exists() and "MB" in capsys.readouterr().out
    assert sorted(path.name for path in release.iterdir()) == ["quality.jsonl", "release.json"]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("scheme, width", [("light", 1200), ("dark", 1200), ("light", 375), ("dark", 375)])
def test_the_page_in_a_browser(page, scheme, width):
    with Browser() as browser:
        browser.open(page, scheme=scheme, width=width)
        assert browser.value("document.title").startswith("Release /"), "no script of a hostile text has run"
        assert browser.value("document.scripts.length + document.images.length") == 0
        assert browser.value("document.documentElement.scrollWidth") <= width, "only tables scroll, in their own boxes"
        assert browser.value("document.querySelectorAll('figure svg').length") == 8
        shown = browser.value("document.body.innerText")
        assert "晚间新闻" in shown and "<script>document" in shown and "Estimated for 5 of 6 programmes" in shown
        problems = [event for event in browser.events if event[0] in ("Log.entryAdded", "Runtime.exceptionThrown")]
        assert problems == []
        assert not [
            e
            for e in browser.events
            if e[0] == "Network.requestWillBeSent" and "file:" not in str(e[1]["request"]["url"])
        ]
