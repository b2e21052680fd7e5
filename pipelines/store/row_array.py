"""A long Zarr v3 array that is written by appending rows and read by row range.

A shard file is its chunks followed by their index. Shards are read here rather than by Zarr, which returns missing
chunks as the fill value and lets a damaged compressed chunk expand without limit. Uncompressed chunks lie in order, so
row offsets can be computed; the index is verified first, because an omitted chunk would shift the others.
"""

import shutil
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import google_crc32c
import numpy as np
import zarr
from numcodecs import zstd
from zarr.codecs import ZstdCodec

from ..atomic_io import sync_to_disk
from ..errors import InputError
from ..input_files import read_json
from .checked_files import FileReader, json_crc32c

_ABSENT = np.uint64(2**64 - 1)  # offset and size that mark a missing chunk of a shard
_CRC_BYTES = 4
_METADATA_BYTES = 2**20
_CODECS = {"sharding_indexed", "bytes", "zstd", "crc32c", "regular", "default"}  # and grids and encodings of keys
OPEN_SHARDS = 128


class RowWriter:
    """Appends rows to the array at `path`; until `commit` only whole shards are written.

    A killed writer may leave rows after the last committed one; `reopen` with the committed count drops them.
    """

    def __init__(self, path: Path, array: zarr.Array, rows: int):
        """Use `create` or `reopen`."""
        self.path, self.rows = path, rows  # rows: appended so far
        assert array.shards is not None, path
        self._array, self._shard_rows = array, array.shards[0]
        self._waiting: list[np.ndarray] = []  # rows of the shard that is not yet full
        self._written = rows
        self._unsynced: set[Path] = set()  # shards, and the folders they are in

    @classmethod
    def create(
        cls,
        path: Path,
        row_shape: tuple[int, ...],
        dtype: str,
        *,
        chunk_rows: int,
        shard_rows: int,
        fill_value: float,
        compress: bool = False,
    ) -> "RowWriter":
        """Creates an empty array, replacing anything at `path`."""
        array = zarr.create_array(
            path,
            shape=(0, *row_shape),
            chunks=(chunk_rows, *row_shape),
            shards=(shard_rows, *row_shape),
            dtype=dtype,
            compressors=ZstdCodec(level=3) if compress else None,
            fill_value=fill_value,
            config={"write_empty_chunks": True},
            overwrite=True,
        )
        return cls(path, array, 0)

    @classmethod
    def reopen(cls, path: Path, rows: int) -> "RowWriter":
        """Opens the array to append after its first `rows` rows; later rows are dropped."""
        array = zarr.open_array(path, mode="r+")
        assert array.shape[0] >= rows, (path, array.shape, rows)
        array.resize((rows, *array.shape[1:]))
        return cls(path, array, rows)

    def append(self, rows: np.ndarray) -> None:
        """Appends `rows` [n, ...]; whole shards are written at once, so that no shard is rewritten."""
        self._waiting.append(rows)
        self.rows += len(rows)
        if self.rows // self._shard_rows > self._written // self._shard_rows:
            self._write(self.rows // self._shard_rows * self._shard_rows)

    def commit(self) -> None:
        """Returns when all rows are on disk."""
        self._write(self.rows)
        for written in self._unsynced | {self.path, self.path / "zarr.json", self.path / "c"}:
            if written.exists():  # an array without rows has no shards
                sync_to_disk(written)
        self._unsynced.clear()

    def discard(self) -> None:
        """Removes the array."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _write(self, up_to: int) -> None:
        if up_to == self._written:
            return
        waiting = np.concatenate(self._waiting)
        take = up_to - self._written
        self._array.resize((up_to, *self._array.shape[1:]))
        self._array[self._written :] = waiting[:take]
        for shard in range(self._written // self._shard_rows, -(-up_to // self._shard_rows)):
            file = shard_file(self.path, shard, self._array.ndim)
            self._unsynced |= {file, *file.parents[: self._array.ndim - 1]}
        self._written, self._waiting = up_to, [waiting[take:]]


def shard_file(array: Path, shard: int, dimensions: int) -> Path:
    """Where Zarr keeps a shard of an array that is divided along its first dimension alone."""
    return array.joinpath("c", str(shard), *["0"] * (dimensions - 1))


class RowReader:
    """The first `rows` rows of an array, as slices `reader[a:b]`; threads may share it.

    Nothing is kept in memory, however long the array; of a compressed array, whole chunks are read.
    """

    def __init__(
        self,
        path: Path,
        row_shape: tuple[int, ...],
        dtype: str,
        rows: int,
        remedy: str,
        metadata_crc32c: int | None = None,
    ):
        """Raises InputError, with this `remedy`, if there is no such array. Shards are opened on first use.

        `metadata_crc32c` is the checksum of zarr.json; None for stores of earlier versions, which have none.
        """
        self.path, self.rows, self._remedy = path, rows, remedy
        self._array = _open_array(path, remedy, metadata_crc32c)
        shape, shards = self._array.shape, self._array.shards
        if shape[1:] != row_shape or self._array.dtype != np.dtype(dtype) or shape[0] < rows or shards is None:
            problem = f"is {self._array.dtype} {shape}, and {dtype} {(rows, *row_shape)} in shards is wanted"
            raise InputError(path, problem, remedy)
        self._shard_rows, self._chunk_rows = shards[0], self._array.chunks[0]
        self._row_bytes = int(np.prod(row_shape, initial=self._array.dtype.itemsize))
        compressors = self._array.compressors
        self._compressed = bool(compressors)
        if self._compressed and [type(codec) for codec in compressors] != [ZstdCodec]:
            raise InputError(path, f"is compressed by {compressors}, and zstd alone is read", remedy)
        self._shard = lru_cache(maxsize=OPEN_SHARDS)(self._open)  # evicted readers close once unused

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Rows a to b, read-only. Raises InputError on a lost or damaged shard."""
        start, stop, _ = rows.indices(self.rows)
        shard, first = divmod(start, self._shard_rows)
        if first + stop - start <= self._shard_rows:
            return self._piece(shard, first, max(first, first + stop - start))
        borders = [start, *range((shard + 1) * self._shard_rows, stop, self._shard_rows), stop]
        return np.concatenate([self[a:b] for a, b in pairwise(borders)])

    def _piece(self, shard: int, first: int, last: int) -> np.ndarray:
        file = shard_file(self.path, shard, self._array.ndim)
        size = (last - first) * self._row_bytes
        try:
            reader, entries = self._shard(shard)
            if self._compressed:
                before = first // self._chunk_rows  # chunks
                wanted = entries[before : -(-last // self._chunk_rows)]
                content = b"".join(self._chunk(reader, entry, file) for entry in wanted)
                content = content[(first - before * self._chunk_rows) * self._row_bytes :][:size]
            else:
                content = reader.read(first * self._row_bytes, size)
        except OSError as error:
            raise InputError(file, f"cannot be read ({error.strerror})", self._remedy) from None
        if len(content) < size:
            raise InputError(file, f"ends before row {last} of the shard", self._remedy)
        return np.frombuffer(content, self._array.dtype).reshape(last - first, *self._array.shape[1:])

    def _chunk(self, reader: FileReader, entry: np.ndarray, file: Path) -> bytes:
        """The rows of a compressed chunk at the offset and of the size in `entry`."""
        offset, size = map(int, entry)
        if offset + size > reader.size:  # also of a missing chunk
            raise InputError(file, "has no whole chunk where its index says", self._remedy)
        rows = np.zeros(self._chunk_rows * self._row_bytes, np.uint8)
        try:
            zstd.decompress(reader.read(offset, size), rows)  # raises rather than write more
        except (ValueError, RuntimeError) as error:
            raise InputError(file, f"has a damaged chunk ({error})", self._remedy) from None
        return rows.tobytes()

    def _open(self, shard: int) -> tuple[FileReader, np.ndarray]:
        """A shard file with its index [chunks, (offset, size)]; uncompressed chunks lie one after the other."""
        file = shard_file(self.path, shard, self._array.ndim)
        chunk_bytes = self._chunk_rows * self._row_bytes
        chunks = self._shard_rows // self._chunk_rows
        index_bytes = 16 * chunks
        reader = FileReader(file)
        end = reader.read(max(0, reader.size - index_bytes - _CRC_BYTES), index_bytes + _CRC_BYTES)
        index, crc = end[:index_bytes], end[index_bytes:]
        if len(crc) < _CRC_BYTES or google_crc32c.value(index) != int.from_bytes(crc, "little"):
            raise InputError(file, "is damaged: its shard index does not match its checksum", self._remedy)
        entries = np.frombuffer(index, "<u8").reshape(chunks, 2)
        if self._compressed:
            return reader, entries
        present = int((entries[:, 0] != _ABSENT).sum())
        in_order = np.arange(present, dtype=np.uint64) * np.uint64(chunk_bytes)
        if not (np.array_equal(entries[:present, 0], in_order) and (entries[:present, 1] == chunk_bytes).all()):
            raise InputError(file, "has its chunks in a different order", self._remedy)
        if reader.size != present * chunk_bytes + index_bytes + _CRC_BYTES:
            raise InputError(file, f"has {reader.size} bytes, and its index says otherwise", self._remedy)
        return reader, entries


def metadata_crc32c(array: Path) -> int:
    """The checksum of an array's zarr.json, whatever the number of its rows. Raises InputError if it is not JSON."""
    metadata = read_json(array / "zarr.json", max_bytes=_METADATA_BYTES)
    if not isinstance(metadata, dict) or not isinstance(metadata.get("shape"), list):
        raise InputError(array / "zarr.json: shape", "is missing", "copy the array again")
    return json_crc32c(metadata | {"shape": metadata["shape"][1:]})


def _open_array(path: Path, remedy: str, crc32c: int | None) -> zarr.Array:
    try:
        if crc32c is not None and metadata_crc32c(path) != crc32c:
            raise InputError(path / "zarr.json", "does not match its checksum", remedy)
        unknown = _codecs(read_json(path / "zarr.json", max_bytes=_METADATA_BYTES)) - _CODECS
        if unknown:
            raise InputError(path / "zarr.json", f"has the codecs {', '.join(sorted(unknown))}", remedy)
        return zarr.open_array(path, mode="r")
    except InputError as error:
        raise InputError(path, f"is not a Zarr array ({error.where}: {error.problem})", remedy) from None
    except Exception as error:  # on wrong values zarr may raise any exception
        raise InputError(path, f"is not a Zarr array ({type(error).__name__}: {error})", remedy) from None


def _codecs(metadata: object) -> set[str]:
    """The names of all codecs anywhere in zarr.json; opening an array instantiates each of them."""
    if isinstance(metadata, dict):
        own = {str(metadata["name"])} if "configuration" in metadata else set()
        return own.union(*map(_codecs, metadata.values()))
    return set().union(*map(_codecs, metadata)) if isinstance(metadata, list) else set()
