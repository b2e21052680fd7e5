"""Damage to input files: bytes, values inside JSON, tables, pickles, numpy and safetensors files, and entire files."""

import copy
import csv
import gzip
import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults_stores import BYTE_KINDS

BOMB = 2**30  # bytes that a bomb would expand to
LONG = "x" * 131_073  # one character more than Python's csv takes
JSON_VALUES = (  # as text, since json.dumps writes some of them not at all
    "null", "true", "-1", "0", "0.5", "1e308", "1e999", "-1e999", "NaN", "-Infinity", "9" * 400, "1" + "0" * 30,
    "[" * 5000 + "]" * 5000, "[" * 63 + "]" * 63, "[" * 100_000, '{"a":' * 300 + "1" + "}" * 300, "[]", "{}", "[[]]",
    '""', '"\\ud800"', '"\\u0000"', '"../../../etc/passwd"', '"/etc/passwd"', '"\u202e<script>alert(1)</script>"',
    '"NaN"', '"\uff11"', "[1e39]", f'"{LONG}"', "[null]", '{"name": 1}', "65505.0", "2147483648",
    "-9223372036854775809",
)  # fmt: skip
CELLS = (
    "", LONG, "../../../etc/passwd", "/etc/passwd", "nan", "inf", "-1", "1e999", "9" * 400, '"', '"open', "a\x00b",
    "\u202e", "1:2:3:4:5", "99:99:99,999", "\uff11", "=1+1", "a,b", "a\tb", "\x85", "\u2028", " ",
)  # fmt: skip


class Attack:
    """What pickles to a call of os.system."""

    def __reduce__(self):
        return os.system, ("touch attacked",)


def _objects(*items: object) -> np.ndarray:
    array = np.empty(len(items), object)
    array[:] = items
    return array


def python_values() -> list[Any]:
    """Values for the insides of pickles."""
    deep: list = []
    for _ in range(90):
        deep = [deep]
    return [
        None, True, -1, 2**70, 1e308, float("nan"), float("inf"), "", LONG, "../../../etc/passwd", b"bytes", [], {}, (),
        deep, set(), np.zeros(()), np.float64("nan"), np.zeros((0, 133, 2)), np.zeros((1, 133, 2), complex),
        np.array(["text"]), np.full((1, 133, 2), np.nan), np.full((1, 133, 2), 1e39), np.zeros((2**20,)),
        _objects(None, [1]), np.zeros((1, 133, 2), np.float16), np.zeros((1, 133, 2), bool), Attack(), range(3),
        np.array("2020", "datetime64[D]"), 10**4000, {"keypoints": []}, [[[0.5, 0.5]] * 133], np.zeros((1, 1, 133, 2)),
    ]  # fmt: skip


