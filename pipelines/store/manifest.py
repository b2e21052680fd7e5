"""The manifest: one JSON line per clip, in the order in which the clips' frames lie in the keypoint store.

A binary index lies beside it, so that a corpus of a million clips opens at once and takes no memory: 25 bytes a clip,
memory-mapped; lines are parsed when they are asked for.
"""

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import get_origin

import google_crc32c
import msgspec
import numpy as np

from ..atomic_io import sync_to_disk
from ..errors import InputError
from ..targets import LANGUAGES, Task

SPLITS = ("train", "dev", "test")  # of a corpus with labels
UNLABELLED = "unlabelled"  # the split of clips without a text: to be translated, not to train on or to score
ALL_SPLITS = (*SPLITS, UNLABELLED)
_KINDS = {str: "a text", int: "a whole number", float: "a number", dict: "texts by name"}
_INDEX = np.dtype(
    [("line", "<i8"), ("first_frame", "<i8"), ("frames", "<i4"), ("crc32c", "<u4"), ("split", "u1")]
)  # line: where the clip's line starts in the manifest; split: a number of ALL_SPLITS
_REMEDY = "write the store again with launch/prepare.py"


class Clip(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of a clip besides its keypoints."""

    id: str  # unique within a store
    split: str  # one of ALL_SPLITS
    language: str  # one of LANGUAGES: the language of `text`
    text: str  # the sentence (SLT) or the word (ISLR)
    gloss: str  # glosses joined by single spaces, "" if there are none
    first_frame: int  # where the clip starts in the keypoint array
    frames: int  # T
    fps: float
    width: int  # of the video, pixels
    height: int
    source: str  # video path, relative to the store or absolute; "" if there is no video
    crc32c: int  # of the clip's float16 bytes in the keypoint array
    translations: dict[str, str] = {}  # other languages -> text
    tags: dict[str, str] = {}  # free: signer, ...
    video_start: int = 0  # the video frame that keypoint frame 0 belongs to
    video_frames: int = 0  # frames of the whole video that can be decoded; 0 if it ends with the clip

    def target(self, task: Task, language: str | None = None) -> str:
        """What the model learns to say for `task`, in `language` (None: the clip's own).

        Raises InputError where the clip has no such text.
        """
        if task == "cslr":
            name, text = "gloss", self.gloss
        elif language is None or language == self.language:
            name, text = "text", self.text
        else:
            name, text = f"translations.{language}", self.translations.get(language, "")
        if not text.strip():
            problem = f"is empty, and {task} needs it"
            raise InputError(f"clip {self.id}: {name}", problem, "label the clip or leave it out")
        return text


_DECODER = msgspec.json.Decoder(Clip)
_TYPES = {name: get_origin(kind) or kind for name, kind in Clip.__annotations__.items()}
_REMEDIES = {
    "id": "give the clip a name",
    "split": f"use one of {', '.join(ALL_SPLITS)}",
    "language": f"use one of {', '.join(LANGUAGES)}",
    "frames": "leave the clip out",
    "fps": "give the frames per second",
    "width": "give the width in pixels",
    "height": "give the height in pixels",
    "video_start": "count video frames from 0",
    "video_frames": "the clip ends at video frame {end}",
}


class Manifest(Sequence[Clip]):
    """The clips of a manifest; threads may share it."""

    def __init__(self, path: Path, clips: int, size: int):
        """The first `clips` clips of manifest `path`, in its first `size` bytes; InputError if they aren't there."""
        self.path, self._size = path, size
        for file, wanted in ((path, size), (index_file(path), clips * _INDEX.itemsize)):
            try:
                result = file.stat().st_size
            except OSError as error:
                raise InputError(file, f"cannot be read ({error.strerror})", _REMEDY) from None
            if result < wanted:
                raise InputError(file, f"has {result} bytes, store.json says {wanted}", _REMEDY)
        self._text = np.asarray(np.memmap(path, np.uint8, "r", shape=(size,)) if size else np.zeros(0, np.uint8))
        index = index_file(path)
        self._index = np.asarray(np.memmap(index, _INDEX, "r", shape=(clips,)) if clips else np.zeros(0, _INDEX))
        self._line = self._index["line"]

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, number: int) -> Clip:
        """Raises InputError, naming line and field, if that line is not the clip that was written."""
        line, first_frame, frames, crc32c, _ = self._index[number].item()  # an IndexError ends iteration
        number %= len(self)
        end = int(self._line[number + 1]) if number + 1 < len(self) else self._size
        where = f"{self.path}: line {number + 1}"
        clip = _parse(where, self._text[line:end].tobytes())
        for name, value in (("first_frame", first_frame), ("frames", frames), ("crc32c", crc32c)):
            if getattr(clip, name) != value:
                raise InputError(f"{where}: {name}", f"is {getattr(clip, name)}, the index says {value}", _REMEDY)
        return clip

    @property
    def frames(self) -> np.ndarray:
        """Frames of every clip."""
        return self._index["frames"]

    @property
    def crc32c(self) -> np.ndarray:
        """The checksum of every clip's keypoints."""
        return self._index["crc32c"]

    @property
    def total_frames(self) -> int:
        """Frames of all clips together."""
        return int(self._index[-1]["first_frame"] + self._index[-1]["frames"]) if len(self) else 0

    def of_split(self, split: str) -> np.ndarray:
        """The numbers of a split's clips, int64 ascending."""
        return np.flatnonzero(self._index["split"] == ALL_SPLITS.index(split))

    def verify(self, crc32c: int) -> None:
        """Reads every line. Raises InputError on the first bad one, an id that occurs twice, or another checksum."""
        ids, frames = set(), 0
        for clip in self:
            where = f"{self.path}: clip {clip.id}"
            if clip.first_frame != frames:
                raise InputError(f"{where}: first_frame", f"is {clip.first_frame}, not {frames}", _REMEDY)
            if clip.id in ids:
                raise InputError(f"{where}: id", "occurs twice", _REMEDY)
            ids.add(clip.id)
            frames += clip.frames
        if google_crc32c.value(self._text) != crc32c:
            raise InputError(self.path, "does not match its checksum in store.json", _REMEDY)


class ManifestWriter:
    """Appends clips to a manifest and its index, behind the first `clips` clips in `size` bytes of this checksum."""

    def __init__(self, path: Path, clips: int = 0, size: int = 0, crc32c: int = 0):
        self.size, self.crc32c, self.clips = size, crc32c, clips
        self._files = [open(file, "ab") for file in (path, index_file(path))]
        for file, kept in zip(self._files, (size, clips * _INDEX.itemsize)):
            file.truncate(kept)

    def append(self, clip: Clip) -> None:
        """One line, and its entry in the index."""
        line = json.dumps(msgspec.structs.asdict(clip), ensure_ascii=False).encode() + b"\n"
        entry = (self.size, clip.first_frame, clip.frames, clip.crc32c, ALL_SPLITS.index(clip.split))
        for file, content in zip(self._files, (line, np.array(entry, _INDEX).tobytes())):
            file.write(content)
        self.size += len(line)
        self.crc32c = google_crc32c.extend(self.crc32c, line)
        self.clips += 1

    def close(self) -> None:
        """Returns when everything is on disk."""
        for file in self._files:
            file.close()
            sync_to_disk(Path(file.name))

    def abandon(self) -> None:
        """Closes the files, whatever became of what was appended."""
        for file in self._files:
            with suppress(OSError):  # of a full disk, once more
                file.close()


def index_file(manifest: Path) -> Path:
    """Where the index of a manifest is."""
    return manifest.with_suffix(".index")


def check_clip(where: object, clip: Clip) -> None:
    """Raises InputError, its place starting with `where`, unless every field has its type and a possible value."""
    for name, kind in _TYPES.items():
        value = getattr(clip, name)
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise InputError(f"{where}: {name}", f"is {value!r}", f"give {_KINDS[kind]}")
        if kind is dict and value and not all(type(x) is str for pair in value.items() for x in pair):
            raise InputError(f"{where}: {name}", f"is {value!r}", f"give {_KINDS[kind]}")
    _check_values(where, clip)


def _check_values(where: object, clip: Clip) -> None:
    end = clip.video_start + clip.frames
    good = {
        "id": clip.id != "",
        "split": clip.split in ALL_SPLITS,
        "language": clip.language in LANGUAGES,
        "frames": clip.frames > 0,
        "fps": math.isfinite(clip.fps) and clip.fps > 0,
        "width": clip.width > 0,
        "height": clip.height > 0,
        "video_start": clip.video_start >= 0,
        "video_frames": clip.video_frames == 0 or clip.video_frames >= end,
    }
    for name in good:
        if not good[name]:
            raise InputError(f"{where}: {name}", f"is {getattr(clip, name)!r}", _REMEDIES[name].format(end=end))


def _parse(where: str, line: bytes) -> Clip:
    try:
        clip = _DECODER.decode(line)
    except msgspec.MsgspecError as error:
        with suppress(ValueError, TypeError):
            check_clip(where, Clip(**json.loads(line)))  # says which field has another type
        raise InputError(where, f"is not a clip ({error})", _REMEDY) from None
    _check_values(where, clip)
    return clip
