"""WLASL as its authors release it: WLASL_v0.3.json, list of {gloss, instances: [{video_id, split, ...}]}.

WLASL-100, -300, -1000 and -2000 are its first words.
"""

from collections.abc import Iterator

from ...errors import InputError
from .entry import Row, picked
from .label_file import LabelFile, has_field

NAME = "WLASL"
CLASSES = True


def matches(file: LabelFile) -> bool:
    return isinstance(file.content, list) and has_field(file.content, "instances")


def read_rows(file: LabelFile) -> Iterator[Row]:
    assert isinstance(file.content, list)
    for number, word in enumerate(file.content[: file.classes]):
        instances = word.get("instances") if isinstance(word, dict) else None
        if not isinstance(instances, list):
            where = f"{file.path}: entry {number}"
            yield Row(where, InputError(where, "is not a word with instances", "copy the file again"))
            continue
        for row in instances:
            values = picked(row, id="video_id", split="split")
            if isinstance(values, dict):
                values |= {"text": word.get("gloss")}
            yield Row(f"{file.path}: entry {number}", values)
