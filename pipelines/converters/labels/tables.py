"""Readers of labels in tables, and of captions: your own, How2Sign, OpenASL, YouTube-ASL -> rows.

Your own      NAME.csv or NAME.tsv, separated by commas, semicolons or tabs: name (the video's), text and, if
              you like, gloss (glosses separated by spaces) and split
How2Sign      how2sign_realigned_train.csv, _val, _test, separated by tabs or commas: VIDEO_NAME, SENTENCE_NAME,
              START_REALIGNED, END_REALIGNED, SENTENCE; also YouTube-ASL in this form
OpenASL       openasl-v1.0.tsv: vid, yid, start, end, raw-text, tokenized-text, gloss, split
YouTube-ASL   youtube_asl_video_ids.txt, one a line, and captions in its folder or captions/ in there, as
              downloaded: ID*.vtt or ID*.srt, or ID*.json as youtube-transcript-api has it, [{text, start, duration}].
              Clips are called ID-000, ID-001, ...
"""

import csv
import html
import re
from collections.abc import Iterator
from pathlib import Path

from ...errors import InputError
from ...input_files import read_json, read_text
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
_CUE = re.compile(r"((?:\d+:)?\d+:\d+[.,]\d+)\s+-->\s+((?:\d+:)?\d+:\d+[.,]\d+).*")


def read_table(path: Path) -> Iterator[Row]:
    """A table of your own, How2Sign's or OpenASL's, told apart by their columns."""
    lines = read_text(path).split("\n")  # not splitlines, which takes some letters of mojibake for ends of lines
    separator = next((character for character in "\t;" if character in lines[0]), ",")
    header = [name.strip() for name in next(csv.reader([lines[0]], delimiter=separator), [])]
    columns = next((columns for name, columns in _COLUMNS.items() if name in header), {})
    if not columns or not set(columns.values()) - _OPTIONAL <= set(header):
        problem = f"has columns {', '.join(filter(None, header)) or '(none)'}"
        raise InputError(path, problem, f"give {' or '.join(', '.join(c.values()) for c in _COLUMNS.values())}")
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        # Line by line, so that a quote that is never closed costs one line and not the rest of the file.
        fields = next(csv.reader([line], delimiter=separator))
        if len(fields) != len(header):
            fields = line.split(separator)
        where = f"{path}: line {number}"
        if len(fields) != len(header):
            problem = f"has {len(fields)} fields, the header {len(header)}"
            yield Row(where, InputError(where, problem, "put a text that holds the separator in double quotes"))
            continue
        row = dict(zip(header, fields))
        values = {new: row[old] for new, old in columns.items() if old in row}
        yield Row(where, {"split": split_in_name(path)} | values)


def read_video_ids(path: Path) -> Iterator[Row]:
    """YouTube-ASL's list; every caption is a clip, a video without captions is one bad entry."""
    folders = [path.parent, path.parent / "captions"]
    for number, video in enumerate(read_text(path).split(), 1):
        files = [file for folder in folders for file in sorted(folder.glob(f"{video}*")) if _is_caption(file, video)]
        where = f"{path}: line {number}: {video}"
        if not files:
            problem = f"has no captions {video}*.vtt, .srt or .json in {path.parent}"
            yield Row(where, InputError(where, problem, "download them, or leave the video out"))
            continue
        try:
            captions = _captions(files[0])
        except InputError as error:
            yield Row(where, error)
            continue
        for i, (start, end, text) in enumerate(captions):
            values = {"id": f"{video}-{i:03}", "text": text, "recording": video, "start": start, "end": end}
            yield Row(f"{files[0]}: caption {i}", values | {"split": split_in_name(path)})


def _is_caption(file: Path, video: str) -> bool:
    return file.suffix in (".vtt", ".srt", ".json") and file.name.split(".")[0] == video


def _captions(path: Path) -> list[tuple[object, object, object]]:
    """(start, end, text) of each caption."""
    if path.suffix != ".json":
        text = read_text(path)
        cues = re.split(r"\n\s*\n", text.replace("\r\n", "\n"))
        result = [(match, cue) for cue in cues if (match := _CUE.search(cue))]
        return [
            (match[1], match[2], html.unescape(re.sub(r"<[^>]*>", "", cue[match.end() :]))) for match, cue in result
        ]
    rows = read_json(path, "download the captions again")
    try:
        return [(row["start"], row["start"] + row["duration"], row["text"]) for row in rows]
    except (TypeError, KeyError):
        raise InputError(path, "holds no list of text, start and duration", "download the captions again") from None
