"""Real mp4 files for tests."""

from pathlib import Path

import av
import numpy as np


def write_video(path: Path, pictures: list[np.ndarray], fps: int = 25) -> Path:
    """An H.264 mp4 of RGB pictures [height, width, 3] uint8, nearly lossless."""
    height, width, _ = pictures[0].shape
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=fps, options={"crf": "1", "preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = width, height, "yuv444p"
        for picture in pictures:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
    return path


def damage(path: Path, frame: int, kept: int) -> None:
    """Overwrites the data of one frame (of a video without B-frames) with 0xff, all but the first `kept` bytes."""
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(container.streams.video[0]) if packet.size]
    start, size = packets[frame]
    with open(path, "r+b") as file:
        file.seek(start + kept)
        file.write(b"\xff" * (size - kept))
