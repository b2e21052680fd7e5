"""sources.toml: its content, and its errors."""

from datetime import date

import pytest
from programmes import write_sources

from unisign_fast.pipelines.curation.sources import Checksums, Splits, read_sources, scan
from unisign_fast.pipelines.errors import InputError


@pytest.mark.parametrize(
    "field, value, said",
    [
        ("box", "[0.5, 0, 0.4, 1]", "series news: box"),
        ("box", "[0, 1]", "box"),
        ("language", '"xx"', "series news: language"),
        ("licence", '" "', "series news: licence"),
        ("consent", '""', "series news: consent"),
        ("lag", "100", "series news: lag"),
        ("name", '"a b"', "name"),
        ("colour", '"red"', "series 1: colour"),
        ("files", '"nothing/*.mp4"', "names no video"),
        ("lag", "[", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, field, value, said):
    path = write_sources(tmp_path / "sources.toml", **{field: value})
    with pytest.raises(InputError, match=said):
        scan(path, read_sources(path), Checksums(tmp_path / "checksums.json"))


def test_files_are_dated_by_their_names_and_count_once(tmp_path):
    (tmp_path / "news").mkdir()
    for name, content in {
        "b-20260503.mp4": "b",
        "a-2026-05-02.mp4": "a",
        "copy-2026-05-09.mp4": "a",
        "x.mp4": "x",
        "._x.mp4": "y",
        "number-20269999.mp4": "n",
    }.items():
        (tmp_path / "news" / name).write_text(content)
    path = write_sources(tmp_path / "sources.toml", dates='{"x.mp4" = 2026-06-01}')
    checksums = Checksums(tmp_path / "checksums.json")
    programmes = scan(path, read_sources(path), checksums)
    assert [(one.path.name, one.day) for one in programmes] == [
        ("number-20269999.mp4", None),
        ("a-2026-05-02.mp4", date(2026, 5, 2)),
        ("b-20260503.mp4", date(2026, 5, 3)),
        ("x.mp4", date(2026, 6, 1)),
    ]
    splits = Splits(date(2026, 5, 3), date(2026, 6, 1))
    assert [splits.split(one.day) for one in programmes] == ["train", "train", "dev", "test"]


def test_checksums_are_computed_once_for_a_size_and_time(tmp_path):
    file, cache = tmp_path / "a", tmp_path / "checksums.json"
    file.write_text("one")
    first = Checksums(cache)
    before = first.of(file)
    first.save(forget=lambda content: False)
    cache.write_text(cache.read_text().replace(before, "0" * 64))
    assert Checksums(cache).of(file) == "0" * 64  # not read again
    file.write_text("other")
    second = Checksums(cache)
    assert second.of(file) not in (before, "0" * 64)
    second.save(forget=lambda content: True)
    assert str(file) not in cache.read_text()
