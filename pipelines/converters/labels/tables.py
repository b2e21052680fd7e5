"""Readers of labels in tables, and of captions: your own, How2Sign, OpenASL, YouTube-ASL -> rows.

Your own      NAME.csv or NAME.tsv, separated by commas, semicolons or tabs: name (the video's), text and, if
              you like, gloss (glosses separated by spaces) and split
How2Sign      how2sign_realigned_train.csv, _val, _test, separated by tabs or commas: VIDEO_NAME, SENTENCE_NAME,
              START_REALIGNED, END_REALIGNED, SENTENCE; also YouTube-ASL in this form
OpenASL       openasl-v1.0.tsv: vid, yid, start, end, raw-text, tokenized-text, gloss, split
YouTube-ASL   youtube_asl_video_ids.txt, one a line, and captions in its folder or captions/ in there, as
              downloaded: ID.vtt or ID.LANGUAGE.vtt, also .srt and .ttml, or .json as youtube-transcript-api has it.
              Clips are called ID-000, ID-001, ...
"""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from ...errors import InputError
from ...input_files import MAX_BYTES, read_text
from ..captions import Caption, find_captions, read_captions
from .entry import Row, split_in_name

_COLUMNS = {
    "name": {"id": "name", "text": "text", "gloss": "gloss", "split": "split"},
    "SENTENCE_NAME": {
        "id": "SENTENCE_NAME",
        "text": "SENTENCE",
        "recording": "VIDEO_NAME",
        "start": "START_REALIGNED",
        "end": "END_REALIGNED",
    },
    "vid": {"id": "vid", "text": "raw-text", "recording": "yid", "start": "start", "end": "end", "split": "split"},
}
_OPTIONAL = {"gloss", "split"}
MOST_LINES = 100  # of one row, whose cells in quotes hold line breaks


def read_table(path: Path) -> Iterator[Row]:
    """A table of your own, How2Sign's or OpenASL's, told apart by their columns."""
    lines = read_text(path).split("\n")  # not splitlines, which takes some letters of mojibake for ends of lines
    separator = next((character for character in "\t;" if character in lines[0]), ",")
    header = [name.strip() for name in next(csv.reader([lines[0]], delimiter=separator), [])]
    columns = next((columns for name, columns in _COLUMNS.items() if name in header), {})
    if not columns or not set(columns.values()) - _OPTIONAL <= set(header):
        problem = f"has columns {', '.join(filter(None, header)) or '(none)'}"
        raise InputError(path, problem, f"give {' or '.join(', '.join(c.values()) for c in _COLUMNS.values())}")
    number = 1  # of lines that were read
    while number < len(lines):
        line, where = lines[number], f"{path}: line {number + 1}"
        if not line.strip():
            number += 1
            continue
        fields, used = _fields(lines[number : number + MOST_LINES], separator, len(header))
        number += used
        if len(fields) != len(header):
            problem = f"has {len(fields)} fields, the header {len(header)}"
            yield Row(where, InputError(where, problem, "put a text that holds the separator in double quotes"))
            continue
        row = dict(zip(header, fields))
        values = {new: row[old] for new, old in columns.items() if old in row}
        yield Row(where, {"split": split_in_name(path)} | values)


def _fields(lines: list[str], separator: str, wanted: int) -> tuple[list[str], int]:
    """The fields of the first line, and of how many lines: a cell in double quotes may hold line breaks.

    A quote that is never closed costs one line, not the rest of the file.
    """
    csv.field_size_limit(MAX_BYTES)  # Python's own is 131,072 characters
    fields = next(csv.reader(lines[:1], delimiter=separator))
    if len(fields) == wanted and not _open_quote(lines[0], separator):
        return fields, 1
    for used in range(2, len(lines) + 1):
        whole = "\n".join(lines[:used])
        if not _open_quote(whole, separator):
            fields = next(csv.reader(io.StringIO(whole, newline=""), delimiter=separator))
            if len(fields) == wanted:
                return fields, used
            break
    fields = next(csv.reader(lines[:1], delimiter=separator))
    return fields if len(fields) == wanted else lines[0].split(separator), 1


def _open_quote(text: str, separator: str) -> bool:
    """Whether the text ends inside a cell that begins with a double quote."""
    outside = re.sub(rf'(?:^|(?<={re.escape(separator)}))"(?:[^"]|"")*"(?={re.escape(separator)}|\r?$)', "", text)
    return re.search(rf'(?:^|{re.escape(separator)})"', outside) is not None


def read_video_ids(path: Path, language: str | None = None) -> Iterator[Row]:
    """YouTube-ASL's list; every caption is a clip, a video without captions is one bad entry.

    Of captions in several languages those in `language` are taken. Files beside them that are no captions are passed
    over.
    """
    folders = [path.parent, path.parent / "captions"]
    for number, video in enumerate(read_text(path).split(), 1):
        where = f"{path}: line {number}: {video}"
        try:
            file, captions = _captions_of(video, folders, language, where)
        except InputError as error:
            yield Row(where, error)
            continue
        for i, caption in enumerate(captions):
            times = {"start": caption.start, "end": caption.end}
            values = {"id": f"{video}-{i:03}", "text": caption.text, "recording": video, **times}
            yield Row(f"{file}: caption {i}", values | {"split": split_in_name(path)})


def _captions_of(video: str, folders: list[Path], language: str | None, where: str) -> tuple[Path, list[Caption]]:
    """The file of a video's captions in a language, and its captions. Raises InputError if there is none."""
    if not re.fullmatch(r"[\w-]+", video):
        raise InputError(where, "is no name of a YouTube video", "give one name a line")
    errors = []
    for file in find_captions(video, folders, language, where):
        try:
            return file, read_captions(file)
        except InputError as error:
            errors.append(error)
    raise errors[0]
