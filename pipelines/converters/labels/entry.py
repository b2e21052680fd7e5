"""The label that every reader returns, and the single place where labels are checked and their text is cleaned."""

import math
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import ftfy

from ...crops.video import VIDEO_SUFFIXES
from ...errors import InputError
from ...store.clip import SPLITS

_SPLIT_NAMES = {"train": "train", "dev": "dev", "val": "dev", "valid": "dev", "validation": "dev", "test": "test"}
_BLANK = "\u115f\u1160\u3164\uffa0\ufffd"  # Hangul fillers, and what decoders put for bytes that they cannot read
LONGEST_NAME = 240  # bytes, of the 255 that file systems allow
LONGEST_TEXT = 2**20  # characters
_SUFFIXES = (".pkl", ".json", ".npz", ".npy", ".pose", *VIDEO_SUFFIXES)


@dataclass(frozen=True)
class Label:
    """One clip of a label file.

    `pose` and `video` are names relative to their folders, without the files' suffix. A clip published as part of a
    long recording also has the recording's name and its own `start` and `end` in it, in seconds.
    """

    id: str
    split: str
    text: str
    gloss: str  # glosses joined by single spaces, "" if there are none
    pose: str
    video: str
    recording: str = ""
    start: float = 0.0
    end: float = 0.0


@dataclass(frozen=True)
class Row:
    """What a reader returns: unchecked `values` by the field names of Label, and the place in the file for messages. If
    an entry cannot be read at all, `values` is the InputError that explains why.
    """

    where: str
    values: object


def picked(row: object, **names: str) -> object:
    """The values of a dict under new names; anything other than a dict is returned as it is, for `make_label` to
    reject."""
    return {new: row[old] for new, old in names.items() if old in row} if isinstance(row, dict) else row


def make_label(row: Row, split: str | None) -> Label:
    """The label of a row, in `split`, or (None) in the split that the row gives. Raises InputError naming the entry and
    field."""
    where, values = row.where, row.values
    if isinstance(values, InputError):
        raise values
    if not isinstance(values, dict):
        raise InputError(
            where, f"is a {type(values).__name__}", "give a dict with text and the names of video and pose"
        )
    split = split or values.get("split")
    known_split = _SPLIT_NAMES.get(split.strip().lower()) if isinstance(split, str) else None
    if known_split is None:
        problem = f"is {split!r}" if split else "is missing"
        raise InputError(f"{where}: split", problem, f"say --split, one of {', '.join(SPLITS)}")
    name = values.get("id")
    if name is None:  # CSL-News: the clip is named after its video
        name = without_suffix(_name(values, "video", where))
    elif not isinstance(name, str) or not name:
        raise InputError(f"{where}: name", f"is {name!r}", "give the clip a name")
    recording = _name(values, "recording", where) if values.get("recording") else ""
    video = without_suffix(_name(values, "video", where, default=name))
    pose = without_suffix(_name(values, "pose", where, default=video))
    text = values.get("text")
    if not isinstance(text, str):
        raise InputError(f"{where}: text", "is missing" if text is None else f"is {text!r}", "give a text")
    if len(text) > LONGEST_TEXT:
        raise InputError(f"{where}: text", f"has {len(text)} characters", "give the text of one clip")
    if not any(map(_is_visible, text)):
        raise InputError(f"{where}: text", "is empty", "label the clip or leave it out")
    gloss = values.get("gloss", "")
    if isinstance(gloss, (list, tuple)) and all(isinstance(item, str | int) for item in gloss):
        gloss = " ".join(map(str, gloss))
    elif not isinstance(gloss, str):
        raise InputError(f"{where}: gloss", f"is {gloss!r}", "give a list of glosses")
    start, end = (_seconds(values.get(x, 0), f"{where}: {x}") for x in ("start", "end"))
    if recording and not 0 <= start < end:
        raise InputError(
            f"{where}: start, end", f"{start} to {end} s is not a range", "correct the times or leave it out"
        )
    return Label(name, known_split, clean_text(text), clean_text(gloss), pose, video, recording, start, end)


def clean_text(text: str) -> str:
    """The text with mojibake repaired (UTF-8 that was read as latin-1 or cp1252) and single spaces.

    Drops control characters and byte order marks; joiners of letters and emoji stay.
    """
    words = ftfy.fix_encoding(text).split()
    return " ".join("".join(c for c in word if unicodedata.category(c) != "Cc" and c != "\ufeff") for word in words)


def _is_visible(character: str) -> bool:
    """Whether a text of this character alone says something: no mark, space, control or replacement character."""
    return unicodedata.category(character)[0] not in "MZC" and character not in _BLANK


def without_suffix(name: str) -> str:
    """The name without a pose's or video's suffix; other dots belong to the name (OpenASL's end in fractions)."""
    return next((name[: -len(suffix)] for suffix in _SUFFIXES if name.lower().endswith(suffix)), name)


def split_in_name(path: Path) -> str | None:
    """The split in a label file's name, if there is one: labels.dev, how2sign_realigned_val.csv, MSASL_train.json."""
    words = [word for word in re.split(r"[^a-z]+", path.name.lower()) if word in _SPLIT_NAMES]
    return words[0] if len(set(words)) == 1 else None


def _name(values: dict, field: str, where: str, default: str | None = None) -> str:
    value = values.get(field, default)
    if not isinstance(value, str):
        raise InputError(f"{where}: {field}", "is missing" if value is None else f"is {value!r}", "give a text")
    path = PurePosixPath(value)
    if not path.name or path.is_absolute() or ".." in path.parts or "\0" in value:
        raise InputError(f"{where}: {field}", f"is {value!r}", "name the clip's file, below its folder")
    if any(len(part.encode()) > LONGEST_NAME for part in path.parts):
        raise InputError(f"{where}: {field}", f"has a name of more than {LONGEST_NAME} bytes", "shorten it")
    return value


def _seconds(value: Any, where: str) -> float:
    """Seconds from a number, or from [[hours:]minutes:]seconds with a point or comma."""
    try:
        if isinstance(value, str):
            parts = [float(x) for x in reversed(value.replace(",", ".").split(":"))]
            if len(parts) > 3 or (len(parts) > 1 and min(parts) < 0):  # a fourth part counts frames, whose rate varies
                raise ValueError
            value = sum(x * 60**i for i, x in enumerate(parts))
        seconds = float(value)
        if not math.isfinite(seconds):
            raise ValueError
        return seconds
    except (TypeError, ValueError, OverflowError):
        raise InputError(where, f"is {value!r}", "give seconds, or hours:minutes:seconds") from None
