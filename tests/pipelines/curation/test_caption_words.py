"""Captions in three formats, rolling and overlapping ones, and hostile files."""

import json
import random

import pytest

from unisign_fast.pipelines.converters.captions import MAX_BYTES, read_captions
from unisign_fast.pipelines.curation.captions import caption_file, read_caption_words
from unisign_fast.pipelines.errors import InputError

SRT = (
    "1\n00:00:01,000 --> 00:00:02,000\nHello <i>there</i>.\n\n"
    "2\n00:00:02,000 --> 00:00:04,000\nTwo\nlines &amp; more.\n"
)
VTT = (
    "WEBVTT\nKind: captions\n\nSTYLE\n::cue { color: red }\n\nNOTE hello\n\nfirst\n"
    "00:01.000 --> 00:02.000 align:start\n"
    "Hello <c.x>there</c>.\n\nNOTE a comment\nof two lines\n\nsecond one\n00:00:02.000 --> 00:00:04.000\nTwo\n"
    "lines &amp; more.\n"
)
TTML = (
    '<?xml version="1.0" encoding="UTF-8"?><tt xmlns="http://www.w3.org/ns/ttml"><body><div>'
    '<p begin="00:00:01.000" end="2s">Hello <span>there</span>.</p><p begin="2s" dur="2s">Two<br/>lines &amp; more.</p>'
    "</div></body></tt>"
)
ROWS = [
    {"text": "Hello there.", "start": 1, "duration": 1},
    {"text": "Two\nlines & more.", "start": 2.0, "duration": 2},
]
FORMATS = {"srt": SRT, "vtt": VTT, "ttml": TTML, "json": json.dumps(ROWS)}


def words(tmp_path, text: str, suffix: str = "vtt"):
    file = tmp_path / f"news.{suffix}"
    file.write_bytes(text.encode())
    return read_caption_words(file)


def cues(*rows: tuple[float, float, str]) -> str:
    return "WEBVTT\n\n" + "\n".join(f"00:00:{a:06.3f} --> 00:00:{b:06.3f}\n{text}\n" for a, b, text in rows)


def text_of(result) -> str:
    return "".join(word.text for word in result)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_four_formats_say_the_same(tmp_path, suffix, newline):
    result = words(tmp_path, FORMATS[suffix].replace("\n", newline) if suffix != "json" else FORMATS[suffix], suffix)
    assert text_of(result) == "Hello there. Two lines & more."
    assert [(w.text, w.start, w.end) for w in result[:2]] == [("Hello", 1.0, 1.5), (" there.", 1.5, 2.0)]
    assert (result[2].start, result[-1].end, result[-1].confidence) == (2.0, 4.0, 1.0)
    assert result[4] == result[4].__class__(" &", result[4].start, result[4].start, 1.0), "a mark takes no time"


def test_chinese_characters_are_words(tmp_path):
    result = words(tmp_path, cues((1, 3, "今天AI，"), (3, 5, "下雨。")))
    assert [w.text for w in result] == ["今", "天", "AI，", "下", "雨", "。"]
    assert [w.start for w in result] == [1.0, 1.5, 2.0, 3.0, 4.0, 5.0]


def test_rolling_captions_count_once(tmp_path):
    rolled = cues(
        (1, 3, "the weather"),
        (3, 3.01, "the weather"),
        (3.01, 5, "the weather\nis fine"),
        (5, 7, "is fine\ntoday and"),
        (7, 8, "today and tomorrow"),
        (20, 21, "today and tomorrow"),
    )
    result = words(tmp_path, rolled)
    assert text_of(result) == "the weather is fine today and tomorrow today and tomorrow"
    assert [w.start for w in result if w.text == " is"] == [3.01]
    assert text_of(words(tmp_path, cues((1, 2, "天气"), (2, 3, "天气很好")))) == "天气很好"
    assert text_of(words(tmp_path, cues((1, 2, "the"), (2, 3, "then")))) == "the then", "not a longer word"


def test_overlapping_captions_do_not_interleave(tmp_path):
    result = words(tmp_path, cues((3, 4, "later"), (1, 3.5, "one two"), (1, 2, "three")))
    assert text_of(result) == "three one two later"
    assert all(a.end <= b.start for a, b in zip(result, result[1:]))


def test_sounds_and_speaker_marks_are_removed(tmp_path):
    assert text_of(words(tmp_path, cues((1, 2, "[Music] ♪ la ♪\n>> Hello (again)\n- Yes")))) == "la Hello (again) Yes"


def test_the_file_of_a_language(tmp_path):
    video = tmp_path / "news.2024.de.mp4"
    for name in ("news.2024.de.zh-Hans.srt", "news.2024.de.en.vtt", "news.2024.de.txt", "other.zh.vtt"):
        (tmp_path / name).write_text("x")
    assert caption_file(video, "zh").name == "news.2024.de.zh-Hans.srt"
    with pytest.raises(InputError, match="has captions in en, zh and none in de"):
        caption_file(video, "de")
    (tmp_path / "captions").mkdir()
    (tmp_path / "captions" / "news.2024.de.ttml").write_text("x")
    assert caption_file(video, "de").name == "news.2024.de.ttml", "the video's name says no language of captions"
    with pytest.raises(InputError, match="has no captions"):
        caption_file(tmp_path / "[a]*.mp4", "de")


