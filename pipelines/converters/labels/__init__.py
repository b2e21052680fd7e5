"""Label files of the corpora -> `Label` entries: a file is read by the first of FORMATS that matches it.

A format is a module of this package, named in FORMATS, with
    NAME                 the name shown in messages
    matches(file)        whether the format can read this `LabelFile`
    read_rows(file)      its entries as `Row`s, unchecked: entry.py checks those of all formats
    CLASSES = True       optional: the file lists words, and --classes takes the first of them
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType

from ...errors import InputError
from .entry import Label, make_label
from .label_file import LabelFile

__all__ = ["Label", "read_labels"]
FORMATS: list[ModuleType] = [
    import_module(f".{name}", __name__)
    for name in (
        "csl_daily",
        "wlasl",
        "wlasl_subset",
        "msasl",
        "csl_news",
        "published",
        "how2sign",
        "openasl",
        "youtube_asl",
        "own_table",  # any .csv or .tsv that no other format matches
    )
]
REMEDY = f"name a label file of {', '.join(dict.fromkeys(format.NAME for format in FORMATS))}"


def read_labels(
    path: Path, split: str | None = None, classes: int | None = None, language: str | None = None
) -> tuple[list[Label], list[InputError]]:
    """The entries of a label file, in file order, and the reasons why other entries cannot be used.

    `split` puts every clip into that split; None uses the entry's split, else the one in the file's name. `classes`
    limits WLASL or MS-ASL to that many words, `language` YouTube-ASL to captions in that language. Raises InputError if
    the file cannot be read or has no valid entry.
    """
    good, bad = [], []
    file = LabelFile(path, classes, language)
    for row in _format_of(file).read_rows(file):
        try:
            good.append(make_label(row, split))
        except InputError as error:
            bad.append(error)
    if bad and not good:
        raise bad[0]
    if not good:
        raise InputError(path, "holds no clips", REMEDY)
    return good, bad


def _format_of(file: LabelFile) -> ModuleType:
    format = next((format for format in FORMATS if format.matches(file)), None)
    if format is None:
        known = file.content is not None
        problem = "holds no list or dict of clips" if known else "is neither JSON nor a pickle, gzip-compressed or not"
        raise InputError(file.path, problem, REMEDY)
    if file.classes is not None and not getattr(format, "CLASSES", False):
        problem = f"{file.path} is not a list of words"
        raise InputError("--classes", problem, "give it with WLASL_v0.3.json or MSASL_*.json")
    return format
