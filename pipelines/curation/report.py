"""How programmes became a release: the numbers of its report, read from release.json and quality.jsonl.

unisign_fast/report/corpus_page.py draws them. They include the paper's Figures 2 and 8 and its row of Table 1.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from ..corpus.statistics import units_of
from ..errors import InputError
from ..input_files import read_bytes
from ..targets import language_code
from .lag import GATE
from .records import Lag

REMEDY = "name a release, OUT/releases/DIGEST or OUT/current, that curate.py finished"
T = TypeVar("T")


class _Programme(msgspec.Struct):
    source: str
    series: str
    language: str
    licence: str
    seconds: float
    lag: Lag
    parts: list[str] = []
    missing_parts: int = 0


class _Release(msgspec.Struct):
    programmes: list[_Programme]


class _Clip(msgspec.Struct):
    """A line of quality.jsonl."""

    source: str
    series: str
    split: str
    language: str
    text: str
    start: float
    end: float
    quality: dict[str, float] | None = None
    reasons: list[str] = []


class _Part(msgspec.Struct):
    """part.json: frames, their rate, and the computing time in seconds."""

    frames: int
    fps: float
    seconds: float


@dataclass
class Stage:
    """How much remains after a stage."""

    name: str
    unit: str
    count: int = 0
    seconds: float = 0.0


@dataclass
class Series:
    """The programmes of a series, and how much of them was kept."""

    name: str
    language: str
    licences: set[str] = field(default_factory=set)
    programmes: int = 0
    seconds: float = 0.0
    sentences: int = 0
    clips: int = 0
    clip_seconds: float = 0.0


@dataclass
class ProgrammeLag:
    """The lag that was applied to a programme, and whether it was estimated from the programme or its series."""

    source: str
    series: str
    lag: Lag

    @property
    def estimated(self) -> bool:
        """False for a given lag, also where an estimate was not sure enough."""
        return self.lag.confidence >= GATE


@dataclass
class Texts:
    """The clips of one language: seconds, characters or words a text, and how often each of these occurs."""

    seconds: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    vocabulary: Counter[str] = field(default_factory=Counter)


@dataclass
class CorpusReport:
    """The numbers of a release."""

    release: Path
    stages: list[Stage]
    reasons: list[tuple[str, int]] = field(default_factory=list)  # the most frequent first; a clip may have several
    series: list[Series] = field(default_factory=list)
    lags: list[ProgrammeLag] = field(default_factory=list)
    texts: dict[str, Texts] = field(default_factory=dict)  # by language code, of the clips kept
    splits: Counter[str] = field(default_factory=Counter)  # clips kept
    real_time: float | None = None  # seconds of programme a second of a worker; None where parts are gone


def read_corpus_report(release: Path) -> CorpusReport:
    """The numbers of a finished release. Raises InputError if it is not one, or a file in it is damaged."""
    record = _read(release / "release.json", _Release)
    programmes, sentences, posed, kept = (
        Stage("programmes", "programmes"),
        Stage("sentences in their texts", "clips"),
        Stage("sentences with poses", "clips"),
        Stage("clips in the release", "clips"),
    )
    report = CorpusReport(release, [programmes, sentences, posed, kept])
    series: dict[str, Series] = {}
    for one in record.programmes:
        own = series.setdefault(one.series, Series(one.series, one.language))
        own.licences.add(one.licence)
        own.programmes += 1
        own.seconds += one.seconds
        _count(programmes, one.seconds)
        report.lags.append(ProgrammeLag(one.source, one.series, one.lag))
    reasons: Counter[str] = Counter()
    for clip in _clips(release / "quality.jsonl"):
        own = series.setdefault(clip.series, Series(clip.series, clip.language))
        own.sentences += 1
        _count(sentences, clip.end - clip.start)
        reasons.update(clip.reasons)
        if clip.quality is not None:
            seconds = clip.quality.get("seconds", 0.0)
            _count(posed, seconds)
            if not clip.reasons:
                _count(kept, seconds)
                _keep(report, own, clip, seconds)
    report.reasons = reasons.most_common()
    report.series = list(series.values())
    report.real_time = _real_time(release, record)
    return report


def _count(stage: Stage, seconds: float) -> None:
    stage.count += 1
    stage.seconds += seconds


def _keep(report: CorpusReport, series: Series, clip: _Clip, seconds: float) -> None:
    series.clips += 1
    series.clip_seconds += seconds
    report.splits[clip.split] += 1
    language = language_code(clip.language)
    texts, units = report.texts.setdefault(language, Texts()), units_of(clip.text, language)
    texts.seconds.append(seconds)
    texts.lengths.append(len(units))
    texts.vocabulary.update(units)


def _real_time(release: Path, record: _Release) -> float | None:
    """Seconds of the finished parts, divided by the seconds of work they took."""
    folder = release.resolve().parent.parent / "parts"
    keys = {key for programme in record.programmes for key in programme.parts}
    files = [file for key in sorted(keys) if (file := folder / key / "part.json").is_file()]
    parts = [_read(file, _Part) for file in files]
    work = sum(part.seconds for part in parts)
    return sum(part.frames / part.fps for part in parts) / work if work > 0 else None


def _clips(path: Path) -> Iterator[_Clip]:
    decoder = msgspec.json.Decoder(_Clip)
    for number, line in enumerate(read_bytes(path, remedy=REMEDY).splitlines(), 1):
        yield _decoded(f"{path}: line {number}", line, decoder)


def _read(path: Path, kind: type[T]) -> T:
    return _decoded(path, read_bytes(path, remedy=REMEDY), msgspec.json.Decoder(kind))


def _decoded(where: object, content: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    try:
        return decoder.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(
            where, f"is damaged ({error})", "delete the release and run `curate.py finish` again"
        ) from None