@pytest.mark.parametrize(
    "rates, begin, end, expected",
    [
        ('ttp:frameRate="25"', "00:00:10:05", "00:00:12:20", (10.2, 12.8)),
        ('ttp:frameRate="25"', "12f", "50f", (0.48, 2.0)),
        ('ttp:frameRate="30" ttp:frameRateMultiplier="1000 1001"', "30f", "60f", (1.001, 2.002)),
        ('ttp:frameRate="25" ttp:subFrameRate="2"', "00:00:01:10.1", "100f", (1.42, 4.0)),
        ('ttp:tickRate="10000000"', "15000000t", "20000000t", (1.5, 2.0)),
        ('ttp:frameRate="25" ttp:subFrameRate="4"', "150t", "2.5s", (1.5, 2.5)),
        ("", "15f", "00:00:01:15", (0.5, 1.5)),
        ("", "1500ms", "0.5h", (1.5, 1800.0)),
    ],
)
def test_ttml_counts_frames_and_ticks(tmp_path, rates, begin, end, expected):
    body = f'<body><div begin="1s"><p begin="{begin}" end="{end}">Rain</p></div></body>'
    names = 'xmlns="http://www.w3.org/ns/ttml" xmlns:ttp="http://www.w3.org/ns/ttml#parameter"'
    (tmp_path / "a.ttml").write_text(f"<tt {names} {rates}>{body}</tt>")
    (caption,) = read_captions(tmp_path / "a.ttml")
    assert (caption.start - 1, caption.end - 1) == pytest.approx(expected, abs=1e-3), "within a div that begins at 1 s"


@pytest.mark.parametrize("rates", ['ttp:frameRate="x"', 'ttp:tickRate="0"', 'ttp:dropMode="dropNTSC"'])
def test_ttml_of_impossible_rates_is_refused(tmp_path, rates):
    names = 'xmlns="http://www.w3.org/ns/ttml" xmlns:ttp="http://www.w3.org/ns/ttml#parameter"'
    (tmp_path / "a.ttml").write_text(f'<tt {names} {rates}><body><div><p begin="1f" end="9f">a</p></div></body></tt>')
    with pytest.raises(InputError, match="a.ttml: (has a frame or tick rate|uses drop-frame)"):
        read_captions(tmp_path / "a.ttml")


DEEP = '<tt xmlns="http://www.w3.org/ns/ttml"><body><div><p begin="1s" end="2s">{}</p></div></body></tt>'
HOSTILE = {
    "empty": ("srt", ""),
    "no cue": ("vtt", "WEBVTT\n\nNOTE nothing\n"),
    "backwards": ("srt", SRT.replace("00:00:01", "00:09:01").replace("--> 00:00:04", "--> 00:00:01")),
    "beyond two days": ("vtt", "WEBVTT\n\n99:00:00.000 --> 99:00:01.000\nlate\n"),
    "entities": ("ttml", '<!DOCTYPE a [<!ENTITY b "c">]>' + TTML),
    "not xml": ("ttml", "<tt><p>"),
    "no times": ("ttml", DEEP.format("a").replace('end="2s"', "")),
    "frames": ("ttml", DEEP.format("a").replace("2s", "00:00:02:12:1")),
    "nested div": ("ttml", DEEP.format("a").replace("<div>", "<div><div>").replace("</div>", "</div></div>")),
    "other namespace": ("ttml", DEEP.format("a").replace("ns/ttml", "2006/10/ttaf1")),
    "deep": ("ttml", DEEP.format("<span>" * 50_000 + "</span>" * 50_000)),
    "many spans": ("ttml", DEEP.format("<span> </span>" * 200_000)),
    "long number": ("ttml", DEEP.format("a").replace("2s", "9" * 5000 + "s")),
    "long caption": ("vtt", cues((1, 2, "x" * 20_000))),
    "json list": ("json", "[1, 2]"),
    "json types": ("json", '[{"text": 3, "start": 1, "duration": 1}]'),
    "json infinity": ("json", '[{"text": "a", "start": 1, "duration": Infinity}]'),
    "json nesting": ("json", "[" * 100_000),
    "not text": ("vtt", "\udcff"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_one_error_line(tmp_path, name):
    suffix, text = HOSTILE[name]
    file = tmp_path / f"news.{suffix}"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError) as error:
        read_caption_words(file)
    assert str(file) in str(error.value) and len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "filling", ["\n", " ", "<", "< ", "<a", "\n \n", "[", "&", "00:00:01.000 --> 00:00:02.000\n", "{", "1\n", "\\N"]
)
def test_long_fillings_take_linear_time(tmp_path, filling):
    """Quadratic time would be hours here."""
    for suffix, time in (("srt", "00:00:01,000 --> 00:00:02,000"), ("vtt", "00:00:01.000 --> 00:00:02.000")):
        file = tmp_path / f"news.{suffix}"
        file.write_text(f"WEBVTT\n\n{time}\na{filling * (600_000 // len(filling))}b\n")
        try:
            read_caption_words(file)
        except InputError:
            pass


def test_large_files_are_refused_before_they_are_parsed(tmp_path):
    file = tmp_path / "news.vtt"
    with open(file, "wb") as out:
        out.truncate(MAX_BYTES + 1)
    with pytest.raises(InputError, match="is larger than"):
        read_captions(file)


@pytest.mark.parametrize("suffix", FORMATS)
def test_random_damage_is_an_input_error_or_words(tmp_path, suffix):
    rng = random.Random(suffix)
    file = tmp_path / f"news.{suffix}"
    for _ in range(150):
        content = bytearray(FORMATS[suffix].encode())
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(content))
            content[at : at + rng.randint(0, 4)] = rng.choice([b"", b"<", b"9", b"\xff", b"--> ", b"\n\n", b"&", b":"])
        file.write_bytes(content)
        try:
            result = read_caption_words(file)
        except InputError:
            continue
        assert all(w.start <= w.end for w in result) and all(a.end <= b.start for a, b in zip(result, result[1:]))
