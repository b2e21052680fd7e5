"""Damaged stores: however a file is damaged, each clip is unchanged or named by an InputError.

    python benchmarks/faults_stores.py --count 10000

One file of a small store with hand crops and cached targets is damaged, sometimes while the store is open. The store is
then read as in training: the clips of every split, their fields, keypoints, crops and targets. Three outcomes are
correct: everything is unchanged, the store is refused, or some clips are refused and the others are unchanged. A
silently changed value is wrong, and so is an exception other than InputError.
"""

import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # the project's root instead of this file's own folder

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from unisign_fast.evaluation.predictions import write_json
from unisign_fast.pipelines.clips.dataset import ClipSet
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.store.clip import SPLITS, Clip
from unisign_fast.pipelines.store.crop_store import CropStore, CropStoreWriter
from unisign_fast.pipelines.store.keypoint_store import KeypointStore, KeypointStoreWriter
from unisign_fast.utils.console import run_command

CLIPS = 12
RIGHT = ("identical", "some clips refused", "store refused")


@dataclass
class FaultRow:
    """The outcomes of the trials of one kind; `wrong` counts our errors."""

    kind: str
    outcomes: Counter = field(default_factory=Counter)
    worst_seconds: float = 0.0
    right: tuple[str, ...] = RIGHT

    @property
    def tried(self) -> int:
        """Trials."""
        return sum(self.outcomes.values())

    @property
    def wrong(self) -> int:
        """Trials with a wrong outcome."""
        return sum(count for name, count in self.outcomes.items() if name not in self.right)


def write_small_store(path: Path) -> None:
    """A store of CLIPS clips in every split, with hand crops (bytes that need not be pictures)."""
    rng = np.random.default_rng(0)
    origin = {"estimator": "none", "version": "1", "coordinates": "fractions of width and height"}
    with KeypointStoreWriter(path, origin) as writer:
        for i in range(CLIPS):
            frames = int(rng.integers(2, 12))
            fields = {
                "split": SPLITS[i % 3],
                "language": "en",
                "text": f"text number {i}",
                "gloss": f"A{i} B",
                "fps": 25,
            }
            writer.add(rng.random((frames, 133, 3)), id=f"clip{i}", width=64, height=48, tags={"signer": "1"}, **fields)
    store = KeypointStore.open(path)
    crops = CropStoreWriter(store, 16, 90)
    for clip in store.clips:
        crops.add([rng.bytes(int(rng.integers(20, 90))) for _ in range(2 * clip.frames)])
    crops.commit()


def open_store(path: Path) -> tuple[KeypointStore, CropStore]:
    """A store and its crops."""
    store = KeypointStore.open(path)
    return store, CropStore(store)


