"""Translates sign language from videos, keypoints, stores or a camera, one JSON line for each window.

python launch/translate.py data/demo/sentences/videos/sentence-00000.mp4
python launch/translate.py --model runs/base/slt-rgb/best --language zh VIDEO [VIDEO ...]
python launch/translate.py --model FOLDER --store STORE --split test --out translations.jsonl
python launch/translate.py --model FOLDER VIDEO --poses POSES.json --format mmpose
python launch/translate.py --model FOLDER --language de LONG_VIDEO --out subtitles.srt
python launch/translate.py --model FOLDER --live 0
"""

from pathlib import Path
from typing import Literal

import tyro

from unisign_fast.pipelines.converters.formats import PoseFormat
from unisign_fast.pipelines.errors import InputError
from unisign_fast.utils.console import run_command


def translate(
    inputs: tyro.conf.Positional[tuple[str, ...]] = (),
    model: str | None = None,
    store: tuple[Path, ...] = (),
    split: Literal["train", "dev", "test"] | None = None,
    poses: tuple[Path, ...] = (),
    format: PoseFormat | None = None,
    live: str | None = None,
    language: str | None = None,
    p_samp: float | None = None,
    window: int | None = None,
    overlap: float = 0.25,
    out: Path | None = None,
    detector: Path | None = None,
    pose_model: Path | None = None,
    pose_device: Literal["cpu", "cuda"] = "cpu",
) -> None:
    """Translate videos, keypoints, stores or a camera's pictures, one JSON line for each window.

    A video's keypoints come from --poses, --store or a nearby store, or are estimated (launch/install.sh poses).
    docs/evaluation.md explains the fields. A recording longer than a window is cut into overlapping windows.

    Args:
        inputs: Videos, pose files, stores, or ids of clips of --store.
        model: Model folder, run, or hub id; by default quickstart.sh's newest.
        store: Stores with the inputs' keypoints; without inputs, all their clips.
        split: Split of the stores.
        poses: Pose files, one for each input, or without inputs.
        format: Format of the pose files; by default the first that can read them.
        live: Camera (number, device or address), or a video file as a camera.
        language: Language to write (zh, en, de, ...); by default the model's or the clip's.
        p_samp: Share of frames whose hands an RGB model sees; 0 opens no video.
        window: Frames translated at once; by default twice the model's max_frames.
        overlap: Share of a window that overlaps the previous one.
        out: File for the result: .jsonl, or subtitles of one video, .srt or .vtt.
        detector: ONNX file of a YOLOX person detector instead of YOLOX-m.
        pose_model: ONNX file of a whole-body pose network instead of RTMW-l.
        pose_device: Device of both; cuda needs onnxruntime-gpu.
    """
    if not inputs and not store and not poses and live is None:
        raise InputError("translate", "there is nothing to translate", "name videos, --store STORE or --live CAMERA")
    if live is not None and (inputs or store or poses):
        raise InputError("--live", "a camera cannot be combined with other inputs", "leave out one or the other")
    from unisign_fast.inference.processor import ProcessorOptions  # late import: keeps --help quick
    from unisign_fast.inference.session import Options, translate_camera, translate_inputs

    processor = ProcessorOptions(language=language, p_samp=p_samp, window=window, overlap=overlap)
    options = Options(model, processor, out, detector, pose_model, pose_device)
    if live is not None:
        translate_camera(live, options)
    else:
        translate_inputs(options, inputs, stores=store, split=split, poses=poses, format=format)


if __name__ == "__main__":
    run_command(translate, examples=__doc__)
