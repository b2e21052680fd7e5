"""The programmes of a corpus: `sources.toml`, with a table [[series]] for each series, and their files.

[[series]]
name = "evening-news"
files = "news/*.mp4"            # relative to this file
box = [0.7, 0.5, 1.0, 1.0]      # the signer: left, top, right, bottom as fractions of the picture
language = "en"                 # of speech and captions
licence = "CC BY 4.0"           # under which the programmes may be used
consent = "signed 2026-03-02, archive no. 7"
lag = 2.7                       # seconds from speech to signing, where no lag is estimated
estimate_lag = true

[series.dates]                  # of programmes whose file names have none (2026-05-31 or 20260531)
"special.mp4" = 2026-05-31

[splits]                        # by programme date; without this table, all clips are for training
dev_from = 2026-05-01
test_from = 2026-06-01
"""

import hashlib
import re
import tomllib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import msgspec

from ..atomic_io import replace_json
from ..crops.video import VIDEO_SUFFIXES
from ..errors import InputError
from ..file_names import is_hidden
from ..input_files import read_json, read_text
from ..targets import language_name

_DATE = re.compile(r"(?<!\d)(\d{4})-?(\d\d)-?(\d\d)(?!\d)")
_PIECE = 2**22  # bytes
_READABLE = "check the file and its permissions"
_THREADS = 4  # for checksums; hashlib releases the GIL


@dataclass(frozen=True)
class Series:
    """Programmes of one kind, which show the signer in the same place."""

    name: str
    files: str  # glob, relative to sources.toml
    box: tuple[float, float, float, float]  # left, top, right, bottom as fractions of the picture
    language: str
    licence: str
    consent: str
    lag: float = 0.0  # seconds
    estimate_lag: bool = True
    dates: dict[str, date] = field(default_factory=dict)  # file name -> date


@dataclass(frozen=True)
class Splits:
    """Programmes from these dates on are dev and test; earlier ones are train."""

    dev_from: date | None = None
    test_from: date | None = None

    def split(self, day: date | None) -> str:
        """train, dev or test."""
        if self.test_from and day and day >= self.test_from:
            return "test"
        return "dev" if self.dev_from and day and day >= self.dev_from else "train"


@dataclass(frozen=True)
class Sources:
    """The content of sources.toml."""

    series: list[Series]
    splits: Splits = Splits()


@dataclass(frozen=True)
class Programme:
    """A video file of a series, identified by the SHA-256 of its content."""

    series: str
    path: Path
    content: str  # SHA-256
    day: date | None

    @property
    def source_id(self) -> str:
        """The name of the source in clips, parts and releases."""
        return self.content[:16]


def read_sources(path: Path) -> Sources:
    """Read sources.toml. Raises InputError naming table and field if a value is missing, unknown or invalid."""
    try:
        values = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise InputError(path, f"is not TOML ({error})", "correct it as docs/curation.md shows") from None
    for number, table in enumerate(_tables(values)):
        unknown = table.keys() - Series.__dataclass_fields__.keys()
        if unknown:
            remedy = f"use {', '.join(Series.__dataclass_fields__)}"
            raise InputError(f"{path}: series {number + 1}: {min(unknown)}", "is not known", remedy)
    try:
        sources = msgspec.convert(values, Sources)
    except msgspec.ValidationError as error:
        raise InputError(path, str(error), "correct it as docs/curation.md shows") from None
    _check(path, sources)
    return sources


def _tables(values: dict) -> list[dict]:
    series = values.get("series")
    return [table for table in series if isinstance(table, dict)] if isinstance(series, list) else []


def _check(path: Path, sources: Sources) -> None:
    if not sources.series:
        raise InputError(f"{path}: series", "there is none", "add a table [[series]]")
    names: set[str] = set()
    for series in sources.series:
        left, top, right, bottom = series.box
        given = "describe it in words: they are recorded in the release"
        good = {
            "name": (
                series.name not in names and bool(re.fullmatch(r"[\w.-]+", series.name)),
                "letters, digits, - _ .",
            ),
            "box": (0 <= left < right <= 1 and 0 <= top < bottom <= 1, "left, top, right, bottom as fractions"),
            "language": (
                language_name(series.language) is not None,
                "give a code of BCP-47 (en, de, gsw), or CODE=NAME",
            ),
            "licence": (bool(series.licence.strip()), given),
            "consent": (bool(series.consent.strip()), given),
            "lag": (abs(series.lag) <= 60, "give seconds"),
        }
        for name, (is_good, remedy) in good.items():
            if not is_good:
                raise InputError(f"{path}: series {series.name}: {name}", f"is {getattr(series, name)!r}", remedy)
        names.add(series.name)
    splits = sources.splits
    if splits.dev_from and splits.test_from and splits.dev_from >= splits.test_from:
        raise InputError(f"{path}: splits", "dev_from is not before test_from", "make dev_from the earlier date")


