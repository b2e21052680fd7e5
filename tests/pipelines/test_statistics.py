"""Statistics of a corpus that can be counted by hand, its duplicates across splits, and its figure."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unisign_fast.pipelines.corpus.statistics import (
    _draw_distribution,
    describe,
    draw,
    duplicates,
    read_corpus,
    units_of,
)
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.store.keypoint_store import KeypointStoreWriter

ROOT = Path(__file__).resolve().parents[2]
SOURCE = {"estimator": "none", "version": "0", "coordinates": "fractions"}


def write_store(path, clips):
    """`clips`: (id, split, language, text, frames, seed of the keypoints), at 25 frames per second."""
    with KeypointStoreWriter(path, SOURCE) as writer:
        for id, split, language, text, frames, seed in clips:
            keypoints = np.random.default_rng(seed).random((frames, 133, 3))
            writer.add(
                keypoints, id=id, split=split, language=language, text=text, fps=25, width=64, height=48, source=""
            )
    return path


@pytest.fixture
def corpus(tmp_path):
    """Two stores: train, and dev with test. Keypoints 1 are in train and dev, 4 in dev and test."""
    train = [
        ("t1", "train", "zh", "我们 吃饭。", 50, 1),
        ("t2", "train", "zh", "我去", 25, 2),
        ("t3", "train", "zh", "我去", 25, 2),  # twice in one split: no matter
    ]
    others = [
        ("d1", "dev", "zh", "我 们吃饭！", 50, 1),
        ("d2", "dev", "zh", "我去", 25, 4),
        ("e1", "test", "zh", "我去", 25, 4),
        ("e2", "test", "zh", "他喝水", 75, 5),
    ]
    paths = write_store(tmp_path / "train", train), write_store(tmp_path / "others", others)
    return read_corpus(paths)


def rows(text):
    """The table's cells by the name of the row."""
    lines = [line.split() for line in text.splitlines()]
    return {" ".join(line[:2]): line[2:] for line in lines[1:-1]}


def test_the_table_has_what_can_be_counted(corpus):
    table = rows(describe(corpus))
    assert list(table) == ["zh train", "zh dev", "zh test", "zh all"]
    # clips, hours, seconds, length, vocabulary (我们吃饭去), singletons (all but 我 and 去)
    assert table["zh train"] == ["3", "0.00", "1.33", "2.67", "5", "3"]
    assert table["zh dev"] == ["2", "0.00", "1.50", "3.00", "5", "4", "0.00"]
    assert table["zh test"] == ["2", "0.00", "2.00", "2.50", "5", "5", "60.00"]  # 他喝水 of five characters
    assert table["zh all"] == ["7", "0.00", "1.57", "2.71", "8", "3"]
    assert describe(corpus).endswith("texts are counted in characters (zh)")


def test_hours(tmp_path):
    clips = [(str(i), "train", "en", "a b", 1800, i) for i in range(5)]
    assert rows(describe(read_corpus([write_store(tmp_path / "s", clips)])))["en train"][1:3] == ["0.10", "72.00"]


def test_languages_stand_apart(tmp_path):
    clips = [
        ("a", "train", "zh", "水", 2, 1),
        ("b", "train", "en", "Water", 2, 2),
        ("c", "test", "en", "水 water", 2, 3),
    ]
    table = rows(describe(read_corpus([write_store(tmp_path / "s", clips)])))
    assert list(table) == ["zh train", "en train", "en test", "en all"]
    assert table["en test"][-1] == "50.00"  # 水 is known in Chinese alone


@pytest.mark.parametrize(
    "text, language, units",
    [
        ("  我们，CCTV-13。", "zh", list("我们cctv13")),
        ("It's  a well-known dog; DOG.", "en", ["it's", "a", "well-known", "dog", "dog"]),
        ("it’s", "en", ["it’s"]),
        ("...", "en", []),
    ],
)
def test_units(text, language, units):
    assert units_of(text, language) == units


def test_duplicates_across_splits(corpus):
    lines = duplicates(corpus).splitlines()
    assert lines[0] == "keypoints in more than one split: 2, 1 with one text, 1 with several"
    assert lines[1] == "  train t1 (我们 吃饭。) = dev d1 (我 们吃饭！)"
    assert lines[2] == "  dev d2 (我去) = test e1 (我去)"
    assert lines[3] == "texts in more than one split: 1 (train and dev 1, train and test 1, dev and test 1)"
    assert lines[4] == "  我去" and len(lines) == 5


def test_keypoints_of_equal_length_are_not_duplicates(tmp_path):
    clips = [("a", "train", "en", "one", 2, 1), ("b", "dev", "en", "two", 2, 2)]
    lines = duplicates(read_corpus([write_store(tmp_path / "s", clips)])).splitlines()
    assert lines == ["keypoints in more than one split: 0", "texts in more than one split: 0"]


def test_white_space_makes_no_other_text(tmp_path):
    clips = [("a", "train", "en", " one  two", 2, 1), ("b", "dev", "en", "one two", 2, 2)]
    assert "texts in more than one split: 1 (train and dev 1)" in duplicates(
        read_corpus([write_store(tmp_path / "s", clips)])
    )


@pytest.mark.parametrize("suffix", ["png", "svg"])
@pytest.mark.filterwarnings("error")  # a glyph that no font has is a warning
def test_the_figure_is_drawn(corpus, tmp_path, suffix):
    path = tmp_path / f"figure.{suffix}"
    draw(corpus, path)
    if suffix == "png":
        assert (np.asarray(Image.open(path).convert("L")) < 250).mean() > 0.02
    else:
        assert "<svg" in path.read_text()


def test_wrong_arguments(corpus, tmp_path):
    for action, problem in (
        (lambda: draw(corpus, tmp_path / "figure.txt"), "figure.txt: has none of the suffixes .png, .svg, .pdf"),
        (lambda: draw(corpus, tmp_path / "missing" / "f.png"), "f.png: cannot be written (No such file"),
        (lambda: read_corpus([tmp_path / "none"]), "is not a store"),
        (lambda: read_corpus([write_store(tmp_path / "empty", [])]), "hold no clips"),
    ):
        with pytest.raises(InputError) as caught:
            action()
        assert problem in str(caught.value)


def test_the_command(corpus, tmp_path):
    command = [sys.executable, str(ROOT / "launch" / "prepare.py"), "stats", tmp_path / "train", tmp_path / "others"]
    done = subprocess.run(
        [*map(str, command), "--figure", str(tmp_path / "f.png")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{describe(corpus)}\n{duplicates(corpus)}\nfigure: {tmp_path / 'f.png'}\n"
    assert (tmp_path / "f.png").stat().st_size > 1000
    (tmp_path / "empty").mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=tmp_path / "empty",
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.stdout == f"{describe(corpus)}\n{duplicates(corpus)}\n" and not any((tmp_path / "empty").iterdir())


@pytest.mark.parametrize(("clips", "most"), [(1, 8), (20, 11), (2000, 42)])
def test_a_small_corpus_has_few_bars(clips, most):
    from matplotlib.figure import Figure

    panel = Figure().subplots()
    rng = np.random.default_rng(0)
    _draw_distribution(panel, rng.uniform(2, 9, clips).astype(np.float32), "en", "s", "C0")
    assert len(panel.patches) <= most
    assert sum(bar.get_height() for bar in panel.patches) == clips
    assert all(tick == round(tick) for tick in panel.get_yticks())
