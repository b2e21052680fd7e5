"""The crop store: both hands of every frame of a keypoint store, cut once, as JPEG files in one Zarr byte array.

    STORE/crops/jpeg.zarr    [bytes] uint8: one file after the other, by frame, the left hand before the right one
    STORE/crops/ends.zarr    [2 frames] int64: where each file ends (it begins where the one before ends)
    STORE/crops/crc32c.zarr  [2 frames] uint32: each file's checksum
    STORE/crops/crops.json   committed counts and cutting settings; replaced at every commit

Boxes follow the `clip` rule of pipelines/crops/boxes.py. The files of a clip that could not be cut are empty.
"""

from pathlib import Path

import google_crc32c
import numpy as np

from ..atomic_io import writing_to
from ..errors import InputError
from .checked_files import check_texts, read_header, write_header
from .clip import Clip
from .keypoint_store import KeypointStore
from .row_array import RowReader, RowWriter, metadata_crc32c

FORMAT = "unisign_fast crop store"
VERSION = 3  # version 2 has no checksums of crops.json and of the arrays' zarr.json
_ARRAYS = {  # dtype, rows of a chunk and of a shard
    "jpeg": ("uint8", 2**20, 2**26),
    "ends": ("int64", 2**13, 2**20),
    "crc32c": ("uint32", 2**13, 2**20),
}
_LARGEST_FILE = 2**26  # bytes; a larger number is damaged
_Files = list[bytes]  # JPEG; a class with a property `bytes` cannot name the type itself
_COUNTS = ("size", "quality", "clips", "frames", "bytes", "keypoints_crc32c")


def crops_folder(store: KeypointStore) -> Path:
    """Where a keypoint store's crops are, or would be."""
    return store.path / "crops"