def checksum(path: Path) -> str:
    """SHA-256 of a file. Raises InputError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", _READABLE) from None
    return digest.hexdigest()


class Checksums:
    """Caches the SHA-256 of files by path, size and modification time. Threads may share it."""

    def __init__(self, cache: Path):
        self._cache = cache
        known = read_json(cache) if cache.exists() else {}
        self._known: dict[str, list] = known if isinstance(known, dict) else {}
        self._used: dict[str, list] = {}

    def of(self, path: Path) -> str:
        """The checksum of a file, or of a folder's file names and contents. Raises InputError if one cannot be read."""
        if path.is_dir():
            files = [file for file in sorted(path.rglob("*")) if file.is_file()]
            listed = "".join(f"{file.relative_to(path)} {self.of(file)}\n" for file in files)
            return hashlib.sha256(listed.encode()).hexdigest()
        try:
            state = path.stat()
            known = self._known.get(str(path))
            if not known or known[:2] != [state.st_size, state.st_mtime_ns]:
                known = [state.st_size, state.st_mtime_ns, checksum(path)]
        except OSError as error:
            raise InputError(path, f"cannot be read ({error.strerror})", _READABLE) from None
        self._used[str(path)] = known
        return known[2]

    def contents(self) -> set[str]:
        """All checksums in the cache."""
        return {known[2] for known in self._known.values()}

    def keep_all(self) -> None:
        """Keeps all entries of the cache, even those not requested since the start."""
        self._used = self._known | self._used

    def save(self, forget: Callable[[str], bool]) -> None:
        """Writes the entries requested since the start, except the checksums for which `forget` is true."""
        replace_json(self._cache, {path: known for path, known in self._used.items() if not forget(known[2])})


def scan(sources_file: Path, sources: Sources, checksums: Checksums) -> list[Programme]:
    """The programmes, ordered by series, date and checksum; files of equal content count once.

    Raises InputError if a series has no file, or the splits need a date that is unknown.
    """
    videos: list[tuple[Series, Path]] = []
    for series in sources.series:
        files = [path for path in _glob(sources_file, series) if path.suffix.lower() in VIDEO_SUFFIXES]
        if not files:
            where = f"{sources_file}: series {series.name}: files"
            raise InputError(where, f"{series.files} names no video", "give a glob relative to sources.toml")
        videos += [(series, path.resolve()) for path in sorted(files) if not is_hidden(path)]
    with ThreadPoolExecutor(_THREADS) as pool:
        contents = list(pool.map(checksums.of, [path for _, path in videos]))
    programmes: dict[str, Programme] = {}
    for (series, path), content in zip(videos, contents):
        day = series.dates.get(path.name) or _date_in(path.stem)
        if day is None and sources.splits != Splits():
            remedy = 'put YYYY-MM-DD into its name, or into the table [series.dates]: "NAME" = YYYY-MM-DD'
            raise InputError(path, "has no date, which the splits need", remedy)
        programmes.setdefault(content, Programme(series.name, path, content, day))
    return _sorted(programmes.values(), [series.name for series in sources.series])


def _glob(sources_file: Path, series: Series) -> Iterable[Path]:
    try:
        pattern = Path(series.files)
        if pattern.is_absolute():
            return Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))
        return sources_file.resolve().parent.glob(series.files)
    except ValueError as error:
        where = f"{sources_file}: series {series.name}: files"
        raise InputError(where, f"is not a glob ({error})", "give one relative to sources.toml") from None


def _sorted(programmes: Iterable[Programme], series: list[str]) -> list[Programme]:
    return sorted(programmes, key=lambda one: (series.index(one.series), one.day or date.min, one.content))


def _date_in(name: str) -> date | None:
    for year, month, day in _DATE.findall(name):
        try:
            return date(int(year), int(month), int(day))
        except ValueError:
            continue
    return None
