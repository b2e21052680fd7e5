"""One run of launch/translate.py: checks the inputs, then the model and the pose networks, then writes the texts."""

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, TypedDict, TypeVar, Unpack

from unisign_fast.checkpoints.model_folder import find_model, untrained_language
from unisign_fast.inference.inputs import Input, NamedPose, find_inputs
from unisign_fast.inference.outputs import check_output, open_output, write_all
from unisign_fast.inference.processor import Processor, ProcessorOptions
from unisign_fast.inference.translator import Translator, demo_model
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.skeleton import WHOLEBODY
from unisign_fast.pipelines.skeletons import check_skeleton

if TYPE_CHECKING:
    from unisign_fast.pipelines.pose_estimation.networks import PersonDetector, PoseNetwork

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """The command-line options besides the inputs."""

    model: str | None
    processor: ProcessorOptions
    out: Path | None = None
    detector: Path | None = None
    pose_model: Path | None = None
    pose_device: Literal["cpu", "cuda"] = "cpu"


class InputOptions(TypedDict, total=False):
    """The keyword arguments of `find_inputs`."""

    stores: Sequence[Path]
    split: str | None
    poses: Sequence[Path]
    format: str | None


def translate_inputs(options: Options, items: Sequence[str], **sources: Unpack[InputOptions]) -> None:
    """Translates the inputs that `find_inputs` finds for `items`. Unusable inputs, and videos whose keypoints cannot be
    estimated because networks are missing, are reported and left out. Raises InputError if none is left or the model
    is missing.
    """
    usable, bad = find_inputs(items, **sources)
    if not usable and len(bad) == 1:
        raise bad[0]
    for error in bad:
        print(f"left out: {error}", file=sys.stderr, flush=True)
    if not usable:
        raise InputError("translate", f"none of {len(bad)} inputs is usable", "fix the errors above")
    check_output(options.out, sum(len(item) if isinstance(item, list) else 1 for item in usable))
    videos = [item for item in usable if isinstance(item, Path)]
    others: list[Input] = [item for item in usable if not isinstance(item, Path)]
    has_language = not videos and not any(isinstance(item, NamedPose) for item in usable)
    translator, networks = _open(options, networks=bool(videos), optional=bool(others), has_language=has_language)
    if videos and networks is None:
        print(f"left out: {', '.join(map(str, videos))}", file=sys.stderr, flush=True)
        usable = others
    with TemporaryDirectory(prefix="inputs-") as folder:
        recordings, lost = translator.recordings(usable, Path(folder), networks)
        with open_output(options.out) as write:
            written, unusable = write_all(translator.translate(recordings), write)
    left_out = len(bad) + len(lost) + unusable + (0 if networks else len(videos))
    if left_out and not written:
        raise InputError("translate", f"nothing is translated, {left_out} left out", "fix the errors above")
    if options.out is not None:
        print(f"{options.out}: {written} texts")
    if left_out:
        print(f"left out: {left_out}", file=sys.stderr)


def translate_camera(camera: str, options: Options) -> None:
    """Translates a camera's pictures until they end or Ctrl-C is pressed. Raises InputError if there are none."""
    from unisign_fast.pipelines.pose_estimation.camera import pictures  # of an optional extra

    check_output(options.out, recordings=1)
    stream = pictures(camera)
    first = next(stream)  # before any weights are loaded
    translator, networks = _open(options, networks=True, has_language=False)
    assert networks is not None  # not optional
    from unisign_fast.inference.live import translate_live

    with suppress(KeyboardInterrupt), open_output(options.out) as write:
        write_all(translate_live(camera, chain([first], stream), translator, *networks), write)


def _open(
    options: Options, *, networks: bool, has_language: bool, optional: bool = False
) -> "tuple[Translator, tuple[PersonDetector, PoseNetwork] | None]":
    """The translator and, if `networks`, the pose networks. Reports all problems: the last as an InputError, the others
    on stderr. `has_language`: the inputs determine the target language. `optional`: missing networks are only a
    warning.
    """
    missing: list[InputError] = []

    def attempt(task: Callable[[], T]) -> T | None:
        try:
            return task()
        except InputError as error:
            missing.append(error)
            return None

    folder = attempt(lambda: find_model(options.model or demo_model()))
    processor = folder and attempt(lambda: Processor.from_pretrained(folder, **options.processor))
    if processor and processor.language is None and not has_language:
        remedy = "give it, such as --language zh"
        missing.append(InputError("--language", "neither model nor inputs determine the target language", remedy))
    if processor and networks:
        attempt(lambda: check_skeleton(WHOLEBODY, processor.skeleton, "pose estimator"))
    if processor and folder and processor.language and (unknown := untrained_language(folder, processor.language)):
        print(f"warning: {unknown}", file=sys.stderr)
    opened = None
    if networks:
        try:
            opened = _networks(options)
        except InputError as error:
            if optional:
                print(f"warning: {error}", file=sys.stderr)
            else:
                missing.append(error)
    translator = None if missing or folder is None else attempt(lambda: Translator(folder, **options.processor))
    for problem in missing[:-1]:
        print(f"error: {problem}", file=sys.stderr)
    if missing:
        raise missing[-1]
    assert translator is not None  # as nothing is missing
    return translator, opened


def _networks(options: Options) -> "tuple[PersonDetector, PoseNetwork]":
    from unisign_fast.pipelines.pose_estimation.networks import open_networks  # of an optional extra

    return open_networks(options.detector, options.pose_model, options.pose_device)
