"""Caption files beside a video: which one is in a language, and its captions.

SRT, WebVTT and TTML are read by pysubs2; NAME.json as youtube-transcript-api writes it: [{text, start, duration}].
"""

import glob
import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..input_files import read_json, read_text
from ..targets import language_name
from .ttml import MAX_TEXT, REMEDY, checked_ttml

SUFFIXES = (".vtt", ".srt", ".ttml", ".json")
MAX_BYTES = 16 * 2**20  # bytes of a file; a day of captions takes about 3 MB


@dataclass(frozen=True)
class Caption:
    """A text on the screen, its lines separated by newlines, from `start` to `end` in seconds."""

    start: float
    end: float
    text: str


def find_captions(name: str, folders: Sequence[Path], language: str | None, where: object) -> list[Path]:
    """The usable caption files NAME.SUFFIX and NAME.LANGUAGE.SUFFIX in `folders`, best first. Files in `language`
    (None: there must be only one language) come before files whose names give no language. Raises InputError, naming
    `where`, if there is none.
    """
    paths = (file for folder in folders for file in sorted(folder.glob(f"{glob.escape(name)}.*")))
    named = {file: language_of(file, name) for file in paths if file.suffix.lower() in SUFFIXES}
    if not named:
        problem = f"has no captions {name}*.vtt, .srt, .ttml or .json in {folders[0]}"
        raise InputError(where, problem, "download them, or leave the video out")
    spoken = {one for one in named.values() if one}
    if language is None and len(spoken) > 1:
        problem = f"has captions in several languages: {', '.join(sorted(spoken))}"
        raise InputError(where, problem, "say --language, or keep those of one language")
    files = list(named)
    if language and language in spoken:
        files = [file for file in files if named[file] == language]
    elif language and spoken:  # a name without a language may be in any language
        files = [file for file in files if not named[file]]
        if not files:
            problem = f"has captions in {', '.join(sorted(spoken))} and none in {language}"
            raise InputError(where, problem, "download them, or leave the video out")
    return sorted(files, key=lambda file: (not named[file], len(file.name)))


def language_of(file: Path, name: str) -> str:
    """The language in the name of a caption file of video `name`, as yt-dlp writes it (NAME.en.vtt, NAME.en-US.vtt).

    "" if the name gives none.
    """
    words = file.name.removeprefix(f"{name}.").split(".")
    code = words[-2].split("-")[0].split("_")[0].lower() if len(words) > 1 else ""
    return code if len(code) == 2 and language_name(code) else ""


def read_captions(path: Path) -> list[Caption]:
    """All captions of a file in its order, markup removed. Some may have no text, or end before they start.

    Raises InputError if the file cannot be read or is too large.
    """
    captions = _of_json(path) if path.suffix.lower() == ".json" else _of_subtitles(path)
    if any(len(caption.text) > MAX_TEXT for caption in captions):
        raise InputError(path, f"has a caption of more than {MAX_TEXT} characters", REMEDY)
    return captions


def _of_json(path: Path) -> list[Caption]:
    rows: Any = read_json(path, "download the captions again", MAX_BYTES)
    try:
        times = [(float(row["start"]), float(row["duration"]), row["text"]) for row in rows]
    except (TypeError, KeyError, ValueError, OverflowError):
        raise InputError(path, "holds no list of text, start and duration", "download the captions again") from None
    if not all(isinstance(text, str) and math.isfinite(start + length) for start, length, text in times):
        raise InputError(path, "holds no list of text, start and duration", "download the captions again")
    return [Caption(start, start + length, text) for start, length, text in times]


def _of_subtitles(path: Path) -> list[Caption]:
    from pysubs2 import SSAFile  # late import: only captions need it

    text = read_text(path, MAX_BYTES).replace("\r\n", "\n").replace("\r", "\n")
    kind = path.suffix.lower().removeprefix(".")
    text = checked_ttml(path, text) if kind == "ttml" else _blocks(text)
    try:
        # Remove tags here: the parser's own regular expressions take quadratic time on some texts.
        options = {} if kind == "ttml" else {"keep_html_tags": True}
        events = SSAFile.from_string(text, kind, **options).events
    except (ValueError, KeyError, NotImplementedError, RecursionError, OverflowError) as error:
        raise InputError(path, f"cannot be read ({type(error).__name__}: {error})", REMEDY) from None
    return [Caption(e.start / 1000, e.end / 1000, _plain(e.text)) for e in events]


def _plain(text: str) -> str:
    """Removes SubStation override tags and HTML tags, in linear time."""
    text = re.sub(r"\\[Nn]", "\n", re.sub(r"\{[^{}]*\}", "", text)).replace("\\h", " ")
    return html.unescape(re.sub(r"<[^<>]*>", "", text)).strip()


def _blocks(text: str) -> str:
    """SRT or WebVTT reduced to its cues: pysubs2 appends comments and cue names to the preceding caption."""
    blocks = re.split(r"\n[ \t]*(?=\n)", text)
    cues = [block.strip("\n") for block in blocks if "-->" in block]
    return "\n\n".join(cue[_cue_start(cue) :] for cue in cues) + "\n"


def _cue_start(cue: str) -> int:
    """Index of the line with the times; a line before it is the cue's name."""
    return cue.rfind("\n", 0, cue.index("-->")) + 1