class CropStore:
    """The crops of a keypoint store, opened for reading; threads may share it.

    `size` in pixels; JPEG `quality`; the store's first `clips` clips are covered, `frames` frames and `bytes` bytes of
    files; `left_out` says why some clips have none.
    """

    def __init__(self, store: KeypointStore):
        """Raises InputError if there are no crops, or they belong to other keypoints."""
        self.path = crops_folder(store)
        header = _read_header(self.path)
        self.size, self.quality, self.clips = header["size"], header["quality"], header["clips"]
        self.left_out: dict[str, str] = header["left_out"]
        self.frames, self.bytes = header["frames"], header["bytes"]
        if self.clips > len(store.clips) or header["keypoints_crc32c"] != keypoints_crc32c(store, self.clips):
            raise InputError(
                self.path, "holds the crops of other keypoints", f"delete it, then {_cut_again(self.path)}"
            )
        rows = {"jpeg": header["bytes"], "ends": 2 * header["frames"], "crc32c": 2 * header["frames"]}
        checksums = header.get("zarr_crc32c", {})
        remedy = f"delete {self.path} and cut again"
        self._jpeg, self._ends, self._crc32c = (
            RowReader(self.path / f"{name}.zarr", (), _ARRAYS[name][0], rows[name], remedy, checksums.get(name))
            for name in _ARRAYS
        )

    def jpegs(self, clip: Clip, frames: np.ndarray, hands: np.ndarray) -> list[np.ndarray]:
        """The files [bytes] uint8 of the clip's hands: frames [n] of the clip, hands [n] (0 left, 1 right).

        Raises InputError if the clip was not cut, or its files are damaged.
        """
        first = 2 * clip.first_frame
        if first + 2 * clip.frames > self._ends.rows:
            raise InputError(f"{self.path}: clip {clip.id}", "is not cut yet", _cut_again(self.path))
        if clip.id in self.left_out:
            problem = f"could not be cut: {self.left_out[clip.id]}"
            raise InputError(f"{self.path}: clip {clip.id}", problem, f"repair it, delete {self.path} and cut again")
        before = self._ends[first - 1 : first] if first else np.zeros(1, np.int64)
        ends = np.concatenate([before, self._ends[first : first + 2 * clip.frames]])
        sizes = np.diff(ends)
        if ends[0] < 0 or sizes.min() < 0 or sizes.max() > _LARGEST_FILE:
            raise InputError(
                f"{self.path}: clip {clip.id}", "has damaged file offsets", "delete the folder and cut again"
            )
        rows = 2 * frames + hands
        checksums = self._crc32c[first : first + 2 * clip.frames][rows]
        files = [self._jpeg[start:end] for start, end in zip(ends[rows].tolist(), ends[rows + 1].tolist())]
        for row, file, checksum in zip(rows.tolist(), files, checksums.tolist()):
            if not len(file) or google_crc32c.value(file) != checksum:
                where = f"{self.path}: clip {clip.id}: frame {row // 2}"
                raise InputError(where, "does not match its checksum", "delete the folder and cut again")
        return files

    def verify(self, store: KeypointStore) -> None:
        """Reads everything. Raises InputError naming the first damaged clip."""
        for number in range(self.clips):
            clip = store.clips[number]
            if clip.id not in self.left_out:
                rows = np.arange(2 * clip.frames)
                self.jpegs(clip, rows // 2, rows % 2)


class CropStoreWriter:
    """Adds clips to the crops of a keypoint store, in the store's order, resuming where an earlier writer stopped.

    Only committed clips count: after a crash the next writer resumes after them.
    """

    def __init__(self, store: KeypointStore, size: int, quality: int):
        """Raises InputError if there are crops of another size or quality, or of other keypoints."""
        self.path, self._store = crops_folder(store), store
        self.size, self.quality = size, quality
        self.clips = self._frames = 0
        self.left_out: dict[str, str] = {}
        if (self.path / "crops.json").exists():
            before = CropStore(store)
            if (before.size, before.quality) != (size, quality):
                problem = f"has crops of size {before.size}, quality {before.quality}"
                raise InputError(self.path, problem, "ask for the same, or delete the folder")
            self.clips, self.left_out = before.clips, before.left_out
            self._frames = before.frames
            rows = {"jpeg": before.bytes, "ends": 2 * self._frames, "crc32c": 2 * self._frames}
            self._arrays = {name: RowWriter.reopen(self.path / f"{name}.zarr", rows[name]) for name in _ARRAYS}
        else:
            with writing_to(self.path):
                self.path.mkdir(exist_ok=True)
                self._arrays = {
                    name: RowWriter.create(
                        self.path / f"{name}.zarr", (), dtype, chunk_rows=chunk, shard_rows=shard, fill_value=0
                    )
                    for name, (dtype, chunk, shard) in _ARRAYS.items()
                }
            self.commit()

    @property
    def bytes(self) -> int:
        """Bytes of all files so far."""
        return self._arrays["jpeg"].rows

    def add(self, files: _Files) -> None:
        """Adds the next clip's files, two per frame."""
        clip = self._next()
        sizes = np.array([len(file) for file in files], np.int64)
        assert len(files) == 2 * clip.frames and sizes.all(), (clip.id, len(files))
        self._append(files, sizes)

    def leave_out(self, reason: str) -> None:
        """Records that the next clip has no crops."""
        clip = self._next()
        self.left_out[clip.id] = reason
        self._append([b""] * 2 * clip.frames, np.zeros(2 * clip.frames, np.int64))

    def commit(self) -> None:
        """Returns when all clips so far are on disk and committed. Raises InputError if the disk is full."""
        with writing_to(self.path):
            self._commit()

    def _commit(self) -> None:
        for array in self._arrays.values():
            array.commit()
        header = {
            "format": FORMAT,
            "version": VERSION,
            "size": self.size,
            "quality": self.quality,
            "boxes": "clip",
            "clips": self.clips,
            "frames": self._frames,
            "bytes": self.bytes,
            "keypoints_crc32c": keypoints_crc32c(self._store, self.clips),
            "zarr_crc32c": {name: metadata_crc32c(self.path / f"{name}.zarr") for name in _ARRAYS},
            "left_out": self.left_out,
        }
        write_header(self.path / "crops.json", header)

    def _next(self) -> Clip:
        clip = self._store.clips[self.clips]
        self.clips += 1
        self._frames += clip.frames
        return clip

    def _append(self, files: _Files, sizes: np.ndarray) -> None:
        with writing_to(self.path):
            self._arrays["ends"].append(self.bytes + np.cumsum(sizes))
            self._arrays["crc32c"].append(np.array([google_crc32c.value(file) for file in files], np.uint32))
            self._arrays["jpeg"].append(np.frombuffer(b"".join(files), np.uint8))


def keypoints_crc32c(store: KeypointStore, clips: int) -> int:
    """Identifies the keypoints of a store's first `clips` clips: the checksum of their checksums."""
    return google_crc32c.value(np.ascontiguousarray(store.clips.crc32c[:clips]))


def _cut_again(path: Path) -> str:
    return f"cut it with launch/prepare.py crops {path.parent}"


def _read_header(path: Path) -> dict:
    file, remedy = path / "crops.json", f"delete {path}, then {_cut_again(path)}"
    if not file.exists():
        raise InputError(path, "holds no crops", _cut_again(path))
    header = read_header(file, FORMAT, (2, VERSION), _COUNTS, remedy)
    check_texts(f"{file}: left_out", header.get("left_out"), remedy)
    checksums = header.get("zarr_crc32c")
    if header["version"] == VERSION and (not isinstance(checksums, dict) or checksums.keys() != _ARRAYS.keys()):
        raise InputError(f"{file}: zarr_crc32c", "is missing", remedy)
    return header
