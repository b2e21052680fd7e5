"""The metadata of a clip, a line of the manifest, and what its fields may hold."""

import math
from contextlib import suppress
from typing import Any, get_origin

import msgspec

from ..errors import InputError
from ..input_files import parse_json
from ..targets import Task, language_code, language_name

SPLITS = ("train", "dev", "test")  # splits of a corpus with labels
UNLABELLED = "unlabelled"  # clips without a text: for translation only, not for training or scoring
ALL_SPLITS = (*SPLITS, UNLABELLED)
_KINDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    dict: "texts by name",
    tuple: "left, top, right, bottom in pixels",
}
WRITE_AGAIN = "write the store again with launch/prepare.py"


class Clip(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The metadata of a clip."""

    id: str  # unique within a store
    split: str  # one of ALL_SPLITS
    language: str  # language of `text`: CODE or CODE=NAME (pipelines/targets.py)
    text: str  # the sentence (SLT) or the word (ISLR)
    gloss: str  # glosses joined by single spaces, "" if there are none
    first_frame: int  # where the clip starts in the keypoint array
    frames: int  # T
    fps: float
    width: int  # size of the video in pixels
    height: int
    source: str  # video path, relative to the store or absolute; "" if there is no video
    crc32c: int  # checksum of the clip's float16 bytes in the keypoint array
    translations: dict[str, str] = {}  # codes of other languages -> text
    tags: dict[str, str] = {}  # free: signer, ...
    video_start: int = 0  # the video frame of keypoint frame 0
    video_frames: int = 0  # frames of the whole video that can be decoded; 0 if it ends with the clip
    box: tuple[int, ...] = ()  # the part of the video's picture that the clip shows, as VideoFile's; (): all of it

    def target(self, task: Task, language: str | None = None) -> str:
        """The target text for `task`, in `language` (None: the clip's own).

        Raises InputError where the clip has no such text.
        """
        if task == "cslr":
            name, text = "gloss", self.gloss
        elif language is None or language_code(language) == language_code(self.language):
            name, text = "text", self.text
        else:
            code = language_code(language)
            name, text = f"translations.{code}", self.translations.get(code, "")
        if not text.strip():
            problem = f"is empty, and {task} needs it"
            raise InputError(f"clip {self.id}: {name}", problem, "label the clip or leave it out")
        return text


_DECODER = msgspec.json.Decoder(Clip)
_TYPES: dict[str, Any] = {name: get_origin(kind) or kind for name, kind in Clip.__annotations__.items()}
_REMEDIES = {
    "id": "give the clip a name",
    "split": f"use one of {', '.join(ALL_SPLITS)}",
    "language": "use a code of BCP-47 or ISO 639, or CODE=NAME",
    "frames": "leave the clip out",
    "fps": "give the frames per second",
    "width": "give the width in pixels",
    "height": "give the height in pixels",
    "video_start": "count video frames from 0",
    "video_frames": "the clip ends at video frame {end}",
    "box": "give left, top, right, bottom in pixels of the video; width and height are the box's",
}


def check_clip(where: object, clip: Clip) -> None:
    """Raises InputError, naming `where` and the field, unless every field has its type and a valid value."""
    for name, kind in _TYPES.items():
        value = getattr(clip, name)
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise InputError(f"{where}: {name}", f"is {value!r}", f"give {_KINDS[kind]}")
        if isinstance(value, dict) and not all(type(x) is str for pair in value.items() for x in pair):
            raise InputError(f"{where}: {name}", f"is {value!r}", f"give {_KINDS[kind]}")
    _check_values(where, clip)


def _check_values(where: object, clip: Clip) -> None:
    end = clip.video_start + clip.frames
    box = clip.box or (0, 0, clip.width, clip.height)
    good = {
        "id": clip.id != "",
        "split": clip.split in ALL_SPLITS,
        "language": language_name(clip.language) is not None,
        "frames": clip.frames > 0,
        "fps": math.isfinite(clip.fps) and clip.fps > 0,
        "width": clip.width > 0,
        "height": clip.height > 0,
        "video_start": clip.video_start >= 0,
        "video_frames": clip.video_frames == 0 or clip.video_frames >= end,
        "box": len(box) == 4 and min(box) >= 0 and (box[2] - box[0], box[3] - box[1]) == (clip.width, clip.height),
    }
    for name in good:
        if not good[name]:
            raise InputError(f"{where}: {name}", f"is {getattr(clip, name)!r}", _REMEDIES[name].format(end=end))


def parse_clip(where: str, line: bytes) -> Clip:
    """Parse a line of the manifest. Raises InputError, naming `where` and the field, if it is not a clip."""
    try:
        clip = _DECODER.decode(line)
        _check_values(where, clip)
        return clip
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        reason = f"is not a clip ({error})"
    try:
        values = parse_json(line, where)
    except InputError:
        values = None
    if isinstance(values, dict):
        with suppress(TypeError):
            check_clip(where, Clip(**values))  # names the field of the wrong type
    raise InputError(where, reason, WRITE_AGAIN)
