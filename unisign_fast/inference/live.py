"""Live translation from a camera: estimates the keypoints of each picture and repeatedly translates the latest window.
Pictures are taken as fast as the networks process them. The rate matters little, because the model samples max_frames
from a window of any duration.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import av
import cv2
import numpy as np

from unisign_fast.inference.translator import Translation, Translator
from unisign_fast.pipelines.corpus.recordings import Recording
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.pose_estimation.camera import LivePose
from unisign_fast.pipelines.pose_estimation.networks import PersonDetector, PoseNetwork
from unisign_fast.pipelines.store.keypoint_store import KeypointStore, KeypointStoreWriter

STEPS = 8  # translations per window length of new pictures
RATE = 25  # nominal rate of the window's video; nothing depends on it


class _Moment(NamedTuple):
    """A picture and its keypoints."""

    seconds: float  # since the first picture
    keypoints: np.ndarray  # [133, 3]
    jpeg: bytes


def translate_live(
    camera: str,
    pictures: Iterable[np.ndarray],
    translator: Translator,
    detector: PersonDetector,
    network: PoseNetwork,
) -> Iterator[Translation | InputError]:
    """Yields the translation of the latest window whenever it changes; ends with the camera's `pictures`."""
    pose = LivePose(detector, network)
    moments: deque[_Moment] = deque(maxlen=translator.processor.window)
    step, last_text, began = max(1, translator.processor.window // STEPS), "", None
    for number, picture in enumerate(pictures, 1):
        now = time.perf_counter()
        began = began or now
        moments.append(_Moment(now - began, pose(picture), _jpeg(picture)))
        if number % step == 0 and any(moment.keypoints.any() for moment in moments):
            result = _translate(camera, translator, list(moments), picture.shape)
            if isinstance(result, InputError) or result.text != last_text:
                yield result
            last_text = result.text if isinstance(result, Translation) else last_text


def _translate(
    camera: str, translator: Translator, moments: Sequence[_Moment], shape: tuple[int, int, int]
) -> Translation | InputError:
    height, width, _ = shape
    assert translator.language is not None  # a camera does not determine the language
    with TemporaryDirectory(prefix="live-") as folder:
        source = {"estimator": "live", "version": "live", "coordinates": "fractions of the picture"}
        with KeypointStoreWriter(Path(folder) / "store", source) as writer:
            writer.add(
                np.stack([moment.keypoints for moment in moments]),
                id=camera,
                split="test",
                language=translator.language,
                text="",
                fps=RATE,
                width=width,
                height=height,
                source="../video.mp4",
            )
        if translator.processor.settings.p_samp:
            _write_video(Path(folder) / "video.mp4", [moment.jpeg for moment in moments], width, height)
        store = KeypointStore.open(Path(folder) / "store")
        (result,) = translator.translate([Recording(camera, store, store.clips[0])])
    if isinstance(result, InputError):
        return result
    return replace(result, start=moments[0].seconds, end=moments[-1].seconds)


def _jpeg(picture: np.ndarray) -> bytes:
    """Compresses a picture, because a window of raw pictures takes too much memory."""
    return cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def _write_video(path: Path, jpegs: Sequence[bytes], width: int, height: int) -> None:
    """Writes these JPEG pictures unchanged as a motion JPEG video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuvj420p"
        for number, jpeg in enumerate(jpegs):
            packet = av.Packet(jpeg)
            packet.stream, packet.time_base = stream, Fraction(1, RATE)
            packet.pts = packet.dts = number
            container.mux(packet)
