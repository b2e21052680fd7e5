"""The manifest: one JSON line per clip, in the order of the clips' frames in the keypoint store.

A binary index beside it lets a corpus of a million clips open at once. It has 29 bytes per clip, four of which are the
checksum of the others and of the clip's line. Lines are read and parsed on demand.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import google_crc32c
import msgspec
import numpy as np

from ..atomic_io import sync_to_disk
from ..errors import InputError
from .checked_files import FileReader
from .clip import ALL_SPLITS, WRITE_AGAIN, Clip, parse_clip

_OLD_INDEX = np.dtype(
    [("line", "<i8"), ("first_frame", "<i8"), ("frames", "<i4"), ("crc32c", "<u4"), ("split", "u1")]
)  # line: where the clip's line starts in the manifest; split: a number of ALL_SPLITS
_INDEX = np.dtype([*_OLD_INDEX.descr, ("check", "<u4")])
_PIECE = 2**24  # bytes


class Manifest(Iterable[Clip]):
    """The clips of a manifest; threads may share it."""

    def __init__(self, path: Path, clips: int, size: int, index_crc32c: int | None = None):
        """The first `clips` clips of manifest `path`, in its first `size` bytes.

        Raises InputError if they are not there. If the index does not match its checksum (None: it has none), damaged
        entries belong to every split, and reading them raises InputError.
        """
        self.path, self._size = path, size
        dtype = _OLD_INDEX if index_crc32c is None else _INDEX
        self._text, _ = _open(path, size, 0)
        _, index = _open(index_file(path), clips * dtype.itemsize, clips * dtype.itemsize)
        self._index = np.frombuffer(index, dtype)
        self._line = self._index["line"]
        self._damaged = ~self._possible()
        if index_crc32c is not None and google_crc32c.value(index) != index_crc32c:
            self._damaged |= [
                not bad and self._entry_check(n) != self._index[n]["check"] for n, bad in enumerate(self._damaged)
            ]
        self._frames = np.where(self._damaged, 1, self._index["frames"])

    def _possible(self) -> np.ndarray:
        """Which entries are plausible; the index of earlier versions has no checksum."""
        ends = np.append(self._line[1:], self._size)[: len(self)]
        frames, first = self._index["frames"], self._index["first_frame"]
        good = (self._line >= 0) & (self._line < ends) & (ends <= self._size) & (frames > 0)
        good[:-1] &= first[1:] - first[:-1] == frames[:-1]
        return good & (self._index["split"] < len(ALL_SPLITS))

    def _line_of(self, number: int) -> bytes:
        start = int(self._line[number])
        end = int(self._line[number + 1]) if number + 1 < len(self) else self._size
        return self._read(start, end - start)

    def _entry_check(self, number: int) -> int:
        return _check_of(self._index[number].tobytes()[: _OLD_INDEX.itemsize], self._line_of(number))

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[Clip]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, number: int) -> Clip:
        """Raises InputError, naming line and field, if that line is not the clip that was written."""
        _, first_frame, frames, crc32c, split, *check = self._index[number].item()
        number %= len(self)
        where = f"{self.path}: line {number + 1}"
        if self._damaged[number]:
            raise InputError(f"{index_file(self.path)}: entry {number + 1}", "is damaged", WRITE_AGAIN)
        clip = parse_clip(where, self._line_of(number))
        indexed = {"first_frame": first_frame, "frames": frames, "crc32c": crc32c, "split": ALL_SPLITS[split]}
        for name, value in indexed.items():
            if getattr(clip, name) != value:
                raise InputError(f"{where}: {name}", f"is {getattr(clip, name)}, the index says {value}", WRITE_AGAIN)
        if check and self._entry_check(number) != check[0]:
            raise InputError(where, "does not match its checksum", WRITE_AGAIN)
        return clip

    def _read(self, start: int, size: int) -> bytes:
        try:
            content = self._text.read(start, size)
        except OSError as error:
            raise InputError(self.path, f"cannot be read ({error.strerror})", WRITE_AGAIN) from None
        if len(content) < size:
            raise InputError(self.path, f"ends before byte {start + size}", WRITE_AGAIN)
        return content

    @property
    def frames(self) -> np.ndarray:
        """Frames of every clip."""
        return self._frames

    @property
    def crc32c(self) -> np.ndarray:
        """The checksum of every clip's keypoints."""
        return self._index["crc32c"]

    @property
    def total_frames(self) -> int:
        """Frames of all clips together."""
        return int(self._index[-1]["first_frame"] + self._index[-1]["frames"]) if len(self) else 0

    def numbers_in(self, split: str) -> np.ndarray:
        """The numbers of a split's clips, int64 ascending."""
        return np.flatnonzero((self._index["split"] == ALL_SPLITS.index(split)) | self._damaged)

    def verify(self, crc32c: int) -> None:
        """Reads every line. Raises InputError on the first bad one, an id that occurs twice, or another checksum."""
        ids, frames = set(), 0
        for clip in self:
            where = f"{self.path}: clip {clip.id}"
            if clip.first_frame != frames:
                raise InputError(f"{where}: first_frame", f"is {clip.first_frame}, not {frames}", WRITE_AGAIN)
            if clip.id in ids:
                raise InputError(f"{where}: id", "occurs twice", WRITE_AGAIN)
            ids.add(clip.id)
            frames += clip.frames
        actual = 0
        for start in range(0, self._size, _PIECE):
            actual = google_crc32c.extend(actual, self._read(start, min(_PIECE, self._size - start)))
        if actual != crc32c:
            raise InputError(self.path, "does not match its checksum in store.json", WRITE_AGAIN)


