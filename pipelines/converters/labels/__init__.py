"""Label files of the corpora -> `Label` entries: which reader a file is for is seen in the file itself."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ...errors import InputError
from ...input_files import parse_json, read_bytes
from ..safe_pickle import load_pickle
from .entry import Label, Row, make_label
from .json_and_pickle import (
    read_csl_daily,
    read_csl_news,
    read_msasl,
    read_nslt,
    read_published,
    read_wlasl,
)
from .tables import read_table, read_video_ids

__all__ = ["Label", "read_labels"]
REMEDY = (
    "name a label file of CSL-News, CSL-Daily, WLASL, MS-ASL, How2Sign, OpenASL or YouTube-ASL, or a CSV of your own"
)


def read_labels(
    path: Path, split: str | None = None, classes: int | None = None, language: str | None = None
) -> tuple[list[Label], list[InputError]]:
    """The entries of a label file in its order, and why others of it cannot be used.

    `split` puts every clip into that split; None follows the entry, else the file's name. `classes` takes the first so
    many words of WLASL or MS-ASL, `language` the captions of YouTube-ASL in that language. Raises InputError if the
    file cannot be read or has no good entry.
    """
    good, bad = [], []
    for row in _rows(path, classes, language):
        try:
            good.append(make_label(row, split))
        except InputError as error:
            bad.append(error)
    if bad and not good:
        raise bad[0]
    if not good:
        raise InputError(path, "holds no clips", REMEDY)
    return good, bad


def _rows(path: Path, classes: int | None, language: str | None) -> Iterable[Row]:
    if path.suffix in (".csv", ".tsv", ".txt"):
        content = None
    else:
        content = _content(path)
    words = isinstance(content, list) and _has(content, "instances", "label")
    if classes is not None and not words:
        raise InputError("--classes", f"{path} is not a list of words", "give it with WLASL_v0.3.json or MSASL_*.json")
    if content is None:
        return read_video_ids(path, language) if path.suffix == ".txt" else read_table(path)
    if isinstance(content, list):
        if _has(content, "instances"):
            return read_wlasl(path, content, classes)
        return read_msasl(path, content, classes) if words else read_csl_news(path, content)
    if isinstance(content, dict):
        if isinstance(content.get("info"), list):
            return read_csl_daily(path, content)
        return read_nslt(path, content) if _has(content.values(), "subset") else read_published(path, content)
    raise InputError(path, "holds no list or dict of clips", REMEDY)


def _has(rows: Iterable[object], *names: str) -> bool:
    """Whether any row is a dict with one of the names."""
    return any(isinstance(row, dict) and any(name in row for name in names) for row in rows)


def _content(path: Path) -> object:
    content = read_bytes(path, remedy="name the label file")
    if content[:1] == b"\x80":
        return load_pickle(path)
    if content[:2] == b"\x1f\x8b":
        return load_pickle(path, compressed=True)
    if content.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{"):
        return parse_json(content, path)
    for read in (
        lambda: parse_json(content, path),
        lambda: load_pickle(path),
    ):  # pickles before protocol 2 have no mark
        with suppress(InputError):
            return read()
    raise InputError(path, "is neither JSON nor a pickle, gzip-compressed or not", REMEDY)