def observe(store: KeypointStore, crops: CropStore) -> dict[tuple[str, str], object]:
    """(split, id) -> everything that training reads from a clip; (split, "refused NUMBER") -> the clip's InputError."""
    seen: dict[tuple[str, str], object] = {("", "source"): store.keypoint_source, ("", "size"): crops.size}
    for split in SPLITS:
        clips = ClipSet.from_stores([store], split, _tokenize, "bytes")
        for number in range(len(clips)):
            try:
                _, clip, tokens = clips[number]
                rows = np.arange(2 * clip.frames)
                pictures = [file.tobytes() for file in crops.jpegs(clip, rows // 2, rows % 2)]
                fields = msgspec.structs.asdict(clip)
                seen[split, clip.id] = (
                    fields,
                    store.keypoints(clip).tobytes(),
                    pictures,
                    tokens,
                    int(clips.frames[number]),
                )
            except InputError as error:
                assert str(error).isprintable()
                seen[split, f"refused {number}"] = error
    return seen


def _tokenize(clip: Clip) -> list[int]:
    return list(clip.text.encode())


def outcome(path: Path, truth: dict, opened: tuple[KeypointStore, CropStore] | None = None) -> str:
    """The outcome of reading a damaged store, opened now or before the damage: one of RIGHT, or what is wrong."""
    try:
        seen = observe(*(opened or open_store(path)))
    except InputError:
        return "store refused"
    except Exception as error:
        return f"traceback: {type(error).__name__}"
    refused = Counter(split for split, name in seen if name.startswith("refused"))
    missing = Counter(split for split, name in truth if (split, name) not in seen)
    if any(seen[key] != truth.get(key) for key in seen if not key[1].startswith("refused")):
        return "changed in silence"
    if any(missing[split] > refused[split] for split in missing):
        return "lost in silence"
    if not refused:
        return "identical"
    try:
        store, crops = opened or open_store(path)
        store.verify()
        crops.verify(store)
    except InputError:
        return "some clips refused"
    except Exception as error:
        return f"verify: traceback: {type(error).__name__}"
    return "verify says nothing"


def _flipped_bit(content: bytearray, rng: random.Random) -> None:
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def _random_byte(content: bytearray, rng: random.Random) -> None:
    content[rng.randrange(len(content))] = rng.randrange(256)


def _digit(content: bytearray, rng: random.Random) -> None:
    """Another digit, if the file has any, so that JSON stays valid."""
    places = [i for i, byte in enumerate(content) if 48 <= byte < 58]
    if places:
        content[rng.choice(places)] = rng.choice(b"0123456789")


def _cut_short(content: bytearray, rng: random.Random) -> None:
    del content[rng.randrange(len(content)) :]


def _lost_middle(content: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(content))
    del content[start : start + rng.choice([1, 25, 4096])]


def _zeros(content: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(content))
    end = min(len(content), start + rng.choice([4, 512, 4096]))
    content[start:end] = bytes(end - start)


def _inserted(content: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(content) + 1)
    content[place:place] = rng.randbytes(rng.choice([1, 25, 512]))


def _swapped(content: bytearray, rng: random.Random) -> None:
    size = rng.choice([4, 25, 256])
    a, b = (rng.randrange(max(1, len(content) - size)) for _ in range(2))
    content[a : a + size], content[b : b + size] = content[b : b + size], content[a : a + size]


def _json_value(content: bytearray, rng: random.Random) -> None:
    """Replace a random number or text by a value of another type, or by one that is infinite, deep or long."""
    places = [i for i, byte in enumerate(content) if byte in b":["]
    if places:
        start = rng.choice(places) + 1
        end = next((i for i in range(start, len(content)) if content[i] in b",}]\n"), len(content))
        values = (b"null", b"-1", b"1e999", b"NaN", b"[" * 5000, b"9" * 400, b'"\\ud800"', b"{}", b"0.5", b"true")
        content[start:end] = rng.choice(values)


BYTE_KINDS: dict[str, Callable[[bytearray, random.Random], None]] = {
    "a flipped bit": _flipped_bit,
    "a random byte": _random_byte,
    "another digit": _digit,
    "cut short": _cut_short,
    "bytes lost in the middle": _lost_middle,
    "zeros": _zeros,
    "bytes inserted": _inserted,
    "two parts swapped": _swapped,
    "a wrong value": _json_value,
}


def damages(path: Path, count: int, seed: int) -> Iterator[tuple[str, Path, bytes | None, bytes | None]]:
    """`count` damages: (kind, file, its content, its damaged content, or None if it is deleted)."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    kept = {file: file.read_bytes() for file in files}
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        file = rng.choice(files)
        kind = rng.choice([*BYTE_KINDS, "deleted", "another file's content"])
        content = bytearray(kept[file])
        if kind == "deleted":
            yield kind, file, kept[file], None
        elif kind == "another file's content":
            yield kind, file, kept[file], kept[rng.choice(files)]
        else:
            if content:
                BYTE_KINDS[kind](content, rng)
            yield kind, file, kept[file], bytes(content)


def run(count: int, seed: int = 0) -> list[FaultRow]:
    """The outcomes of `count` damages, tried one by one, by kind."""
    rows: dict[str, FaultRow] = defaultdict(lambda: FaultRow(""))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        write_small_store(path)
        observe(*open_store(path))  # leaves cached targets
        truth = observe(*open_store(path))
        for kind, file, content, damaged in damages(path, count, seed):
            opened = None
            if rng.random() < 0.3:  # the store is in use
                opened = open_store(path)
                observe(*opened)
            start = time.perf_counter()
            if damaged is None:
                file.unlink()
            else:
                file.write_bytes(damaged)
            row = rows[kind]
            row.kind = kind
            row.outcomes[outcome(path, truth, opened)] += 1
            row.worst_seconds = max(row.worst_seconds, time.perf_counter() - start)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        assert observe(*open_store(path)) == truth
        shutil.rmtree(path)
    return sorted(rows.values(), key=lambda row: row.kind)


def faults_stores(count: int = 10_000, seed: int = 0, json: Path | None = None) -> None:
    """Damage a small store in many ways and read it.

    Args:
        count: Damages.
        seed: The same seed gives the same damages.
        json: File for the rows.
    """
    rows = run(count, seed)
    names = [*RIGHT, *sorted({name for row in rows for name in row.outcomes} - {*RIGHT})]
    table = Table("damage", "tried", *names, "worst, s")
    for row in rows:
        counts = (str(row.outcomes[name]) for name in names)
        table.add_row(row.kind, str(row.tried), *counts, f"{row.worst_seconds:.2f}")
    Console().print(table)
    wrong = sum(row.wrong for row in rows)
    print(f"{sum(row.tried for row in rows)} damages, {wrong} wrong")
    if json:
        write_json(
            json, [{"kind": row.kind, "outcomes": row.outcomes, "worst_seconds": row.worst_seconds} for row in rows]
        )
    if wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    run_command(faults_stores)
