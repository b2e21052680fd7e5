"""Labels as Uni-Sign publishes them for CSL-Daily, WLASL, How2Sign and OpenASL, pickled or as JSON:
dict name -> {name, text, gloss, video_path, split}.
"""

from collections.abc import Iterator

from .entry import Row, picked, split_in_name
from .label_file import LabelFile

NAME = "Uni-Sign"


def matches(file: LabelFile) -> bool:
    return isinstance(file.content, dict)


def read_rows(file: LabelFile) -> Iterator[Row]:
    assert isinstance(file.content, dict)
    for name, row in file.content.items():
        values = picked(row, id="name", text="text", gloss="gloss", video="video_path", pose="pose", split="split")
        if isinstance(values, dict):
            values = {"id": str(name), "split": split_in_name(file.path)} | values
        yield Row(f"{file.path}: clip {name}", values)
