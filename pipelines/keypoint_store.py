"""The keypoint store: every clip's 133 keypoints in one Zarr array, a manifest beside it, checksums for both.

    STORE/keypoints.zarr   [total frames, 133, 3] float16: x, y as fractions of width and height, raw confidence
    STORE/manifest.jsonl   one line per clip (pipelines/manifest.py), with its place in the array and its CRC-32
    STORE/store.json       written last, when everything else is on disk: a folder without it is not a store

Zarr reads a lost chunk as the fill value and never says so, hence the checksums and the fill value NaN, which no clip
has. Nor is any chunk then left out as empty: a shard file is its chunks in order.
"""

import json
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import zarr

from pipelines.durable import sync_to_disk
from pipelines.errors import InputError
from pipelines.manifest import Clip, check_clip, read_manifest, write_manifest
from pipelines.skeleton import JOINTS

FORMAT = "unisign_fast keypoint store"
VERSION = 1
CHUNK_FRAMES = 256
SHARD_FRAMES = 16384
REWRITE = "write the store again with launch/prepare.py"


class KeypointStore:
    """A finished store, opened for reading: its folder `path`, its `clips`, and the `keypoint_source` they are from."""

    def __init__(self, path: Path, clips: list[Clip], array: zarr.Array, keypoint_source: dict[str, str]):
        """Use `open`."""
        self.path, self.clips, self.keypoint_source = path, clips, keypoint_source
        self._array = array

    @classmethod
    def open(cls, path: Path | str) -> "KeypointStore":
        """Checks that the store's parts agree, keypoints unread. Raises InputError if it is not a whole store."""
        path = Path(path)
        header = _read_header(path)
        clips = read_manifest(path / "manifest.jsonl")
        if len(clips) != header["clips"]:
            problem = f"has {len(clips)} clips, store.json says {header['clips']}"
            raise InputError(path / "manifest.jsonl", problem, REWRITE)
        try:
            array = zarr.open_array(path / "keypoints.zarr", mode="r")
        except (OSError, ValueError, KeyError) as error:
            raise InputError(path / "keypoints.zarr", f"is not a Zarr array ({error})", REWRITE) from None
        frames = sum(clip.frames for clip in clips)
        if array.shape != (frames, JOINTS, 3) or array.dtype != np.float16 or header["frames"] != frames:
            problem = f"is {array.dtype} {array.shape}, the manifest wants float16 {(frames, JOINTS, 3)}"
            raise InputError(path / "keypoints.zarr", problem, REWRITE)
        return cls(path, clips, array, header["keypoint_source"])

    def keypoints(self, clip: Clip) -> np.ndarray:
        """[T, 133, 3] float32: x, y (fractions of the picture), raw confidence. Raises InputError on lost data."""
        where = f"{self.path / 'keypoints.zarr'}: clip {clip.id}"
        try:
            packed = self._array[clip.first_frame : clip.first_frame + clip.frames]
        except (OSError, ValueError) as error:
            raise InputError(where, f"cannot be read ({error})", REWRITE) from None
        if zlib.crc32(packed.tobytes()) != clip.crc32:
            problem = f"frames {clip.first_frame} to {clip.first_frame + clip.frames - 1} do not match their checksum"
            raise InputError(where, problem, REWRITE)
        return packed.astype(np.float32)

    def video(self, clip: Clip) -> Path:
        """Where the clip's video is. Raises InputError if the clip has none; the file itself is not looked at."""
        if not clip.source:
            where = f"{self.path / 'manifest.jsonl'}: clip {clip.id}: source"
            raise InputError(where, "the clip has no video", "train it pose-only (--p-samp 0)")
        return self.path / clip.source

    def verify(self) -> None:
        """Reads everything and compares it with the checksums. Raises InputError naming the first damaged clip."""
        for clip in self.clips:
            self.keypoints(clip)


