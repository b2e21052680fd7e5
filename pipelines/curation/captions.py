"""A programme's text from its captions: words, with times interpolated within each caption.

Descriptions of sounds in square brackets and music notes are removed. Rolling captions, whose lines stay on the screen
while new ones appear, are merged so that every line counts once.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby, zip_longest
from pathlib import Path

from ..converters.captions import Caption, find_captions, read_captions
from ..errors import InputError
from .records import Word

MOST_CAPTIONS = 100_000  # in a programme; a day of news has about 30,000
LATEST = 48 * 3600.0  # seconds
CONTIGUOUS = 0.15  # largest gap in seconds between a rolling caption and the one before it
_NOT_SPOKEN = re.compile(r"\[[^\[\]]*\]|[♪♫#]+(?=\s|$)|(?:^|(?<=\n))\s*(?:>>+|-)")
# A word is a run of characters without spaces, or one character of a script written without spaces.
_UNSPACED = r"\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002ffff"
_WORD = re.compile(rf"\s*(?:[{_UNSPACED}]|[^\s{_UNSPACED}]+)")


def caption_file(video: Path, language: str) -> Path:
    """A programme's caption file: VIDEO.LANGUAGE.vtt, .srt, .ttml or .json, beside the video or in captions/ there.

    A file without a language in its name is used if there is no other. Raises InputError if there is none.
    """
    return find_captions(video.stem, [video.parent, video.parent / "captions"], language, video)[0]


def read_caption_words(path: Path) -> list[Word]:
    """The words of a caption file by time; no word starts before the previous one ends.

    Raises InputError if the file cannot be read, is too large or holds no text.
    """
    captions = read_captions(path)
    if len(captions) > MOST_CAPTIONS:
        raise InputError(path, f"has more than {MOST_CAPTIONS} captions", "cut programme and captions into parts")
    shown = [replace(one, text=_NOT_SPOKEN.sub(" ", one.text)) for one in captions]
    shown = [one for one in shown if one.text.strip() and 0 <= one.start < one.end <= LATEST]
    words = [word for caption in _without_overlap(_merge_rolling(shown)) for word in _words(caption)]
    if not words:
        raise InputError(path, "holds no captions with text", "download the captions again, or leave the video out")
    return [replace(words[0], text=words[0].text.lstrip()), *words[1:]]


def _merge_rolling(captions: Sequence[Caption]) -> list[Caption]:
    """The captions by start time, without the lines and parts of lines that the caption before already showed."""
    result: list[Caption] = []
    before: list[str] = []  # lines of the caption before
    end = -1.0
    for caption in sorted(captions, key=lambda one: (one.start, one.end)):
        lines = [line for raw in caption.text.split("\n") if (line := " ".join(raw.split()))]
        new = _new_lines(before, lines) if caption.start <= end + CONTIGUOUS else lines
        if new:
            result.append(replace(caption, text=" ".join(new)))
        before, end = lines, max(end, caption.end)
    return result


def _new_lines(before: Sequence[str], lines: Sequence[str]) -> list[str]:
    """The lines that follow the longest overlap of the end of `before` with the start of `lines`."""
    for shared in range(min(len(before), len(lines)), 0, -1):
        kept = lines[: shared - 1]
        last, shown = lines[shared - 1], before[-1]
        if list(before[len(before) - shared : -1]) == list(kept) and _continues(last, shown):
            rest = last[len(shown) :].strip()
            return [*([rest] if rest else []), *lines[shared:]]
    return list(lines)


def _continues(line: str, shown: str) -> bool:
    """Whether a line equals the one shown before, or extends it by more words."""
    rest = line[len(shown) :]
    return line.startswith(shown) and (not rest or rest[0] == " " or re.match(f"[{_UNSPACED}]", rest) is not None)


def _without_overlap(captions: Sequence[Caption]) -> list[Caption]:
    """The captions, each ending when the next one starts; those that start together are merged."""
    together = [list(group) for _, group in groupby(captions, key=lambda one: one.start)]
    result = []
    for group, following in zip_longest(together, together[1:]):
        end = max(one.end for one in group)
        after = following[0].start if following else end
        result.append(Caption(group[0].start, min(end, after), " ".join(one.text for one in group)))
    return result


def _words(caption: Caption) -> list[Word]:
    """A caption's words; its time is divided among them in proportion to their letters and digits."""
    texts = _WORD.findall(f" {caption.text}")
    if re.match(rf"\s*[{_UNSPACED}]", texts[0]):  # scripts without spaces need none between captions either
        texts[0] = texts[0].lstrip()
    weights = [sum(unicodedata.category(c)[0] in "LNM" for c in text) for text in texts]
    step = (caption.end - caption.start) / max(sum(weights), 1)
    words, at = [], caption.start
    for text, weight in zip(texts, weights, strict=True):
        words.append(Word(text, round(at, 3), round(at + weight * step, 3), 1.0))
        at += weight * step
    return words
