"""MS-ASL as its authors release it: MSASL_train.json, _val, _test, list of {url, label, text, start_time, end_time,
start, end, ...}, and MSASL_classes.json beside it.

MS-ASL100, 200, 500 and 1000 are the entries whose label is below that number. The clips have no names and are called
YOUTUBE-ID_START_END (frames).
"""

import re
from collections.abc import Iterator
from pathlib import Path

from ...errors import InputError
from ...input_files import read_json
from .entry import Row, picked, split_in_name
from .label_file import LabelFile, has_field

NAME = "MS-ASL"
CLASSES = True


def matches(file: LabelFile) -> bool:
    return isinstance(file.content, list) and has_field(file.content, "label")


def read_rows(file: LabelFile) -> Iterator[Row]:
    assert isinstance(file.content, list)
    words = _words(file.path.with_name("MSASL_classes.json"))
    for i, row in enumerate(file.content):
        where = f"{file.path}: entry {i}"
        label = row.get("label") if isinstance(row, dict) else None
        if not isinstance(label, int):
            yield Row(where, InputError(f"{where}: label", f"is {label!r}", "give the number of the class"))
        elif file.classes is None or label < file.classes:
            yield Row(where, _values(row, words) | {"split": split_in_name(file.path)})


def _values(row: dict, words: list[str]) -> dict:
    video = re.search(r"(?:v=|youtu\.be/|embed/)([\w-]{11})", str(row.get("url")))
    name = video[1] if video else None
    values = picked(row, start="start_time", end="end_time", text="text")
    assert isinstance(values, dict)
    values |= {"id": f"{name}_{row.get('start')}_{row.get('end')}" if name else "", "recording": name or ""}
    return values | ({"text": words[row["label"]]} if 0 <= row["label"] < len(words) else {})


def _words(path: Path) -> list[str]:
    """The word of every class; [] if there is no such file; the word is then each entry's text."""
    words = read_json(path, "copy the file again, or delete it") if path.exists() else []
    if not isinstance(words, list):
        raise InputError(path, "is not a list of words", "copy the file again, or delete it")
    return words
