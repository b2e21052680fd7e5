"""YouTube-ASL: youtube_asl_video_ids.txt, one id per line, and captions in its folder or in captions/ there.

Captions are as downloaded: ID.vtt or ID.LANGUAGE.vtt, .srt or .ttml, or .json as youtube-transcript-api writes it.
Every caption is a clip, called ID-000, ID-001, ...; a video without captions is one bad entry. If a video has captions
in several languages, those in the user's language are used. Other files in the folder are ignored.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from ...errors import InputError
from ..captions import Caption, find_captions, read_captions
from .entry import Row, split_in_name
from .label_file import LabelFile

NAME = "YouTube-ASL"


def matches(file: LabelFile) -> bool:
    return file.path.suffix.lower() == ".txt"


def read_rows(file: LabelFile) -> Iterator[Row]:
    folders = [file.path.parent, file.path.parent / "captions"]
    for number, video in enumerate(file.text.split(), 1):
        where = f"{file.path}: line {number}: {video}"
        try:
            source, captions = _captions_of(video, folders, file.language, where)
        except InputError as error:
            yield Row(where, error)
            continue
        for i, caption in enumerate(captions):
            times = {"start": caption.start, "end": caption.end}
            values = {"id": f"{video}-{i:03}", "text": caption.text, "recording": video, **times}
            yield Row(f"{source}: caption {i}", values | {"split": split_in_name(file.path)})


def _captions_of(video: str, folders: list[Path], language: str | None, where: str) -> tuple[Path, list[Caption]]:
    """The file of a video's captions in a language, and its captions. Raises InputError if there is none."""
    if not re.fullmatch(r"[\w-]+", video):
        raise InputError(where, "is not the name of a YouTube video", "give one name per line")
    errors = []
    for source in find_captions(video, folders, language, where):
        try:
            return source, read_captions(source)
        except InputError as error:
            errors.append(error)
    raise errors[0]
