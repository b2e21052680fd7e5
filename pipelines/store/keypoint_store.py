"""The keypoint store: the keypoints of every clip in one Zarr array, a manifest beside it, checksums for both.

    STORE/keypoints.zarr   [total frames, 133, 3] float16: x, y as fractions of width and height, raw confidence
    STORE/manifest.jsonl   one line per clip (pipelines/store/manifest.py), with its place in the array and its CRC-32C
    STORE/store.json       written last, when everything else is on disk: a folder without it is not a store
    STORE/crops            hand crops, once launch/prepare.py crops has cut them (pipelines/store/crop_store.py)

Only what store.json counts is part of the store, so a store stays valid while it is appended to. Zarr silently reads a
lost chunk as the fill value, hence the checksums and the fill value NaN, which no clip contains.
"""

from pathlib import Path

import google_crc32c
import numpy as np

from ..atomic_io import writing_to
from ..errors import InputError
from ..skeleton import WHOLEBODY, Skeleton
from ..skeletons import find_skeleton
from .checked_files import check_texts, read_header, write_header
from .clip import Clip, check_clip
from .manifest import Manifest, ManifestWriter, index_file
from .row_array import RowReader, RowWriter, metadata_crc32c

FORMAT = "unisign_fast keypoint store"
VERSION = 4  # version 3 has no checksums of the index, of zarr.json and of store.json itself
CHUNK_FRAMES = 256
SHARD_FRAMES = 65536
REWRITE = "write the store again with launch/prepare.py"


class KeypointStore:
    """A finished store, opened for reading: its folder `path`, its `clips`, and the `keypoint_source` that produced
    them.

    `skeleton` defines its joints. Opening is fast and takes 29 bytes of memory per clip; threads may share a store.
    """

    def __init__(self, path: Path, clips: Manifest, rows: RowReader, header: dict):
        """Use `open`."""
        self.path, self.clips = path, clips
        self.keypoint_source: dict[str, str] = header["keypoint_source"]
        self.manifest_crc32c: int = header["manifest_crc32c"]
        self.skeleton = _skeleton_of(path, header)
        self._rows, self._header = rows, header

    @classmethod
    def open(cls, path: Path | str) -> "KeypointStore":
        """Open a store, checking only that its parts exist. Raises InputError if it is incomplete."""
        path = Path(path)
        header = _read_header(path)
        clips = Manifest(path / "manifest.jsonl", header["clips"], header["manifest_bytes"], header.get("index_crc32c"))
        if clips.total_frames != header["frames"]:
            problem = f"counts {clips.total_frames} frames, store.json {header['frames']}"
            raise InputError(path / "manifest.index", problem, REWRITE)
        array, metadata = path / "keypoints.zarr", header.get("zarr_crc32c")
        joints = len(_skeleton_of(path, header).joints)
        rows = RowReader(array, (joints, 3), "float16", header["frames"], REWRITE, metadata)
        return cls(path, clips, rows, header)

    def keypoints(self, clip: Clip) -> np.ndarray:
        """[T, 133, 3] float32: x, y (fractions of the picture), raw confidence. Raises InputError on lost data."""
        return self.packed_keypoints(clip).astype(np.float32)

    def packed_keypoints(self, clip: Clip) -> np.ndarray:
        """The keypoints as stored: [T, 133, 3] float16, read-only. Raises InputError on lost data."""
        try:
            packed = self._rows[clip.first_frame : clip.first_frame + clip.frames]
            if google_crc32c.value(np.ascontiguousarray(packed)) == clip.crc32c:
                return packed
            last = clip.first_frame + clip.frames - 1
            problem, remedy = f"frames {clip.first_frame} to {last} do not match their checksum", REWRITE
        except InputError as error:
            problem, remedy = f"{error.where}: {error.problem}", error.remedy
        raise InputError(f"{self.path / 'keypoints.zarr'}: clip {clip.id}", problem, remedy)

    def video(self, clip: Clip) -> Path:
        """The path of the clip's video. Raises InputError if the clip has none; the file itself is not opened."""
        if not clip.source:
            where = f"{self.path / 'manifest.jsonl'}: clip {clip.id}: source"
            raise InputError(where, "the clip has no video", "train it pose-only (--p-samp 0)")
        return self.path / clip.source

    def verify(self) -> None:
        """Reads everything and compares it with the checksums. Raises InputError naming the first damaged clip."""
        self.clips.verify(self.manifest_crc32c)
        for clip in self.clips:
            self.packed_keypoints(clip)


