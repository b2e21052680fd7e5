"""What is to be done: the sources' programmes, the plans and parts that the settings call for, and their state."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..targets import language_code
from . import parts, plans
from .captions import caption_file
from .folder import CorpusFolder, key_of
from .plans import Plan, TextSettings, read_plan, spans
from .records import Lag
from .settings import CurationSettings, as_path
from .sources import Checksums, Programme, Series, Sources, checksum, read_sources, scan

BEFORE, AFTER = 5.0, 15.0  # seconds before and after speech in which its signing may lie


@dataclass
class Work:
    """A programme, and the items to make from it."""

    programme: Programme
    series: Series
    plan_item: dict[str, Any]
    problem: str = ""  # why its plan cannot be made, if that is known beforehand
    part_items: list[dict[str, Any]] = field(default_factory=list)  # known once the plan is finished

    @property
    def plan_key(self) -> str:
        return self.plan_item["key"]


class Survey:
    """The work of a corpus, and how much of it is finished."""

    def __init__(self, folder: CorpusFolder, settings: CurationSettings):
        """Reads sources and computes checksums. Raises InputError as `read_sources` and `scan` do."""
        self.folder, self.settings = folder, settings
        self._checksums = Checksums(folder.checksums)
        path = Path(settings.sources)
        self.sources: Sources = read_sources(path)
        self._series = {series.name: series for series in self.sources.series}
        withdrawn = folder.withdrawn
        programmes = [one for one in scan(path, self.sources, self._checksums) if one.content not in withdrawn]
        self.work = [self._work(programme) for programme in programmes]
        self._checksums.save(forget=withdrawn.__contains__)

    @cached_property
    def networks(self) -> tuple[Path, Path]:
        """The ONNX files of detector and pose network, downloaded if they are the default ones."""
        from ..pose_estimation.networks import weights_of

        return weights_of(as_path(self.settings.detector), as_path(self.settings.pose_model))

    @property
    def text(self) -> TextSettings:
        """Where words come from."""
        recognizer = self.settings.asr if self.settings.text == "asr" else None
        return TextSettings(recognizer, self.settings.asr_model if recognizer else None, self.settings.device)

    def _work(self, programme: Programme) -> Work:
        series = self._series[programme.series]
        captions, problem, language = "", "", language_code(series.language)
        depends: dict[str, Any] = {"text": self.settings.text, "language": language}
        if self.settings.text == "captions":
            try:
                file = caption_file(programme.path, language)
                captions, depends["captions"] = str(file), checksum(file)  # a small file, so its hash is not cached
            except InputError as error:
                problem = str(error)
        else:
            model = self.settings.asr_model
            content = self._checksums.of(Path(model)) if model and Path(model).is_dir() else model
            depends |= {"asr": self.settings.asr, "model": content}
        key = key_of(programme.content, stage="plan", version=plans.VERSION, **depends)
        item = {"key": key, "video": str(programme.path), "captions": captions, "language": language}
        return Work(programme, series, item, problem)

    def read_plans(self) -> None:
        """Finds the parts of all programmes whose plans are finished."""
        checksums = {str(file): self._checksums.of(file) for file in self.networks}
        detector, pose_model = (checksums[str(file)] for file in self.networks)
        for work in self.work:
            if not self.folder.plan(work.plan_key).exists():
                continue
            plan = read_plan(self.folder.plan(work.plan_key))
            work.part_items = []
            for first, end in spans(plan.frames, plan.fps, self.settings.part_seconds):
                if not _has_words(plan, first, end):
                    continue
                depends = {"first": first, "end": end, "box": list(work.series.box)}
                key = key_of(
                    work.programme.content,
                    stage="part",
                    version=parts.VERSION,
                    detector=detector,
                    pose_model=pose_model,
                    **depends,
                )
                item = {"key": key, "video": str(work.programme.path), "fps": plan.fps, **depends}
                work.part_items.append(item)
        self._checksums.save(forget=self.folder.withdrawn.__contains__)

    def waiting_plans(self) -> list[dict[str, Any]]:
        """Items of plans that are neither finished nor dead letters; those without captions become dead letters."""
        for work in self.work:
            if work.problem and not self.folder.dead_letter(work.plan_key).exists():
                self.folder.bury(work.plan_key, "plan", work.problem)
        items = [work.plan_item for work in self.work]
        return [item for item in items if not self._is_done(item["key"], self.folder.plan(item["key"]))]

    def waiting_parts(self) -> list[dict[str, Any]]:
        """Items of parts that are neither finished nor dead letters."""
        items = [item for work in self.work for item in work.part_items]
        return [item for item in items if not self._is_done(item["key"], self.folder.part(item["key"]))]

    def _is_done(self, key: str, result: Path) -> bool:
        return result.exists() or self.folder.dead_letter(key).exists()

    def dead_letters(self) -> dict[str, dict]:
        """The dead letters among this corpus's plans and parts."""
        letters = self.folder.dead_letters()
        keys = [key for work in self.work for key in (work.plan_key, *(item["key"] for item in work.part_items))]
        return {key: letters[key] for key in keys if key in letters}

    def given_lag(self, series: Series) -> tuple[Lag, bool]:
        """The lag to use if none is estimated, and whether to estimate one."""
        if self.settings.lag is not None:
            return Lag(self.settings.lag, self.settings.lag), False
        return Lag(series.lag, series.lag), series.estimate_lag


def _has_words(plan: Plan, first: int, end: int) -> bool:
    start_seconds, end_seconds = first / plan.fps, end / plan.fps
    return any(start_seconds - AFTER <= word.end and word.start <= end_seconds + BEFORE for word in plan.words)
