"""WLASL's subsets as its authors release them: nslt_100.json, _300, _1000 and _2000, dict video -> {subset, action:
[class, first, last]}. The words are taken from WLASL_v0.3.json or wlasl_class_list.txt beside the file.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...input_files import read_json, read_text
from .entry import Row, picked
from .label_file import LabelFile, has_field

NAME = "WLASL"


def matches(file: LabelFile) -> bool:
    return isinstance(file.content, dict) and has_field(file.content.values(), "subset")


def read_rows(file: LabelFile) -> Iterator[Row]:
    assert isinstance(file.content, dict)
    words = _words_beside(file.path)
    for name, row in file.content.items():
        values = picked(row, split="subset", action="action")
        if isinstance(values, dict):
            action = values.get("action")
            number = action[0] if isinstance(action, list) and action else None
            text = words[number] if isinstance(number, int) and 0 <= number < len(words) else None
            values |= {"id": name, "text": text}
        yield Row(f"{file.path}: clip {name}", values)


def _words_beside(path: Path) -> list[str]:
    """The word of every class."""
    full_list, class_list = path.with_name("WLASL_v0.3.json"), path.with_name("wlasl_class_list.txt")
    if class_list.exists():
        return [
            line.split(maxsplit=1)[1].strip() for line in read_text(class_list).splitlines() if len(line.split()) > 1
        ]
    if not full_list.exists():
        problem = "has no words, and neither WLASL_v0.3.json nor wlasl_class_list.txt is beside it"
        raise InputError(path, problem, "put one of them into its folder")
    words: Any = read_json(full_list)
    try:
        return [word["gloss"] for word in words]
    except (TypeError, KeyError):
        raise InputError(full_list, "is not WLASL's list of words", "copy the file again") from None
