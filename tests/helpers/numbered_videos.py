"""Videos whose frames can be told apart: each has its own grey level, a red upper left and a green upper right
corner, as it is to be shown.
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from unisign_fast.pipelines.crops.sources import VideoHandCrops, WantedHands
from unisign_fast.pipelines.crops.video import VideoFile
from unisign_fast.pipelines.store.clip import Clip

WIDTH, HEIGHT, FRAMES = 96, 64, 24
X264 = {"crf": "4", "preset": "ultrafast"}
WITH_B_FRAMES = {"crf": "4", "preset": "medium", "g": "12", "bf": "2", "b-adapt": "0"}
VP8 = {"auto-alt-ref": "1", "lag-in-frames": "16", "arnr-maxframes": "5", "crf": "4", "b": "2M", "g": "12"}
VP9 = {"auto-alt-ref": "1", "lag-in-frames": "16", "crf": "4", "b": "0", "cpu-used": "5", "g": "12"}


def shown(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Frame `number` as a player shows it."""
    picture = np.full((height, width, 3), 60 + 6 * number, np.uint8)
    picture[: height // 4, : width // 4] = 255, 0, 0
    picture[: height // 4, -(width // 4) :] = 0, 255, 0
    return picture


def encode(
    pictures: list[np.ndarray], codec: str = "libx264", options: dict[str, str] = X264, times: list[int] | None = None
) -> tuple[av.VideoCodecContext, list[av.Packet]]:
    """Packets in decoding order, their times in frames of 1/25 s."""
    context = av.CodecContext.create(codec, "w")
    context.height, context.width = pictures[0].shape[:2]
    context.pix_fmt, context.time_base, context.framerate, context.options = "yuv420p", Fraction(1, 25), 25, options
    packets = []
    for number, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = times[number] if times else number, Fraction(1, 25)
        packets += context.encode(frame)
    return context, packets + context.encode(None)


def write(
    path: Path,
    pictures: list[np.ndarray],
    codec: str = "libx264",
    options: dict[str, str] = X264,
    matrix: list[float] | None = None,
    times: list[int] | None = None,
    fragmented: bool = False,
) -> Path:
    with av.open(str(path), "w", options={"movflags": "frag_keyframe+empty_moov"} if fragmented else {}) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        if matrix:
            stream.set_display_matrix([round(65536 * x) for x in matrix])
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = times[number] if times else number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def copy(source: Path, target: Path, first: int = 0, last: int | None = None, shift: int = 0) -> Path:
    """Like ffmpeg -c copy: packets first..last, `shift` frames earlier; times below 0 become an edit list in MP4."""
    with av.open(str(source)) as container, av.open(str(target), "w") as out:
        stream = container.streams.video[0]
        copied = out.add_stream_from_template(stream)
        out.start_encoding()
        packets = [packet for packet in container.demux(stream) if packet.size]
        frame = round(1 / stream.average_rate / stream.time_base)
        for packet in packets[first:last]:
            packet.pts, packet.dts, packet.stream = packet.pts - shift * frame, packet.dts - shift * frame, copied
            out.mux(packet)
    return target


def decoded(path: Path) -> int:
    """Frames that FFmpeg's decoder gives."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def assert_shows(path: Path, numbers: list[int], width: int = WIDTH, height: int = HEIGHT, plain: bool = False) -> None:
    """That the video's frames are these pictures, that all counters agree, and that crops show the same."""
    with VideoFile(path) as video:
        assert (video.width, video.height) == (width, height)
        assert video.count_frames() == len(numbers) == video._scan_frames().frames
        assert video.plain == plain
        pictures = [picture for _, picture in video.frames(np.arange(len(numbers)))]
    for picture, number in zip(pictures, numbers, strict=True):
        assert_is(picture, number, width, height)
    with VideoFile(path) as video:
        assert len(list(video.pictures())) == len(numbers)
    clip = Clip("a", "train", "en", "t", "", 0, len(numbers), 25.0, width, height, str(path), 0)
    last = len(numbers) - 1
    box = np.array([(0, 0, 16, 16), (width - 16, 0, width, 16), (width - 16, height - 16, width, height)])
    wanted = WantedHands(clip, path, np.full(3, last), np.zeros(3, int), np.zeros((3, 21, 2)), box)
    for dali in (True, False):
        (crops,) = VideoHandCrops(16, torch.device("cpu"), dali).read([wanted])
        red, green, grey = crops.double().mean(dim=(2, 3)).numpy()
        assert red.argmax() == 0 and red[0] > 180 and green.argmax() == 1 and green[1] > 180
        np.testing.assert_allclose(grey, 60 + 6 * numbers[-1], atol=3)


def assert_is(picture: np.ndarray, number: int, width: int, height: int) -> None:
    assert picture.shape == (height, width, 3)
    np.testing.assert_allclose(picture[height // 2, width // 2], 60 + 6 * number, atol=3)
    assert picture[4, 4].argmax() == 0 and picture[4, 4, 0] > 180 and picture[4, -5].argmax() == 1


def frames_of(path: Path) -> list[np.ndarray]:
    with VideoFile(path) as video:
        return list(video.pictures())
