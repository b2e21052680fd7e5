"""Output of translate.py: a JSON line for each window, or subtitles of one video."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryFile
from typing import Protocol

from unisign_fast.inference.translator import Translation
from unisign_fast.pipelines.atomic_io import replace_text, writing_to
from unisign_fast.pipelines.errors import InputError

SUBTITLES = {".srt": "srt", ".vtt": "vtt"}


class Writer(Protocol):
    """Takes translations one by one."""

    def __call__(self, translation: Translation, /) -> None: ...


def check_output(out: Path | None, recordings: int) -> None:
    """Raises InputError unless `recordings` clips can be written to `out`. Creates its folder."""
    if out is None:
        return
    if out.suffix not in (".jsonl", *SUBTITLES):
        raise InputError(f"--out {out}", "has an unknown suffix", f"name a .jsonl, {' or '.join(SUBTITLES)} file")
    if out.suffix in SUBTITLES and recordings > 1:
        remedy = "translate one, or write .jsonl"
        raise InputError(f"--out {out}", f"subtitles hold one video, but {recordings} clips are given", remedy)
    if out.is_dir():
        raise InputError(f"--out {out}", "is a folder", "name a file")
    with writing_to(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=out.parent).close()


@contextmanager
def open_output(out: Path | None) -> Iterator[Writer]:
    """A writer to `out`, which is written as a whole when the block ends, by Ctrl-C too; None: to standard output, line
    by line.
    """
    if out is None:
        yield lambda translation: print(json_line(translation), flush=True)
        return
    kept: list[Translation] = []
    try:
        yield kept.append
    except KeyboardInterrupt:
        if kept:
            replace_text(out, _as_text(kept, out.suffix))
        raise
    replace_text(out, _as_text(kept, out.suffix))


def _as_text(translations: list[Translation], suffix: str) -> str:
    if suffix in SUBTITLES:
        return subtitles(translations, SUBTITLES[suffix])
    return "".join(f"{json_line(translation)}\n" for translation in translations)


def json_line(translation: Translation) -> str:
    """All fields except the beams, floats rounded to a thousandth."""
    row = {name: value for name, value in asdict(translation).items() if name != "beams"}
    rounded = {name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()}
    return json.dumps(rounded, ensure_ascii=False)


def subtitles(translations: Iterable[Translation], format: str) -> str:
    """The texts as SRT or WebVTT; a window that overlaps the next one ends where the next one starts."""
    from pysubs2 import SSAEvent, SSAFile

    cues = [translation for translation in translations if translation.text.strip()]
    ends = [min(cue.end, after.start) for cue, after in zip(cues, cues[1:])] + [cue.end for cue in cues[-1:]]
    file = SSAFile()
    file.events = [
        SSAEvent(round(1000 * cue.start), round(1000 * end), cue.text) for cue, end in zip(cues, ends, strict=True)
    ]
    return file.to_string(format)


def write_all(results: Iterable[Translation | InputError], write: Writer) -> tuple[int, int]:
    """Writes each translation and reports unusable inputs on stderr; returns the number of each."""
    written = unusable = 0
    for result in results:
        if isinstance(result, InputError):
            unusable += 1
            print(f"left out: {result}", file=sys.stderr, flush=True)
        else:
            written += 1
            write(result)
    return written, unusable