class KeypointStoreWriter:
    """Writes a store: `with KeypointStoreWriter(path, source) as writer: writer.add(...)`.

    Nothing counts as written until the block ends without an exception. What a killed writer left is overwritten, a
    finished store never.
    """

    def __init__(self, path: Path | str, keypoint_source: dict[str, str]):
        """`keypoint_source` says where the keypoints come from: estimator, version, coordinates (their convention)."""
        assert keypoint_source.keys() == {"estimator", "version", "coordinates"}, keypoint_source
        self.path, self.keypoint_source = Path(path), keypoint_source
        self.clips: list[Clip] = []
        self._ids: set[str] = set()
        self._waiting: list[np.ndarray] = []  # frames of the shard that is not yet full
        self._frames = 0
        if (self.path / "store.json").exists():
            raise InputError(self.path, "is a store already", "name another folder or delete this one")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(self.path, f"cannot be made ({error.strerror})", "name another folder") from None

    def __enter__(self) -> "KeypointStoreWriter":
        self._array = zarr.create_array(
            self.path / "keypoints.zarr",
            shape=(0, JOINTS, 3),
            chunks=(CHUNK_FRAMES, JOINTS, 3),
            shards=(SHARD_FRAMES, JOINTS, 3),
            dtype="float16",
            compressors=None,
            fill_value=float("nan"),
            overwrite=True,
        )
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if kind is not None:
            shutil.rmtree(self.path / "keypoints.zarr")
            return
        self._write_frames(at_least=1)
        write_manifest(self.path / "manifest.jsonl", self.clips)
        for folder, _, files in os.walk(self.path / "keypoints.zarr"):
            for name in [*files, "."]:
                sync_to_disk(Path(folder, name))
        header = {
            "format": FORMAT,
            "version": VERSION,
            "clips": len(self.clips),
            "frames": self._frames,
            "keypoint_source": self.keypoint_source,
        }
        unnamed = self.path / "store.json.part"
        unnamed.write_text(json.dumps(header, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        sync_to_disk(unnamed)
        sync_to_disk(self.path)
        unnamed.rename(self.path / "store.json")
        sync_to_disk(self.path)

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
    ) -> Clip:
        """Appends a clip: keypoints [T, 133, 3] (fractions of the picture, raw confidence), the rest as in Clip.

        Raises InputError on keypoints that are not finite, an id used before or an impossible field.
        """
        assert keypoints.ndim == 3 and keypoints.shape[1:] == (JOINTS, 3), keypoints.shape
        with np.errstate(over="ignore"):
            packed = np.ascontiguousarray(keypoints, dtype=np.float16)
        clip = Clip(
            id=id,
            split=split,
            language=language,
            text=text,
            gloss=gloss,
            first_frame=self._frames,
            frames=len(packed),
            fps=fps,
            width=width,
            height=height,
            source=source,
            crc32=zlib.crc32(packed.tobytes()),
            translations=dict(translations or {}),
            tags=dict(tags or {}),
            video_start=video_start,
            video_frames=video_frames,
        )
        check_clip(f"clip {id}", clip)
        if id in self._ids:
            raise InputError(f"clip {id}", "was added before", "give every clip a name of its own")
        bad = np.flatnonzero(~np.isfinite(packed).all(axis=(1, 2)))
        if len(bad):
            problem = f"frame {bad[0]} is not finite in float16"
            raise InputError(f"clip {id}: keypoints", problem, "extract the pose again")
        self.clips.append(clip)
        self._ids.add(id)
        self._frames += len(packed)
        self._waiting.append(packed)
        self._write_frames(at_least=SHARD_FRAMES)
        return clip

    def _write_frames(self, at_least: int) -> None:
        """Writes whole shards, so that no shard is read and written again, while `at_least` frames are waiting."""
        start = self._array.shape[0]
        take = (self._frames - start) // at_least * at_least
        if take == 0:
            return
        waiting = np.concatenate(self._waiting)
        self._array.resize((start + take, JOINTS, 3))
        self._array[start:] = waiting[:take]
        self._waiting = [waiting[take:]]


def _read_header(path: Path) -> dict:
    try:
        header = json.loads((path / "store.json").read_text(encoding="utf-8"))
    except OSError:
        problem = "is not a store (it has no store.json: another folder, or its writing was interrupted)"
        raise InputError(path, problem, "name a store written by launch/prepare.py") from None
    except ValueError:
        raise InputError(path / "store.json", "is not JSON", REWRITE) from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(path / "store.json: format", f"is not {FORMAT!r}", "name a store written by launch/prepare.py")
    if header.get("version") != VERSION:
        raise InputError(path / "store.json: version", f"is {header.get('version')}, not {VERSION}", REWRITE)
    for name in ("clips", "frames", "keypoint_source"):
        if name not in header:
            raise InputError(path / f"store.json: {name}", "is missing", REWRITE)
    return header