def _check_of(entry: bytes, line: bytes) -> int:
    """The checksum of a clip's entry in the index and of its line."""
    return google_crc32c.extend(google_crc32c.value(entry), line)


def _open(file: Path, size: int, read: int) -> tuple[FileReader, bytes]:
    """A file of at least `size` bytes, and its first `read` bytes. Raises InputError if it is shorter."""
    try:
        reader = FileReader(file)
        if reader.size >= size:
            return reader, reader.read(0, read)
    except OSError as error:
        raise InputError(file, f"cannot be read ({error.strerror})", WRITE_AGAIN) from None
    raise InputError(file, f"has {reader.size} bytes, store.json says {size}", WRITE_AGAIN)


class ManifestWriter:
    """Appends clips to a manifest and its index, after those counted in the store's `header`. `index_crc32c` stays None
    for store versions without this checksum.
    """

    def __init__(self, path: Path, header: Mapping | None = None):
        before = header or {"manifest_bytes": 0, "manifest_crc32c": 0, "index_crc32c": 0, "clips": 0}
        self.size, self.crc32c, self.clips = before["manifest_bytes"], before["manifest_crc32c"], before["clips"]
        self.index_crc32c: int | None = before.get("index_crc32c")
        self._dtype = _OLD_INDEX if self.index_crc32c is None else _INDEX
        self._files = [open(file, "ab") for file in (path, index_file(path))]
        for file, kept in zip(self._files, (self.size, self.clips * self._dtype.itemsize)):
            file.truncate(kept)

    def append(self, clip: Clip) -> None:
        """One line, and its entry in the index."""
        fields = msgspec.structs.asdict(clip)
        if not clip.box:  # earlier versions, which do not know the field, can read the store
            del fields["box"]
        line = json.dumps(fields, ensure_ascii=False).encode() + b"\n"
        split = ALL_SPLITS.index(clip.split)
        packed = np.array((self.size, clip.first_frame, clip.frames, clip.crc32c, split), _OLD_INDEX).tobytes()
        if self.index_crc32c is not None:
            packed += _check_of(packed, line).to_bytes(4, "little")
        for file, content in zip(self._files, (line, packed)):
            file.write(content)
        if self.index_crc32c is not None:
            self.index_crc32c = google_crc32c.extend(self.index_crc32c, packed)
        self.size += len(line)
        self.crc32c = google_crc32c.extend(self.crc32c, line)
        self.clips += 1

    def close(self) -> None:
        """Returns when everything is on disk."""
        for file in self._files:
            file.close()
            sync_to_disk(Path(file.name))

    def abandon(self) -> None:
        """Closes the files without requiring that appended data is written."""
        for file in self._files:
            with suppress(OSError):  # the disk may still be full
                file.close()


def index_file(manifest: Path) -> Path:
    """The path of a manifest's index."""
    return manifest.with_suffix(".index")
