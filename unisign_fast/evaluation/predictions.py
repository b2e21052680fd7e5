"""Predictions on disk, one JSON object per line: {"id": ..., "prediction": ..., "reference": ...}.

Three more formats are read:

- lines of launch/translate.py, {"clip": ..., "text": ..., "reference": ..., "language": ...}; the texts of a clip's
  windows are joined;
- the published format, two files with lines `sample: ID, prediction: TEXT` and `sample: ID, ground-truth: TEXT`; an ID
  may contain colons and start with a hyphen, a TEXT may contain anything but a line feed;
- plain text as sacrebleu reads it, two files in which lines of the same number belong together.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from unisign_fast.evaluation.score_file import read_scores
from unisign_fast.pipelines.atomic_io import replace_text
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.input_files import parse_json

Field = Literal["prediction", "reference"]
PUBLISHED_LABEL = {"prediction": "prediction", "reference": "ground-truth"}
TRANSLATED = {"prediction": "text", "reference": "reference"}  # fields of launch/translate.py's lines
MARKED = ("{", "[", "sample: ")  # start of a line that is not plain text


@dataclass(frozen=True)
class Prediction:
    """The predicted text of one clip, and its reference."""

    id: str
    prediction: str  # may be empty
    reference: str  # never empty


class Line(NamedTuple):
    """The content of one line of a file."""

    id: str
    text: str  # of the requested field
    language: str = ""  # "" if the line has none
    file: str = ""  # the input named in a line of launch/translate.py, where a clip has a line for each window


def read_predictions(predictions: Path, references: Path | None = None) -> list[Prediction]:
    """The rows of a predictions file, in its order, with references from their own file or from the same one.

    Raises InputError if a file is missing or malformed, an id occurs twice, a reference is empty, or the ids of the two
    files differ.
    """
    if references is None and _is_plain(predictions, _read_text(predictions)):
        raise InputError(predictions, "is plain text without references", "name their file with --references")
    predicted = _read_field(predictions, "prediction")
    expected = _read_field(references or predictions, "reference")
    without_prediction, without_reference = expected.keys() - predicted.keys(), predicted.keys() - expected.keys()
    for where, missing, other in (
        (predictions, without_prediction, references),
        (references, without_reference, predictions),
    ):
        if missing:
            problem = f"lacks {len(missing)} of the ids of {other}, such as {min(missing)!r}"
            raise InputError(f"{where}: id", problem, "pass predictions and references of the same clips")
    return [Prediction(clip_id, line.text, expected[clip_id].text) for clip_id, line in predicted.items()]


def read_baseline(path: Path, rows: Sequence[Prediction]) -> list[Prediction]:
    """Another system's predictions for the clips of `rows`, in the same order.

    References are those of `rows`. Raises InputError if the file is malformed or has other clips.
    """
    lines = _read_field(path, "prediction")
    if unmatched := lines.keys() ^ {row.id for row in rows}:
        problem = f"differs in {len(unmatched)} clips from the predictions, such as {min(unmatched)!r}"
        raise InputError(f"{path}: id", problem, "compare predictions for the same clips")
    return [Prediction(row.id, lines[row.id].text, row.reference) for row in rows]


def recorded_language(path: Path) -> str | None:
    """The language named in the lines of a predictions file or in the scores-SPLIT.json beside it, None if in neither.
    Raises InputError if the texts are in several languages.
    """
    named = {line.language for line in _read_field(path, "prediction").values() if line.language}
    if len(named) > 1:
        problem = f"its texts are in {', '.join(sorted(named))}"
        raise InputError(f"{path}: language", problem, "score one file per language, or give --language for all")
    if named:
        return named.pop()
    scores = path.with_name(path.stem.replace("predictions-", "scores-") + ".json")
    if path.name.startswith("predictions-") and scores.is_file():
        return read_scores(scores).language or None
    return None


def write_predictions(path: Path, rows: Iterable[Prediction]) -> None:
    """Writes one JSON object per line, atomically."""
    replace_text(path, "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows))


def write_json(path: Path, values: dict | list) -> None:
    """Writes `values` as indented JSON, atomically."""
    replace_text(path, json.dumps(values, ensure_ascii=False, indent=2) + "\n")


def _read_field(path: Path, field: Field) -> dict[str, Line]:
    """id -> line with the text of `field`, in the file's order."""
    lines: dict[str, Line] = {}
    for number, line in _parse(path, field):
        where, before = f"{path}: line {number}", lines.get(line.id)
        if field == "reference" and not line.text.strip():
            remedy = "give it, drop the clip, or name a file of references with --references"
            raise InputError(f"{where}: {field}", f"the text of {line.id!r} is empty", remedy)
        if before is None:
            lines[line.id] = line
        elif not line.file or line.file != before.file:
            raise InputError(f"{where}: id", f"{line.id!r} occurs twice", "keep one line per clip")
        elif field == "prediction":  # the clip's next window
            lines[line.id] = before._replace(text=f"{before.text} {line.text}".strip())
    if not lines:
        raise InputError(path, "holds no lines", "pass a file with one line per clip")
    return lines


def _parse(path: Path, field: Field) -> Iterator[tuple[int, Line]]:
    """The lines and their numbers, in any format; blank lines count in plain text only."""
    content = _read_text(path)
    rows = content.split("\n")  # splitlines() would cut texts at U+0085
    if _is_plain(path, content):
        for number, row in enumerate(rows if rows[-1] else rows[:-1], start=1):
            yield number, Line(f"line {number}", row.removesuffix("\r"))
        return
    published = re.compile(rf"sample: (.*?), {PUBLISHED_LABEL[field]}:(?: (.*))?", re.DOTALL)
    for number, row in enumerate(rows, start=1):
        row = row.removesuffix("\r")
        if match := published.fullmatch(row):
            yield number, Line(match[1], match[2] or "")
        elif row.strip():
            yield number, _parse_json_line(row, path, number, field)


def _parse_json_line(row: str, path: Path, number: int, field: Field) -> Line:
    remedy = f'write {{"id": ..., "{field}": ...}} or "sample: ID, {PUBLISHED_LABEL[field]}: TEXT"'
    if field == "reference":
        remedy += ", or name the file of references with --references"
    try:
        value = parse_json(row, path)
    except InputError:
        raise InputError(f"{path}: line {number}: {field}", "is missing from this line", remedy) from None
    values = value if isinstance(value, dict) else {}
    translated = "id" not in values and "clip" in values
    id_name, text_name = ("clip", TRANSLATED[field]) if translated else ("id", field)
    for name in (id_name, text_name):
        if not isinstance(values.get(name), str):
            raise InputError(f"{path}: line {number}: {name}", "is missing or not a string", remedy)
    file = str(values.get("file", "")) if translated else ""
    return Line(values[id_name], values[text_name], str(values.get("language") or ""), file)


def _is_plain(path: Path, content: str) -> bool:
    """Whether the lines are texts without ids."""
    return bool(content) and path.suffix not in (".json", ".jsonl") and not content.lstrip().startswith(MARKED)


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(path, "there is no such file", "check the path") from None
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "pass a readable file") from None
    except UnicodeDecodeError as error:
        raise InputError(path, f"is not UTF-8 (byte {error.start})", "save it as UTF-8") from None
