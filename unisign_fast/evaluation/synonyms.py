"""Class lists for isolated recognition: which words count as one class.

Reads a text file with one class per line, synonyms separated by tabs (a first column that numbers the classes, as in
wlasl_class_list.txt, is ignored), or a JSON list of words or of lists of synonyms (MSASL_classes.json,
MSASL_synonym.json). The first word names the class. A word that is not listed is a class of its own.
"""

from pathlib import Path
from typing import Any

from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.input_files import parse_json

REMEDY = "give a text file with one class per line, synonyms after tabs, or a JSON list"


def read_class_list(path: Path) -> dict[str, str]:
    """Word -> name of its class. Raises InputError naming the line or entry that is wrong."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "check the path") from None
    except UnicodeDecodeError as error:
        raise InputError(path, f"is not UTF-8 (byte {error.start})", "save it as UTF-8") from None
    is_json = path.suffix == ".json"
    classes: dict[str, str] = {}
    for number, words in enumerate(_from_json(path, text) if is_json else _from_lines(text), start=1):
        where = f"{path}: {'entry' if is_json else 'line'} {number}"
        for word in words:
            if not word.strip():
                raise InputError(where, "has an empty word", REMEDY)
            if classes.setdefault(word, words[0]) != words[0]:
                problem = f"{word!r} is already in the class {classes[word]!r}"
                raise InputError(where, problem, "merge the two classes, or remove the word from one")
    if not classes:
        raise InputError(path, "holds no classes", REMEDY)
    return classes


def _from_lines(text: str) -> list[list[str]]:
    rows = [line.strip("\r").split("\t") for line in text.rstrip().split("\n")] if text.strip() else []
    numbers = [row[0].strip() for row in rows if len(row) > 1]
    is_numbered = any(numbers == [str(first + i) for i in range(len(rows))] for first in (0, 1))
    return [[word.strip() for word in (row[1:] if is_numbered else row)] for row in rows]


def _from_json(path: Path, text: str) -> list[list[str]]:
    content: Any = parse_json(text, path, REMEDY)
    rows = [[row] if isinstance(row, str) else row for row in content] if isinstance(content, list) else [content]
    for number, row in enumerate(rows, start=1):
        if not (isinstance(row, list) and row and all(isinstance(word, str) for word in row)):
            raise InputError(f"{path}: entry {number}", "is neither a word nor a list of words", REMEDY)
    return rows
