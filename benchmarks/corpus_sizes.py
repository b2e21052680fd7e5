"""Cost of a corpus by its size: opening time, memory, and time per batch; and the cost of compressing its keypoints.

Part of benchmarks/data_path.py. The corpora are sparse files, which take no room on the disk.
"""

import json
import multiprocessing
import re
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np
import zarr

from unisign_fast.pipelines.batches.reader import ClipReader
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.pipelines.store.checked_files import write_header
from unisign_fast.pipelines.store.clip import Clip
from unisign_fast.pipelines.store.keypoint_store import CHUNK_FRAMES, SHARD_FRAMES, KeypointStore, KeypointStoreWriter
from unisign_fast.pipelines.store.manifest import ManifestWriter
from unisign_fast.pipelines.store.merge import merge_stores
from unisign_fast.pipelines.store.row_array import RowWriter, shard_file
from unisign_fast.text.tokenizer import Tokenizer, train_tokenizer

SOURCE = {"estimator": "made for a benchmark", "version": "1", "coordinates": "fractions of width and height"}
BATCH = 8  # clips


@dataclass(frozen=True)
class SizeRow:
    """A corpus of a given number of clips: seconds to tokenise and to open it, then memory and time per batch."""

    clips: int
    frames: int
    open_s: float
    tokenise_s: float
    reopen_s: float  # with the tokens cached
    memory_mib: float  # beyond a process that has opened a store of one batch
    batch_ms: float


def sparse_corpus(path: Path, clips: int, frames: int = 238) -> None:
    """A store of empty clips of 9.5 s, whose array takes no room on the disk: its files are holes with an index."""
    with KeypointStoreWriter(path, SOURCE):
        pass
    total = clips * frames
    rows = RowWriter.create(
        path / "keypoints.zarr",
        (133, 3),
        "float16",
        chunk_rows=CHUNK_FRAMES,
        shard_rows=SHARD_FRAMES,
        fill_value=float("nan"),
    )
    zarr.open_array(rows.path, mode="r+").resize((total, 133, 3))
    per_shard, chunk_bytes = SHARD_FRAMES // CHUNK_FRAMES, CHUNK_FRAMES * 133 * 3 * 2
    index = np.stack([np.arange(per_shard) * chunk_bytes, np.full(per_shard, chunk_bytes)], axis=1).astype("<u8")
    footer = index.tobytes() + google_crc32c.value(index.tobytes()).to_bytes(4, "little")
    for shard in range(-(-total // SHARD_FRAMES)):
        file = shard_file(rows.path, shard, 3)
        file.parent.mkdir(parents=True)
        with open(file, "wb") as opened:
            opened.seek(per_shard * chunk_bytes)
            opened.write(footer)
    manifest = ManifestWriter(path / "manifest.jsonl")
    empty = google_crc32c.value(np.zeros((frames, 133, 3), np.float16))
    for number in range(clips):
        text = f"今天的新闻第{number}条，我们来看一下各地的天气情况和交通情况。"
        name = f"clip-{number:07d}"
        manifest.append(
            Clip(name, "train", "zh", text, "", number * frames, frames, 25.0, 512, 512, f"{name}.mp4", empty)
        )
    manifest.close()
    header = json.loads((path / "store.json").read_text())
    header |= {"clips": clips, "frames": total, "manifest_bytes": manifest.size, "manifest_crc32c": manifest.crc32c}
    write_header(path / "store.json", header | {"index_crc32c": manifest.index_crc32c})


class SparseStore(KeypointStore):
    """A store of clips that are holes on the disk, read as clips in which a person is found."""

    def packed_keypoints(self, clip: Clip) -> np.ndarray:
        packed = super().packed_keypoints(clip).copy()
        packed[0, 0, 2] = 1
        return packed


def _open_corpus(path: Path, tokenizer: Path) -> dict[str, float]:
    """In a process of its own: the fields of a SizeRow, memory whole."""
    begin = time.perf_counter()
    store = SparseStore.open(path)
    opened = time.perf_counter()
    reader = ClipReader([store], DataSettings(p_samp=0), Tokenizer(tokenizer))
    reader.clips("train")
    tokenised = time.perf_counter()
    clips = reader.clips("train")
    reopened = time.perf_counter()
    times = []
    for number in range(30):
        chosen = np.random.default_rng(number).integers(0, len(clips), BATCH).tolist()
        start = time.perf_counter()
        loaded = reader.batch(clips, chosen, 0, True)
        assert not loaded.bad, loaded.bad
        times.append(1000 * (time.perf_counter() - start))
    return {
        "clips": len(clips),
        "frames": store.clips.total_frames,
        "open_s": opened - begin,
        "tokenise_s": tokenised - opened,
        "reopen_s": reopened - tokenised,
        "memory_mib": own_memory_mib(),
        "batch_ms": statistics.median(times),
    }


def own_memory_mib() -> float:
    """Resident memory of this process in MiB, without mapped files."""
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def measure_sizes(folder: Path, sizes: tuple[int, ...]) -> Iterator[SizeRow]:
    """Corpora of growing size, each opened by a process of its own that first tokenises the texts and then has them."""
    folder.mkdir(exist_ok=True)
    tokenizer = train_tokenizer(["今天的新闻，我们来看一下各地的天气情况和交通情况。"], folder / "tokenizer").path
    context = multiprocessing.get_context("spawn")
    least = 0.0
    for clips in (BATCH, *sizes):
        path = folder / f"corpus-{clips}"
        sparse_corpus(path, clips)
        with ProcessPoolExecutor(1, context) as pool:
            first = pool.submit(_open_corpus, path, tokenizer).result()
        with ProcessPoolExecutor(1, context) as pool:  # again, with the tokens cached
            row = pool.submit(_open_corpus, path, tokenizer).result() | {"tokenise_s": first["tokenise_s"]}
        if clips == BATCH:
            least = row["memory_mib"]
        else:
            yield SizeRow(**row | {"memory_mib": row["memory_mib"] - least})


def compression(store: KeypointStore, folder: Path) -> tuple[float, float]:
    """What compressing the keypoints costs: its size and the time to read a clip, as shares of those without."""
    compressed = merge_stores([store], folder / "compressed", compress=True)
    sizes, times = [], []
    for one in (store, compressed):
        sizes.append(sum(f.stat().st_size for f in (one.path / "keypoints.zarr").rglob("*") if f.is_file()))
        begin = time.perf_counter()
        for _ in range(3):
            for clip in one.clips:
                one.packed_keypoints(clip)
        times.append(time.perf_counter() - begin)
    return sizes[1] / sizes[0], times[1] / times[0]
