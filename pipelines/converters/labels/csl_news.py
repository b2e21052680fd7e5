"""CSL-News: list of {video, pose, text}.

It is split as in the published code: the first int(0.99 n) entries train, the rest test.
"""

from collections.abc import Iterator

from .entry import Row, picked
from .label_file import LabelFile

NAME = "CSL-News"


def matches(file: LabelFile) -> bool:
    return isinstance(file.content, list)


def read_rows(file: LabelFile) -> Iterator[Row]:
    assert isinstance(file.content, list)
    train = int(0.99 * len(file.content))
    for i, row in enumerate(file.content):
        values = picked(row, video="video", pose="pose", text="text", gloss="gloss", split="split")
        if isinstance(values, dict):
            values = {"split": "train" if i < train else "test"} | values
        yield Row(f"{file.path}: entry {i}", values)
