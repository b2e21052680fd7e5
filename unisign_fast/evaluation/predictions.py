"""Predictions on disk: one JSON object a line, {"id": ..., "prediction": ..., "reference": ...}.

Read as well: the published format, two files of lines `sample: ID, prediction: TEXT` and `sample: ID, ground-truth:
TEXT`. An ID may hold colons and begin with a hyphen; a TEXT may hold anything but a line feed.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from unisign_fast.pipelines.atomic_io import replace_text
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.input_files import parse_json

PUBLISHED_LABEL = {"prediction": "prediction", "reference": "ground-truth"}


@dataclass(frozen=True)
class Prediction:
    """What was said of one clip, and what should have been."""

    id: str
    prediction: str  # may be empty
    reference: str  # never empty


def read_predictions(predictions: Path, references: Path | None = None) -> list[Prediction]:
    """The rows of a predictions file, in its order; references from their own file, or from the same one.

    InputError when a file is missing or malformed, an id comes twice, a reference is empty, or the ids of the two
    files differ.
    """
    predicted = _read_field(predictions, "prediction")
    expected = _read_field(references or predictions, "reference")
    without_prediction, without_reference = expected.keys() - predicted.keys(), predicted.keys() - expected.keys()
    for where, lacking, other in (
        (predictions, without_prediction, references),
        (references, without_reference, predictions),
    ):
        if lacking:
            problem = f"lacks {len(lacking)} of the ids of {other}, such as {min(lacking)!r}"
            raise InputError(f"{where}: id", problem, "pass predictions and references of the same clips")
    return [Prediction(clip_id, text, expected[clip_id]) for clip_id, text in predicted.items()]


def read_baseline(path: Path, rows: Sequence[Prediction]) -> list[Prediction]:
    """What another system said of the clips of `rows`, in their order.

    References are those of `rows`. InputError when the file is malformed or has other clips.
    """
    said = _read_field(path, "prediction")
    if odd := said.keys() ^ {row.id for row in rows}:
        problem = f"differs in {len(odd)} clips from the predictions, such as {min(odd)!r}"
        raise InputError(f"{path}: id", problem, "compare predictions for the same clips")
    return [Prediction(row.id, said[row.id], row.reference) for row in rows]


def write_predictions(path: Path, rows: Iterable[Prediction]) -> None:
    """One JSON object a line, whole or not at all."""
    replace_text(path, "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows))


def write_json(path: Path, values: dict | list) -> None:
    """`values` as indented JSON, whole or not at all."""
    replace_text(path, json.dumps(values, ensure_ascii=False, indent=2) + "\n")


def _read_field(path: Path, field: str) -> dict[str, str]:
    """id -> text of `field`, in the file's order."""
    texts: dict[str, str] = {}
    for number, clip_id, text in _parse(path, field):
        where = f"{path}: line {number}"
        if clip_id in texts:
            raise InputError(f"{where}: id", f"{clip_id!r} comes a second time", "keep one line a clip")
        if field == "reference" and not text.strip():
            raise InputError(f"{where}: {field}", f"the text of {clip_id!r} is empty", "give it or drop the clip")
        texts[clip_id] = text
    if not texts:
        raise InputError(path, "holds no lines", "pass a file with one line a clip")
    return texts


def _parse(path: Path, field: str) -> Iterator[tuple[int, str, str]]:
    """(line number, id, text) of every line that is not blank, in either format."""
    published = re.compile(rf"sample: (.*?), {PUBLISHED_LABEL[field]}:(?: (.*))?", re.DOTALL)
    remedy = f'write {{"id": ..., "{field}": ...}} or "sample: ID, {PUBLISHED_LABEL[field]}: TEXT"'
    if field == "reference":
        remedy += ", or name the file of references with --references"
    for number, line in enumerate(_read_text(path).split("\n"), start=1):  # splitlines() would cut texts at U+0085
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        if match := published.fullmatch(line):
            yield number, match[1], match[2] or ""
            continue
        try:
            value = parse_json(line, path)
        except InputError:
            raise InputError(f"{path}: line {number}: {field}", "is not in this line", remedy) from None
        row = value if isinstance(value, dict) else {}
        for name in ("id", field):
            if not isinstance(row.get(name), str):
                raise InputError(f"{path}: line {number}: {name}", "is missing or no string", remedy)
        yield number, row["id"], row[field]


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(path, "there is no such file", "check the path") from None
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "pass a readable file") from None
    except UnicodeDecodeError as error:
        raise InputError(path, f"is not UTF-8 (byte {error.start})", "save it as UTF-8") from None
