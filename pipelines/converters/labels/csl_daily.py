"""CSL-Daily as its authors annotate it: csl2020ct_v2.pkl, {info: [{name, label_gloss, label_word, ...}]}, and
split_1.txt (name|split) beside it. A clip that split_1.txt does not name has no split.
"""

from collections.abc import Iterator

from ...input_files import read_text
from .entry import Row, picked
from .label_file import LabelFile

NAME = "CSL-Daily"


def matches(file: LabelFile) -> bool:
    return isinstance(file.content, dict) and isinstance(file.content.get("info"), list)


def read_rows(file: LabelFile) -> Iterator[Row]:
    assert isinstance(file.content, dict)
    beside = file.path.with_name("split_1.txt")
    lines = read_text(beside).splitlines() if beside.exists() else []
    splits = dict(line.strip().split("|", 1) for line in lines if "|" in line)
    for i, row in enumerate(file.content["info"]):
        values = picked(row, id="name", gloss="label_gloss", words="label_word")
        if isinstance(values, dict):
            words = values.pop("words", None)
            text = "".join(map(str, words)) if isinstance(words, (list, tuple)) else words
            values |= {"split": splits.get(str(values.get("id"))), "text": text}
        yield Row(f"{file.path}: entry {i}", values)
