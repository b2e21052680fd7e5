"""A table of your own, NAME.csv or NAME.tsv: name (the video's), text and, if you like, gloss (glosses separated by
spaces) and split.
"""

from collections.abc import Iterator

from ...errors import InputError
from . import how2sign, openasl
from .entry import Row
from .label_file import LabelFile
from .tables import has_columns, header_of, table_rows

NAME = "a CSV of your own"
COLUMNS = {"id": "name", "text": "text", "gloss": "gloss", "split": "split"}


def matches(file: LabelFile) -> bool:
    return file.path.suffix.lower() in (".csv", ".tsv")


def read_rows(file: LabelFile) -> Iterator[Row]:
    if not has_columns(file, COLUMNS):
        problem = f"has columns {', '.join(filter(None, header_of(file)[1])) or '(none)'}"
        tables = (", ".join(columns.values()) for columns in (COLUMNS, how2sign.COLUMNS, openasl.COLUMNS))
        raise InputError(file.path, problem, f"give {' or '.join(tables)}")
    return table_rows(file, COLUMNS)