class KeypointStoreWriter:
    """Writes a store: `with KeypointStoreWriter(path, source) as writer: writer.add(...)`.

    Nothing counts as written until the block ends without an exception. Overwrites the remains of a killed writer, but
    never a finished store; with `append`, clips are added after the existing ones. `compress` saves about a quarter of
    the space and makes reading many times slower (benchmarks/data_path.py). Parallel writers each write a separate
    store, to be merged afterwards.
    """

    def __init__(
        self,
        path: Path | str,
        keypoint_source: dict[str, str],
        *,
        skeleton: Skeleton = WHOLEBODY,
        append: bool = False,
        compress: bool = False,
    ):
        """`keypoint_source` says where the keypoints come from: estimator, version, coordinates (their convention)."""
        assert keypoint_source.keys() == {"estimator", "version", "coordinates"}, keypoint_source
        self.path, self.keypoint_source, self._compress = Path(path), keypoint_source, compress
        self.skeleton = skeleton
        self._ids: set[str] = set()
        self._before: KeypointStore | None = None
        if append:
            self._before = KeypointStore.open(self.path)
            if self._before.skeleton is not skeleton:
                problem = f"is {self._before.skeleton.name}, and {skeleton.name} would be added"
                raise InputError(self.path / "store.json: skeleton", problem, "write a separate store")
            if self._before.keypoint_source != keypoint_source:
                problem = f"is {self._before.keypoint_source}, and {keypoint_source} would be added"
                remedy = "write a separate store: training reads several"
                raise InputError(self.path / "store.json: keypoint_source", problem, remedy)
            self._ids = {clip.id for clip in self._before.clips}
        elif (self.path / "store.json").exists():
            raise InputError(self.path, "is already a store", "name another folder, append to it or delete it")
        with writing_to(self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "KeypointStoreWriter":
        with writing_to(self.path):
            self._start()
        return self

    def _start(self) -> None:
        array, manifest = self.path / "keypoints.zarr", self.path / "manifest.jsonl"
        if self._before:
            header = self._before._header
            self._rows = RowWriter.reopen(array, header["frames"])
            self._manifest = ManifestWriter(manifest, header)
        else:
            self._rows = RowWriter.create(
                array,
                (len(self.skeleton.joints), 3),
                "float16",
                chunk_rows=CHUNK_FRAMES,
                shard_rows=SHARD_FRAMES,
                fill_value=float("nan"),
                compress=self._compress,
            )
            self._manifest = ManifestWriter(manifest)

    def __exit__(self, kind, error, traceback) -> None:
        if kind is None:
            try:
                self._finish()
                return
            except (OSError, InputError) as failure:
                error = failure
        self._manifest.abandon()
        if self._before is None:
            self._rows.discard()
            for file in (self.path / "manifest.jsonl", index_file(self.path / "manifest.jsonl")):
                file.unlink(missing_ok=True)
        if kind is None or isinstance(error, OSError):
            with writing_to(self.path):
                raise error

    def _finish(self) -> None:
        self._rows.commit()
        self._manifest.close()
        header = {
            "format": FORMAT,
            "version": VERSION,
            "clips": self._manifest.clips,
            "frames": self._rows.rows,
            "manifest_bytes": self._manifest.size,
            "manifest_crc32c": self._manifest.crc32c,
            "index_crc32c": self._manifest.index_crc32c,
            "zarr_crc32c": metadata_crc32c(self.path / "keypoints.zarr"),
            "keypoint_source": self.keypoint_source,
        }
        if self.skeleton is not WHOLEBODY:
            header["skeleton"] = self.skeleton.name
        if self._manifest.index_crc32c is None:  # appending to a store of version 3 keeps its version
            header = {name: value for name, value in header.items() if value is not None} | {"version": 3}
        write_header(self.path / "store.json", header)

    def add(
        self,
        keypoints: np.ndarray,
        *,
        id: str,
        split: str,
        language: str,
        text: str,
        fps: float,
        width: int,
        height: int,
        gloss: str = "",
        source: str = "",
        translations: dict[str, str] | None = None,
        tags: dict[str, str] | None = None,
        video_start: int = 0,
        video_frames: int = 0,
        box: tuple[int, ...] = (),
    ) -> Clip:
        """Appends a clip: keypoints [T, 133, 3] (fractions of the picture, raw confidence), the rest as in Clip.

        Raises InputError on keypoints that are not finite, an id used before or an impossible field.
        """
        assert keypoints.ndim == 3 and keypoints.shape[1:] == (len(self.skeleton.joints), 3), keypoints.shape
        with np.errstate(over="ignore"):
            packed = np.ascontiguousarray(keypoints, dtype=np.float16)
        clip = Clip(
            id=id,
            split=split,
            language=language,
            text=text,
            gloss=gloss,
            first_frame=self._rows.rows,
            frames=len(packed),
            fps=fps,
            width=width,
            height=height,
            source=source,
            crc32c=google_crc32c.value(packed),
            translations=dict(translations or {}),
            tags=dict(tags or {}),
            video_start=video_start,
            video_frames=video_frames,
            box=box,
        )
        check_clip(f"clip {id}", clip)
        if id in self._ids:
            raise InputError(f"clip {id}", "was added before", "give every clip a unique name")
        bad = np.flatnonzero(~np.isfinite(packed).all(axis=(1, 2)))
        if len(bad):
            problem = f"frame {bad[0]} is not finite in float16"
            raise InputError(f"clip {id}: keypoints", problem, "extract the pose again")
        self._ids.add(id)
        self._rows.append(packed)
        self._manifest.append(clip)
        return clip


def _skeleton_of(path: Path, header: dict) -> Skeleton:
    """Stores that name no skeleton are of the default one."""
    return find_skeleton(header.get("skeleton", WHOLEBODY.name), f"{path / 'store.json'}: skeleton")


def _read_header(path: Path) -> dict:
    file = path / "store.json"
    if not file.exists():
        problem = "is not a store (it has no store.json: another folder, or its writing was interrupted)"
        raise InputError(path, problem, "name a store written by launch/prepare.py")
    counts = ("clips", "frames", "manifest_bytes", "manifest_crc32c")
    header = read_header(file, FORMAT, (3, VERSION), counts, REWRITE)
    if "keypoint_source" not in header:
        raise InputError(f"{file}: keypoint_source", "is missing", REWRITE)
    check_texts(f"{file}: keypoint_source", header["keypoint_source"], REWRITE)
    return header
