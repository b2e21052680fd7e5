"""Real mp4 files for tests."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

OPTIONS = {
    "libx264": {"crf": "1", "preset": "ultrafast"},
    "libvpx-vp9": {"crf": "4", "b": "0", "deadline": "realtime", "cpu-used": "8"},
    "mjpeg": {"qscale": "1", "qmin": "1"},
}
FORMATS = {"libx264": "yuv444p", "libvpx-vp9": "yuv420p", "mjpeg": "yuvj420p"}


def write_video(
    path: Path, pictures: list[np.ndarray], fps: int = 25, codec: str = "libx264", times: list[int] | None = None
) -> Path:
    """A video of RGB pictures [height, width, 3] uint8, nearly lossless; `times` in frames make its rate variable."""
    height, width, _ = pictures[0].shape
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=fps, options=OPTIONS[codec])
        video.width, video.height, video.pix_fmt = width, height, FORMATS[codec]
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times:
                frame.pts, frame.time_base = times[i], Fraction(1, fps)
            container.mux(video.encode(frame))
        container.mux(video.encode())
    return path


def write_mp4(path: Path, pictures: list[np.ndarray], fps: int = 25, times: list[int] | None = None) -> Path:
    """Like `write_video`, but in 4:2:0 and with the index in front, so that the file can be cut; `times` in ms."""
    height, width, _ = pictures[0].shape
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        video = container.add_stream("libx264", rate=fps, options={"crf": "10", "g": "5", "bf": "0"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        for t, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[t], Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode())
    return path


def cut_before(path: Path, frame: int) -> None:
    """Ends the file where this frame's bytes begin."""
    with av.open(str(path)) as container:
        os.truncate(path, [p.pos for p in container.demux(video=0) if p.size][frame])


def damage(path: Path, frame: int, kept: int) -> None:
    """Overwrites the data of one frame (of a video without B-frames) with 0xff, all but the first `kept` bytes."""
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(container.streams.video[0]) if packet.size]
    start, size = packets[frame]
    with open(path, "r+b") as file:
        file.seek(start + kept)
        file.write(b"\xff" * (size - kept))
