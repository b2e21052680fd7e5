"""Translates sign language: videos, keypoint stores or a camera -> one JSON line for each window.

python launch/translate.py data/demo/sentences/videos/sentence-00000.mp4
python launch/translate.py --model runs/base/slt-rgb/best --language zh VIDEO [VIDEO ...]
python launch/translate.py --model FOLDER --store STORE
python launch/translate.py --model FOLDER --live 0
"""

import json
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

import tyro

from unisign_fast.pipelines.errors import InputError
from unisign_fast.utils.console import run_command

if TYPE_CHECKING:
    from unisign_fast.inference.translator import Translation, Translator
    from unisign_fast.pipelines.corpus.recordings import Recording
    from unisign_fast.pipelines.pose_estimation.networks import PersonDetector, PoseNetwork


def translate(
    videos: tyro.conf.Positional[tuple[Path, ...]] = (),
    model: str | None = None,
    store: tuple[Path, ...] = (),
    live: str | None = None,
    language: str | None = None,
    p_samp: float | None = None,
    window: int | None = None,
    overlap: float = 0.25,
    detector: Path | None = None,
    pose_model: Path | None = None,
    pose_device: Literal["cpu", "cuda"] = "cpu",
) -> None:
    """Translate videos, keypoint stores or what a camera sees.

    Each line is JSON: file, clip, text, score (mean log-probability of the text's tokens), start and end (seconds in
    the video), took (seconds). What is longer than a window is cut into overlapping ones, a line each.

    Args:
        videos: Videos. Keypoints come from the store beside a video if it knows it, and are else estimated, which needs
            `bash launch/install.sh poses` and the networks' weights.
        model: Model folder, or its id on the hub; by default the newest of launch/quickstart.sh for sentences.
        store: Keypoint stores, all of whose clips are translated.
        live: Camera, as a number, a device or an address; a video file does, too. New text is printed when it changes.
        language: Language to write (zh, en, de, ...); by default the model's, else the clip's.
        p_samp: Share of frames whose hands an RGB model looks at, by default as in training; 0 opens no video.
        window: Frames translated at once; by default twice the max_frames of the model's training.
        overlap: Share of a window that it has in common with the one before.
        detector: ONNX file of a YOLOX person detector in the place of YOLOX-m.
        pose_model: ONNX file of a whole-body pose network in the place of RTMW-l.
        pose_device: Of these two; cuda needs onnxruntime-gpu. The model itself uses a GPU where there is one.
    """
    if not videos and not store and live is None:
        raise InputError("translate", "there is nothing to translate", "name videos, --store STORE or --live CAMERA")
    if live is not None and (videos or store):
        raise InputError("--live", "a camera is translated alone", "leave out videos and --store, or --live")
    from unisign_fast.inference.translator import (  # late: torch takes seconds that --help need not
        Translator,
        demo_model,
    )
    from unisign_fast.pipelines.corpus.recordings import known_recordings, recordings_of_store

    known = {video: known_recordings(video) for video in videos}
    stored = [recordings_of_store(path) for path in store]
    networks = None
    if live is not None or not all(known.values()):
        from unisign_fast.pipelines.pose_estimation.networks import PersonDetector, PoseNetwork  # of an optional extra

        networks = PersonDetector(detector, pose_device), PoseNetwork(pose_model, pose_device)
    translator = Translator(model or demo_model(), language=language, p_samp=p_samp, window=window, overlap=overlap)
    if networks and translator.language is None:
        raise InputError("--language", "the videos do not say which to write", "give it, such as --language zh")
    if live is None:
        _translate_files(translator, known, stored, networks)
    else:
        from unisign_fast.inference.live import translate_live

        with suppress(KeyboardInterrupt):
            _print(translate_live(live, translator, *networks))


def _translate_files(
    translator: "Translator",
    known: dict[Path, list["Recording"]],
    stored: list[Iterable["Recording"]],
    networks: "tuple[PersonDetector, PoseNetwork] | None",
) -> None:
    """The videos, each with what its store knows of it, and then the stores."""
    from unisign_fast.pipelines.corpus.recordings import estimated_recordings

    unknown = [video for video, recordings in known.items() if not recordings]
    with TemporaryDirectory(prefix="poses-") as folder:
        left_out = 0
        if unknown:
            result, bad = estimated_recordings(unknown, Path(folder), translator.language, *networks)
            known = known | {Path(recording.name): [recording] for recording in result}
            left_out = len(bad)
        printed, unusable = _print(translator.translate(chain(*known.values(), *stored)))
    left_out += unusable
    if left_out and not printed:
        raise InputError("translate", f"all {left_out} are left out", "mend what is named above")
    if left_out:
        print(f"left out: {left_out}", file=sys.stderr)


def _print(result: Iterable["Translation | InputError"]) -> tuple[int, int]:
    """A line for each translation, at once; the others are named on stderr. How many there were of each."""
    printed = unusable = 0
    for one in result:
        if isinstance(one, InputError):
            unusable += 1
            print(f"left out: {one}", file=sys.stderr, flush=True)
        else:
            row = asdict(one)
            rounded = {name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()}
            print(json.dumps(rounded, ensure_ascii=False), flush=True)
            printed += 1
    return printed, unusable


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly where the reader of the lines has ended
    run_command(translate, examples=__doc__)
