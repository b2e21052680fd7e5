"""The settings of a corpus, recorded in OUT/settings.json by `run` and read by the other commands."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from ..atomic_io import replace_json
from ..errors import InputError
from ..input_files import read_settings
from .cutting import Cut, CutSettings
from .folder import CorpusFolder
from .quality import Thresholds
from .recognition import RecognizerName

Text = Literal["captions", "asr"]
Device = Literal["cpu", "cuda"]
WORKERS_OF_A_GPU = 8  # cores needed for decoding to keep up with the pose network


@dataclass(frozen=True)
class CurationSettings:
    """The options of `curate.py run`. Those that plans and parts do not depend on can be changed at no cost."""

    sources: str  # path of sources.toml
    text: Text = "captions"
    asr: RecognizerName = "funasr"
    asr_model: str | None = None  # a name that the recogniser knows, or a folder; None: its default
    detector: str | None = None  # ONNX file; None: rtmlib's, downloaded once
    pose_model: str | None = None  # ONNX file; None: rtmlib's, downloaded once
    part_seconds: float = 300.0  # length of a part
    cut: Cut = "sentence"
    target_seconds: float = 9.5  # sentences are merged up to about this length; 0: not merged
    lag: float | None = None  # seconds for all series; None: estimated, or the series' own
    most_copies: int = 3  # clips of one text in a split, near-duplicates included
    device: Device = "cpu"
    workers: int | None = None  # None: one per core, or 8 per GPU
    thresholds: Thresholds = Thresholds()

    def __post_init__(self):
        for name, kind in (("text", Text), ("asr", RecognizerName), ("device", Device)):
            if getattr(self, name) not in get_args(kind):
                choices = ", ".join(get_args(kind))
                raise InputError(f"--{name}", f"{getattr(self, name)!r} is not valid", f"choose one of {choices}")
        if not 1 <= self.part_seconds <= 3600:
            raise InputError("--part-seconds", f"{self.part_seconds} is not valid", "give 1 to 3600")
        if self.workers is not None and self.workers < 1:
            raise InputError("--workers", f"is {self.workers}", "give 1 or more")
        if self.most_copies < 1:
            raise InputError("--most-copies", f"is {self.most_copies}", "give 1 or more")
        if self.lag is not None and abs(self.lag) > 60:
            raise InputError("--lag", f"{self.lag} is not valid", "give seconds")
        CutSettings(self.cut, self.target_seconds)

    @property
    def cutting(self) -> CutSettings:
        """How sentences are cut."""
        return CutSettings(self.cut, self.target_seconds)

    def save(self, folder: CorpusFolder) -> None:
        """Writes OUT/settings.json."""
        replace_json(folder.settings, asdict(self))


def read_curation_settings(folder: CorpusFolder) -> CurationSettings:
    """The settings of the last run. Raises InputError if there was none."""
    if not folder.settings.exists():
        raise InputError(folder.root, "is not a corpus folder", "start one with `curate.py run`")
    remedy = "run `curate.py run` again with all its options"
    return read_settings(folder.settings, CurationSettings, "holds no curation settings", remedy, ("sources",))


def as_path(file: str | None) -> Path | None:
    """`file` as a path, or None."""
    return None if file is None else Path(file)


def read_thresholds(path: Path | None) -> Thresholds:
    """The thresholds in a JSON file; those it does not name keep their defaults. Raises InputError if it is invalid."""
    if path is None:
        return Thresholds()
    remedy = f"use {', '.join(Thresholds.__dataclass_fields__)}"
    return read_settings(path, Thresholds, "holds no curation thresholds", remedy)
