"""How2Sign: how2sign_realigned_train.csv, _val, _test, separated by tabs or commas; also YouTube-ASL in this form."""

from collections.abc import Iterator

from .entry import Row
from .label_file import LabelFile
from .tables import has_columns, table_rows

NAME = "How2Sign"
COLUMNS = {
    "id": "SENTENCE_NAME",
    "text": "SENTENCE",
    "recording": "VIDEO_NAME",
    "start": "START_REALIGNED",
    "end": "END_REALIGNED",
}


def matches(file: LabelFile) -> bool:
    return has_columns(file, COLUMNS)


def read_rows(file: LabelFile) -> Iterator[Row]:
    return table_rows(file, COLUMNS)
