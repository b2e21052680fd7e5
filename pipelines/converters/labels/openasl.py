"""OpenASL: openasl-v1.0.tsv, whose columns are vid, yid, start, end, raw-text, tokenized-text, gloss, split."""

from collections.abc import Iterator

from .entry import Row
from .label_file import LabelFile
from .tables import has_columns, table_rows

NAME = "OpenASL"
COLUMNS = {"id": "vid", "text": "raw-text", "recording": "yid", "start": "start", "end": "end", "split": "split"}


def matches(file: LabelFile) -> bool:
    return has_columns(file, COLUMNS)


def read_rows(file: LabelFile) -> Iterator[Row]:
    return table_rows(file, COLUMNS)