@cache
def whole_files() -> dict[str, bytes]:
    """Contents that replace a whole file."""
    zeros, archive = bytes(2**20), io.BytesIO()
    bomb = gzip.compress(zeros) * (BOMB // len(zeros))  # members follow each other in one file
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as names:
        with names.open("keypoints.npy", "w") as file:
            for _ in range(BOMB // len(zeros)):
                file.write(zeros)
    return {
        "an empty file": b"",
        "an HTML page": b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>404</body></html>\n",
        "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 17\n",
        "a gzip bomb": bomb,
        "a zip bomb": archive.getvalue(),
        "a pickle that calls os.system": pickle.dumps(Attack()),
        "deep JSON": b"[" * 200_000 + b"]" * 200_000,
        "deep JSON, never closed": b'{"a":[' * 100_000,
        "a number as JSON": b"1e999",
        "text in UTF-16": "name,text\na,b\n".encode("utf-16"),
        "zeros": bytes(4096),
        "random bytes": random.Random(0).randbytes(5000),
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(64),
    }


# Inside files ---------------------------------------------------------------------------------------------------------


def _places(value: Any, place: tuple = ()) -> list[tuple]:
    """Paths of the places in nested lists and dicts; of a long list its first, last and some between."""
    if isinstance(value, dict):
        return [place] + [p for key, item in value.items() for p in _places(item, (*place, key))]
    if isinstance(value, (list, tuple)) and value:
        numbers = {0, len(value) // 2, len(value) - 1}
        return [place] + [p for i in sorted(numbers) for p in _places(value[i], (*place, i))]
    return [place]


def _changed(value: Any, rng: random.Random, new: object) -> Any:
    """The value with some part replaced, deleted, doubled or renamed."""
    place = rng.choice(_places(value))
    if not place:
        return new
    value = copy.deepcopy(value)
    holder = value
    for key in place[:-1]:
        if isinstance(holder[key], tuple):
            holder[key] = list(holder[key])
        holder = holder[key]
    key = place[-1]
    if isinstance(holder, tuple):
        return new
    action = rng.random()
    if action < 0.75:
        holder[key] = new
    elif action < 0.85:
        del holder[key]
    elif isinstance(holder, list):
        holder.insert(key, holder[key])
    else:
        holder[str(key) + rng.choice(["", "_", "\u0301", "/../x"])] = holder.pop(key)
    return value


def _json(content: bytes, rng: random.Random) -> bytes:
    changed = json.dumps(_changed(json.loads(content), rng, "@@"), ensure_ascii=False)
    return changed.replace('"@@"', rng.choice(JSON_VALUES)).encode()


def _json_lines(content: bytes, rng: random.Random) -> bytes:
    lines = content.splitlines()
    number = rng.randrange(len(lines))
    lines[number] = _json(lines[number], rng)
    return b"\n".join(lines) + b"\n"


def _table(content: bytes, rng: random.Random) -> bytes:
    """Another cell, one cell more or less, or a line doubled."""
    text = content.decode()
    separator = "\t" if "\t" in text else ","
    rows = [line.split(separator) for line in text.splitlines()]
    row = rng.choice(rows)
    match rng.randrange(5):
        case 0:
            row.pop(rng.randrange(len(row)))
        case 1:
            row.insert(rng.randrange(len(row) + 1), rng.choice(CELLS))
        case 2:
            rows.insert(rng.randrange(len(rows) + 1), row)
        case _:
            row[rng.randrange(len(row))] = rng.choice(CELLS)
    if rng.random() < 0.3:
        file = io.StringIO()
        csv.writer(file, delimiter=separator).writerows([[cell.replace("\0", "") for cell in row] for row in rows])
        return file.getvalue().encode()
    return "\n".join(separator.join(row) for row in rows).encode("utf-8", "surrogatepass")


def _pickle(content: bytes, rng: random.Random) -> bytes:
    compressed = content[:2] == b"\x1f\x8b"
    value = pickle.loads(gzip.decompress(content) if compressed else content)  # our own file
    changed = pickle.dumps(_changed(value, rng, rng.choice(python_values())), rng.randrange(6))
    return gzip.compress(changed) if compressed else changed


def _npz(content: bytes, rng: random.Random) -> bytes:
    arrays = dict(np.load(io.BytesIO(content)))
    values = [value for value in python_values() if isinstance(value, np.ndarray)]
    arrays[rng.choice(list(arrays))] = rng.choice(values)
    file = io.BytesIO()
    rng.choice([np.savez, np.savez_compressed])(file, **arrays)
    return file.getvalue()


def _npy(content: bytes, rng: random.Random) -> bytes:
    """Another array, or another header."""
    if rng.random() < 0.5:
        file = io.BytesIO()
        np.save(file, rng.choice([value for value in python_values() if isinstance(value, np.ndarray)]))
        return file.getvalue()
    length = struct.unpack("<H", content[8:10])[0]
    header, data = content[10 : 10 + length].decode(), content[10 + length :]
    old, new = rng.choice(
        [("<f8", "<f4"), ("<f8", "|O"), ("<f8", "<U9"), ("<f8", "|V8"), ("133", "-133"), ("133", "9" * 30),
         ("False", "True"), ("133", "133L"), ("'shape'", "'form'"), ("(", "(" * 500),
         ("False", "__import__('os').system('touch attacked')")]
    )  # fmt: skip
    header = header.replace(old, new, 1).encode()
    return content[:8] + struct.pack("<H", len(header)) + header + data


def _safetensors(content: bytes, rng: random.Random) -> bytes:
    length = struct.unpack("<Q", content[:8])[0]
    header = _json(content[8 : 8 + length], rng)
    size = rng.choice([len(header), len(header), len(header), 0, 2**63, len(header) - 1])
    return struct.pack("<Q", size) + header + content[8 + length :]


INSIDE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    ".json": _json,
    ".jsonl": _json_lines,
    ".csv": _table,
    ".tsv": _table,
    ".txt": _table,
    ".vtt": _table,
    ".pkl": _pickle,
    ".gz": _pickle,
    ".npz": _npz,
    ".npy": _npy,
    ".safetensors": _safetensors,
}


def damage(path: Path, rng: random.Random) -> str:
    """Damages the file in some way; returns a description."""
    content = path.read_bytes()
    choice = rng.random()
    inside = INSIDE.get(path.suffix)
    if inside and choice < 0.6:
        path.write_bytes(inside(content, rng))
        return f"another value in {path.suffix}"
    if choice < 0.7:
        kind = rng.choice([*whole_files(), "a folder", "nothing"])
        path.unlink()
        if kind == "a folder":
            path.mkdir()
        elif kind != "nothing":
            path.write_bytes(whole_files()[kind])
        return kind
    kind = rng.choice(list(BYTE_KINDS))
    changed = bytearray(content)
    if changed:
        BYTE_KINDS[kind](changed, rng)
    path.write_bytes(changed)
    return kind
