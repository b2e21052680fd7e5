"""The manifest: one JSON line per clip, in the order in which the clips' frames lie in the keypoint store."""

import json
import math
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from pipelines.errors import InputError

SPLITS = ("train", "dev", "test")
LANGUAGES = ("zh", "en")
TASKS = ("slt", "cslr", "islr")
_KINDS = {str: "a text", int: "a whole number", float: "a number", dict[str, str]: "texts by name"}


@dataclass(frozen=True)
class Clip:
    """What is known of a clip besides its keypoints."""

    id: str  # unique within a store
    split: str  # one of SPLITS
    language: str  # one of LANGUAGES: the language of `text`
    text: str  # the sentence (SLT) or the word (ISLR)
    gloss: str  # glosses joined by single spaces, "" if there are none
    first_frame: int  # where the clip starts in the keypoint array
    frames: int  # T
    fps: float
    width: int  # of the video, pixels
    height: int
    source: str  # video path, relative to the store or absolute; "" if there is no video
    crc32: int  # of the clip's float16 bytes in the keypoint array
    translations: dict[str, str] = field(default_factory=dict)  # other languages -> text
    tags: dict[str, str] = field(default_factory=dict)  # free: signer, ...
    video_start: int = 0  # the video frame that keypoint frame 0 belongs to
    video_frames: int = 0  # frames of the whole video that can be decoded; 0 if it ends with the clip

    def target(self, task: str, language: str | None = None) -> str:
        """What the model learns to say for `task` ("slt", "cslr", "islr"), in `language` (None: the clip's own).

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


def write_manifest(path: Path, clips: list[Clip]) -> None:
    """Writes one JSON line per clip, and returns only when the file is on disk."""
    with open(path, "w", encoding="utf-8") as file:
        for clip in clips:
            file.write(json.dumps(asdict(clip), ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_manifest(path: Path) -> list[Clip]:
    """The clips of a manifest, each checked. Raises InputError naming the line and field."""
    remedy = "name a store written by launch/prepare.py"
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", remedy) from None
    except UnicodeDecodeError:
        raise InputError(path, "is not UTF-8 text", remedy) from None
    clips = [_parse(f"{path}: line {number}", line) for number, line in enumerate(lines, 1) if line]
    frames, ids = 0, set()
    for clip in clips:
        where = f"{path}: clip {clip.id}"
        if clip.first_frame != frames:
            raise InputError(f"{where}: first_frame", f"is {clip.first_frame}, not {frames}", "write the store again")
        if clip.id in ids:
            raise InputError(f"{where}: id", "occurs twice", "write the store again")
        frames += clip.frames
        ids.add(clip.id)
    return clips


def check_clip(where: object, clip: Clip) -> None:
    """Raises InputError, its place starting with `where`, unless every field has its type and a possible value."""
    for f in fields(Clip):
        value = getattr(clip, f.name)
        if f.name in ("translations", "tags"):
            good = isinstance(value, dict) and all(isinstance(x, str) for pair in value.items() for x in pair)
        else:
            good = isinstance(value, (int, float) if f.type is float else f.type) and not isinstance(value, bool)
        if not good:
            raise InputError(f"{where}: {f.name}", f"is {value!r}", f"give {_KINDS[f.type]}")
    end = clip.video_start + clip.frames
    checks = {
        "id": (clip.id != "", "give the clip a name"),
        "split": (clip.split in SPLITS, f"use one of {', '.join(SPLITS)}"),
        "language": (clip.language in LANGUAGES, f"use one of {', '.join(LANGUAGES)}"),
        "frames": (clip.frames > 0, "leave the clip out"),
        "fps": (math.isfinite(clip.fps) and clip.fps > 0, "give the frames per second"),
        "width": (clip.width > 0, "give the width in pixels"),
        "height": (clip.height > 0, "give the height in pixels"),
        "video_start": (clip.video_start >= 0, "count video frames from 0"),
        "video_frames": (clip.video_frames == 0 or clip.video_frames >= end, f"the clip ends at video frame {end}"),
    }
    for name, (good, remedy) in checks.items():
        if not good:
            raise InputError(f"{where}: {name}", f"is {getattr(clip, name)!r}", remedy)


def _parse(where: str, line: str) -> Clip:
    try:
        row = json.loads(line)
        clip = Clip(**row)
    except (json.JSONDecodeError, TypeError) as error:
        raise InputError(where, f"is not a clip ({error})", "write the store again") from None
    check_clip(where, clip)
    return clip
