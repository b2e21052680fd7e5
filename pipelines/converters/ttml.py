"""TTML captions, prepared for pysubs2: checked, and all their times in seconds.

pysubs2 reads clock times and offsets in h, m, s and ms only. Frames and ticks count by the document's ttp:frameRate,
ttp:frameRateMultiplier, ttp:subFrameRate and ttp:tickRate (TTML1, sections 6.2 and 10.3).
"""

import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from ..errors import InputError

MAX_TEXT = 10_000  # characters of a caption
LATEST = 1e6  # seconds
MAX_ELEMENTS = 1_000  # XML elements in a caption
REMEDY = "download the captions again, or leave the video out"
_TTML = "{http://www.w3.org/ns/ttml}"
_PARAMETER = "{http://www.w3.org/ns/ttml#parameter}"
_OFFSET = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|f|t)")
_CLOCK = re.compile(r"(?:(?:(\d+):)?(\d\d?):)?(\d\d(?:\.\d+)?)")
_FRAMES = re.compile(r"(\d+):(\d\d):(\d\d):(\d+)(?:\.(\d+))?")


@dataclass(frozen=True)
class _Rates:
    frames: float  # per second
    subframes: float  # per frame
    ticks: float  # per second

    def seconds(self, expression: str) -> float:
        """The seconds of a time expression. Raises ValueError if it is not one."""
        text = expression.strip()
        if match := _OFFSET.fullmatch(text):
            units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "f": 1 / self.frames, "t": 1 / self.ticks}
            return float(match[1]) * units[match[2]]
        if match := _CLOCK.fullmatch(text):
            return 3600 * int(match[1] or 0) + 60 * int(match[2] or 0) + float(match[3])
        if match := _FRAMES.fullmatch(text):
            hours, minutes, seconds, frames, subframes = (int(part or 0) for part in match.groups())
            return 3600 * hours + 60 * minutes + seconds + (frames + subframes / self.subframes) / self.frames
        raise ValueError(expression)


def checked_ttml(path: Path, text: str) -> str:
    """The document without the parts that pysubs2 silently ignores or needs quadratic time for.

    Raises InputError if it is not XML, declares entities, has impossible times, or captions outside body/div/p.
    """
    if "<!" in text.replace("<!--", "").replace("<![CDATA[", ""):
        raise InputError(path, "is XML with a document type", "remove the DOCTYPE")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, RecursionError, ValueError, LookupError) as error:
        raise InputError(path, f"is not XML ({error})", REMEDY) from None
    paragraphs = [element for element in root.iter() if str(element.tag).rpartition("}")[2] == "p"]
    if len(paragraphs) != len(root.findall(f"{_TTML}body/{_TTML}div/{_TTML}p")):
        raise InputError(path, "has captions that are not in TTML's body/div/p", "convert the captions to WebVTT")
    for paragraph in paragraphs:
        if sum(1 for _ in paragraph.iter()) > MAX_ELEMENTS or sum(map(len, paragraph.itertext())) > MAX_TEXT:
            raise InputError(path, f"has a caption of more than {MAX_TEXT} characters or {MAX_ELEMENTS} tags", REMEDY)
    rates = _rates(path, root)
    for element in (*root.findall(f"{_TTML}body"), *root.findall(f"{_TTML}body/{_TTML}div"), *paragraphs):
        for name in ("begin", "end", "dur"):
            if name in element.attrib:
                written = "duration" if name == "dur" else name  # pysubs2 uses another name for it
                element.set(written, _offset(path, rates, element.attrib.pop(name)))
    return ElementTree.tostring(root, "unicode")


def _offset(path: Path, rates: _Rates, expression: str) -> str:
    try:
        seconds = rates.seconds(expression)
    except (ValueError, OverflowError):
        seconds = LATEST
    if not seconds < LATEST:
        raise InputError(path, f"has a time {expression[:40]!r}", "convert the captions to WebVTT")
    return f"{seconds:.3f}s"


def _rates(path: Path, root: ElementTree.Element) -> _Rates:
    """The document's rates. Raises InputError if one is not a positive number, or if it uses drop-frame timecode."""

    def parameter(name: str, default: str) -> str:
        return root.attrib.get(f"{_PARAMETER}{name}", default)

    if parameter("dropMode", "nonDrop") != "nonDrop":
        raise InputError(path, "uses drop-frame timecode", "convert the captions to WebVTT")
    try:
        over, under = (float(part) for part in re.split(r"[\s:]+", parameter("frameRateMultiplier", "1 1").strip()))
        frames = float(parameter("frameRate", "30")) * over / under
        subframes = float(parameter("subFrameRate", "1"))
        by_frames = str(frames * subframes) if f"{_PARAMETER}frameRate" in root.attrib else "1"
        ticks = float(parameter("tickRate", by_frames))
    except (ValueError, ZeroDivisionError):
        problem = "has a frame or tick rate that is not a number"
        raise InputError(path, problem, "convert the captions to WebVTT") from None
    if not all(0 < rate < 1e9 for rate in (frames, subframes, ticks)):
        raise InputError(path, "has a frame or tick rate that is impossible", "convert the captions to WebVTT")
    return _Rates(frames, subframes, ticks)
