"""Readers of labels in JSON and pickles: content of a file -> rows.

published     dict name -> {name, text, gloss, video_path, split}: CSL-Daily, WLASL, How2Sign, OpenASL of Uni-Sign
CSL-News      list of {video, pose, text}
CSL-Daily     csl2020ct_v2.pkl, {info: [{name, label_gloss, label_word, ...}]}, and split_1.txt (name|split) beside it
WLASL         WLASL_v0.3.json, list of {gloss, instances: [{video_id, split, ...}]}; nslt_100.json, _300, _1000 and
              _2000, dict video -> {subset, action: [class, first, last]}, take the words from WLASL_v0.3.json or
              wlasl_class_list.txt beside them
MS-ASL        MSASL_train.json, _val, _test, list of {url, label, text, start_time, end_time, start, end, ...}, and
              MSASL_classes.json beside it; its clips have no names: they are called YOUTUBE-ID_START_END (frames)
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...input_files import read_json, read_text
from .entry import Row, picked, split_in_name


def read_published(path: Path, content: dict) -> Iterator[Row]:
    """The published dict, pickled or as JSON."""
    for name, row in content.items():
        values = picked(row, id="name", text="text", gloss="gloss", video="video_path", pose="pose", split="split")
        if isinstance(values, dict):
            values = {"id": str(name), "split": split_in_name(path)} | values
        yield Row(f"{path}: clip {name}", values)


def read_csl_news(path: Path, content: list) -> Iterator[Row]:
    """CSL-News, split as the published code does it: the first int(0.99 n) entries train, the rest test."""
    train = int(0.99 * len(content))
    for i, row in enumerate(content):
        values = picked(row, video="video", pose="pose", text="text", gloss="gloss", split="split")
        if isinstance(values, dict):
            values = {"split": "train" if i < train else "test"} | values
        yield Row(f"{path}: entry {i}", values)


def read_csl_daily(path: Path, content: dict) -> Iterator[Row]:
    """The authors' annotation of CSL-Daily. A clip that split_1.txt does not name has no split."""
    file = path.with_name("split_1.txt")
    lines = read_text(file).splitlines() if file.exists() else []
    splits = dict(line.strip().split("|", 1) for line in lines if "|" in line)
    for i, row in enumerate(content["info"]):
        values = picked(row, id="name", gloss="label_gloss", words="label_word")
        if isinstance(values, dict):
            words = values.pop("words", None)
            text = "".join(map(str, words)) if isinstance(words, (list, tuple)) else words
            values |= {"split": splits.get(str(values.get("id"))), "text": text}
        yield Row(f"{path}: entry {i}", values)


def read_wlasl(path: Path, content: list, classes: int | None) -> Iterator[Row]:
    """The authors' list of words, of which WLASL-100, -300, -1000 and -2000 are the first."""
    for number, word in enumerate(content[:classes]):
        instances = word.get("instances") if isinstance(word, dict) else None
        if not isinstance(instances, list):
            where = f"{path}: entry {number}"
            yield Row(where, InputError(where, "is no word with instances", "copy the file again"))
            continue
        for row in instances:
            values = picked(row, id="video_id", split="split")
            if isinstance(values, dict):
                values |= {"text": word.get("gloss")}
            yield Row(f"{path}: entry {number}", values)


def read_nslt(path: Path, content: dict) -> Iterator[Row]:
    """The authors' subsets of WLASL."""
    words = _wlasl_words(path)
    for name, row in content.items():
        values = picked(row, split="subset", action="action")
        if isinstance(values, dict):
            action = values.get("action")
            number = action[0] if isinstance(action, list) and action else None
            text = words[number] if isinstance(number, int) and 0 <= number < len(words) else None
            values |= {"id": name, "text": text}
        yield Row(f"{path}: clip {name}", values)


def _wlasl_words(path: Path) -> list[str]:
    """The word of every class, from the file beside `path`."""
    whole, short = path.with_name("WLASL_v0.3.json"), path.with_name("wlasl_class_list.txt")
    if short.exists():
        return [line.split(maxsplit=1)[1].strip() for line in read_text(short).splitlines() if len(line.split()) > 1]
    if not whole.exists():
        problem = "has no words, and neither WLASL_v0.3.json nor wlasl_class_list.txt is beside it"
        raise InputError(path, problem, "put one of them into its folder")
    words: Any = read_json(whole)
    try:
        return [word["gloss"] for word in words]
    except (TypeError, KeyError):
        raise InputError(whole, "is not WLASL's list of words", "copy the file again") from None


def read_msasl(path: Path, content: list, classes: int | None) -> Iterator[Row]:
    """The authors' list of MS-ASL; MS-ASL100, 200, 500 and 1000 are the entries with a label below that."""
    words = _msasl_words(path.with_name("MSASL_classes.json"))
    for i, row in enumerate(content):
        where = f"{path}: entry {i}"
        label = row.get("label") if isinstance(row, dict) else None
        if not isinstance(label, int):
            yield Row(where, InputError(f"{where}: label", f"is {label!r}", "give the number of the class"))
        elif classes is None or label < classes:
            yield Row(where, _msasl_values(where, row, words) | {"split": split_in_name(path)})


def _msasl_values(where: str, row: dict, words: list[str]) -> dict:
    video = re.search(r"(?:v=|youtu\.be/|embed/)([\w-]{11})", str(row.get("url")))
    name = video[1] if video else None
    values = picked(row, start="start_time", end="end_time", text="text")
    assert isinstance(values, dict)
    values |= {"id": f"{name}_{row.get('start')}_{row.get('end')}" if name else "", "recording": name or ""}
    return values | ({"text": words[row["label"]]} if 0 <= row["label"] < len(words) else {})


def _msasl_words(path: Path) -> list[str]:
    """The word of every class; [] if there is no file of them, each entry's text being its word then."""
    words = read_json(path, "copy the file again, or delete it") if path.exists() else []
    if not isinstance(words, list):
        raise InputError(path, "is not a list of words", "copy the file again, or delete it")
    return words
