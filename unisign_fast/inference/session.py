"""One run of launch/translate.py: inputs are checked first, then the model and the networks, then texts are written."""

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, TypedDict, TypeVar, Unpack

from unisign_fast.checkpoints.model_folder import find_model, untrained_language
from unisign_fast.inference.inputs import NamedPose, find_inputs
from unisign_fast.inference.outputs import check_output, open_output, write_all
from unisign_fast.inference.processor import Processor, ProcessorChoices
from unisign_fast.inference.translator import Translator, demo_model
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.skeleton import WHOLEBODY
from unisign_fast.pipelines.skeletons import check_skeleton

if TYPE_CHECKING:
    from unisign_fast.pipelines.pose_estimation.networks import PersonDetector, PoseNetwork

T = TypeVar("T")


@dataclass(frozen=True)
class Choices:
    """What the command line says besides the inputs."""

    model: str | None
    translation: ProcessorChoices
    out: Path | None = None
    detector: Path | None = None
    pose_model: Path | None = None
    pose_device: Literal["cpu", "cuda"] = "cpu"


class Where(TypedDict, total=False):
    """Where inputs are looked for; as of `find_inputs`."""

    stores: Sequence[Path]
    split: str | None
    poses: Sequence[Path]
    format: str | None


def translate_inputs(choices: Choices, items: Sequence[str], **where: Unpack[Where]) -> None:
    """Translates what `find_inputs` finds of the items; what cannot be used is named and stops nothing else.

    Raises InputError where nothing can be used, or the model or a network is missing.
    """
    found, bad = find_inputs(items, **where)
    if not found and len(bad) == 1:
        raise bad[0]
    for error in bad:
        print(f"left out: {error}", file=sys.stderr, flush=True)
    if not found:
        raise InputError("translate", f"all {len(bad)} are left out", "correct what is named above")
    check_output(choices.out, sum(len(one) if isinstance(one, list) else 1 for one in found))
    videos = any(isinstance(one, Path) for one in found)
    translator, networks = _open(choices, networks=videos, speaks=not videos and not _any_pose(found))
    with TemporaryDirectory(prefix="inputs-") as folder:
        recordings, lost = translator.recordings(found, Path(folder), networks)
        with open_output(choices.out) as write:
            written, unusable = write_all(translator.translate(recordings), write)
    left_out = len(bad) + len(lost) + unusable
    if left_out and not written:
        raise InputError("translate", f"all {left_out} are left out", "correct what is named above")
    if choices.out is not None:
        print(f"{choices.out}: {written} texts")
    if left_out:
        print(f"left out: {left_out}", file=sys.stderr)


def translate_camera(camera: str, choices: Choices) -> None:
    """Translates what a camera sees, until it ends or Ctrl-C. Raises InputError if it gives no picture."""
    from unisign_fast.pipelines.pose_estimation.camera import pictures  # of an optional extra

    coming = pictures(camera)
    first = next(coming)  # before any weights
    translator, networks = _open(choices, networks=True, speaks=False)
    assert networks is not None  # asked for
    from unisign_fast.inference.live import translate_live

    with suppress(KeyboardInterrupt), open_output(choices.out) as write:
        write_all(translate_live(camera, chain([first], coming), translator, *networks), write)


def _any_pose(found: Sequence[object]) -> bool:
    return any(isinstance(one, NamedPose) for one in found)


def _open(
    choices: Choices, *, networks: bool, speaks: bool
) -> "tuple[Translator, tuple[PersonDetector, PoseNetwork] | None]":
    """The translator and, where needed, the networks. All that is missing is named: each but the last on stderr, the
    last as InputError. `speaks`: the inputs say which language to write.
    """
    missing: list[InputError] = []

    def attempt(task: Callable[[], T]) -> T | None:
        try:
            return task()
        except InputError as error:
            missing.append(error)
            return None

    folder = attempt(lambda: find_model(choices.model or demo_model()))
    processor = folder and attempt(lambda: Processor.from_pretrained(folder, **choices.translation))
    if processor and processor.language is None and not speaks:
        remedy = "give it, such as --language zh"
        missing.append(InputError("--language", "neither model nor inputs say which to write", remedy))
    if processor and networks:
        attempt(lambda: check_skeleton(WHOLEBODY, processor.skeleton, "the estimator of videos"))
    if processor and folder and processor.language and (unknown := untrained_language(folder, processor.language)):
        print(f"warning: {unknown}", file=sys.stderr)
    opened = attempt(lambda: _networks(choices)) if networks else None
    translator = None if missing or folder is None else attempt(lambda: Translator(folder, **choices.translation))
    for error in missing[:-1]:
        print(f"error: {error}", file=sys.stderr)
    if missing:
        raise missing[-1]
    assert translator is not None  # as nothing is missing
    return translator, opened


def _networks(choices: Choices) -> "tuple[PersonDetector, PoseNetwork]":
    from unisign_fast.pipelines.pose_estimation.networks import PersonDetector, PoseNetwork  # of an optional extra

    return PersonDetector(choices.detector, choices.pose_device), PoseNetwork(choices.pose_model, choices.pose_device)
