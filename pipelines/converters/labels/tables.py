"""Tables with a header, separated by commas, semicolons or tabs -> rows."""

import csv
import io
import re
from collections.abc import Iterator, Mapping

from ...errors import InputError
from ...input_files import MAX_BYTES
from .entry import Row, split_in_name
from .label_file import LabelFile

OPTIONAL = {"gloss", "split"}  # columns
MOST_LINES = 100  # lines of one row, whose quoted cells hold line breaks


def header_of(file: LabelFile) -> tuple[str, list[str]]:
    """The separator and the names of a table's columns."""
    first = _lines(file)[0]
    separator = next((character for character in "\t;" if character in first), ",")
    return separator, [name.strip() for name in next(csv.reader([first], delimiter=separator), [])]


def has_columns(file: LabelFile, columns: Mapping[str, str]) -> bool:
    """Whether the file is a table that has all of these `columns` except optional ones."""
    if file.path.suffix.lower() not in (".csv", ".tsv"):
        return False
    return set(columns.values()) - OPTIONAL <= set(header_of(file)[1])


def table_rows(file: LabelFile, columns: Mapping[str, str]) -> Iterator[Row]:
    """The rows of a table; `columns` maps each field of a label to its column."""
    separator, header = header_of(file)
    for name in columns.values():
        if header.count(name) > 1:
            raise InputError(file.path, f"has {header.count(name)} columns {name}", "keep one of them")
    lines = _lines(file)
    number = 1  # number of lines read so far
    while number < len(lines):
        line, where = lines[number], f"{file.path}: line {number + 1}"
        if not line.strip():
            number += 1
            continue
        fields, used = _fields(lines[number : number + MOST_LINES], separator, len(header))
        number += used
        if len(fields) != len(header):
            problem = f"has {len(fields)} fields, the header {len(header)}"
            yield Row(where, InputError(where, problem, "put a text that holds the separator in double quotes"))
            continue
        row = dict(zip(header, fields))
        values = {new: row[old] for new, old in columns.items() if old in row}
        yield Row(where, {"split": split_in_name(file.path)} | values)


def _lines(file: LabelFile) -> list[str]:
    """The lines, whatever system wrote them; `splitlines` would treat some mojibake characters as line ends."""
    return file.text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _fields(lines: list[str], separator: str, wanted: int) -> tuple[list[str], int]:
    """The fields of the first row, and the number of lines it spans: a cell in double quotes may hold line breaks.

    A quote that is never closed costs one line, not the rest of the file.
    """
    csv.field_size_limit(MAX_BYTES)  # Python's default limit is 131,072 characters
    fields = next(csv.reader(lines[:1], delimiter=separator))
    if len(fields) == wanted and not _open_quote(lines[0], separator):
        return fields, 1
    for used in range(2, len(lines) + 1):
        row = "\n".join(lines[:used])
        if not _open_quote(row, separator):
            fields = next(csv.reader(io.StringIO(row, newline=""), delimiter=separator))
            if len(fields) == wanted:
                return fields, used
            break
    fields = next(csv.reader(lines[:1], delimiter=separator))
    return fields if len(fields) == wanted else lines[0].split(separator), 1


def _open_quote(text: str, separator: str) -> bool:
    """Whether the text ends inside a quoted cell."""
    outside = re.sub(rf'(?:^|(?<={re.escape(separator)}))"(?:[^"]|"")*"(?={re.escape(separator)}|\r?$)', "", text)
    return re.search(rf'(?:^|{re.escape(separator)})"', outside) is not None
