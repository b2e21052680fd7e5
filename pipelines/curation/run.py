"""The driver: makes plans, then parts, with progress on stderr. release.py makes the release."""

import os
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..atomic_io import clear_unfinished
from ..errors import InputError
from .distribution import distribute, ray_started
from .folder import CorpusFolder
from .makers import Maker
from .parts import PartMaker
from .plans import PlanMaker
from .settings import WORKERS_OF_A_GPU, CurationSettings
from .survey import Survey
from .withdrawal import purge

MAKERS: dict[str, type[Maker]] = {"plan": PlanMaker, "part": PartMaker}


@dataclass
class Done:
    """How many items a run made, by stage, how many became dead letters, and whether it needed workers at all."""

    made: Counter[str] = field(default_factory=Counter)
    dead: int = 0
    started: bool = False


def make_parts(folder: CorpusFolder, settings: CurationSettings) -> tuple[Survey, Done]:
    """Makes all plans and parts that are missing. The folder is locked by the caller.

    Raises InputError if work cannot continue: a full disk, a missing network. The next call resumes there.
    """
    settings.save(folder)
    purge(folder)
    clear_unfinished(folder.unfinished)
    folder.clear_attempts()
    survey, done = Survey(folder, settings), Done()
    detector, pose_model = survey.networks
    workers = settings.workers or len(os.sched_getaffinity(0))
    arguments: dict[str, dict[str, Any]] = {
        "plan": {"text": survey.text},
        "part": {"detector": detector, "pose_model": pose_model, "device": settings.device},
    }
    common = {"root": str(folder.root.resolve()), "run": uuid4().hex}
    gpus = 1 / WORKERS_OF_A_GPU if settings.device == "cuda" else 0
    with _progress() as progress, ExitStack() as ray:
        for stage in MAKERS:
            if stage == "part":
                survey.read_plans()
            items = survey.waiting_plans() if stage == "plan" else survey.waiting_parts()
            if items and not done.started:
                ray.enter_context(ray_started(workers))
                done.started = True
            task = progress.add_task(f"{stage}s", total=len(items))
            for answer in distribute(MAKERS[stage], common | arguments[stage], items, workers, gpus) if items else ():
                _count_answer(folder, stage, answer, done, progress.console)
                progress.advance(task)
    return survey, done


def _count_answer(folder: CorpusFolder, stage: str, answer: dict[str, Any], done: Done, console: Console) -> None:
    """Counts an answer. Raises InputError if the work cannot go on."""
    if answer["state"] == "stopped":
        raise InputError("curate.py", answer["reason"], "run it again to resume from here")
    if answer["state"] == "failed":
        folder.bury(answer["key"], stage, answer["reason"])
        line = f"dead letter: {stage} {answer['key']}: {answer['reason']}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
        done.dead += 1
    else:
        done.made[stage] += 1


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal
    )
