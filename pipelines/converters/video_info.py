"""What a converter has to know of a video, without decoding it all."""

from dataclasses import dataclass
from pathlib import Path

import av

from ..errors import InputError


@dataclass(frozen=True)
class VideoInfo:
    """Width and height in pixels, frames per second, and the number of frames that can be decoded."""

    width: int
    height: int
    fps: float
    frames: int


def read_video_info(path: Path) -> VideoInfo:
    """Reads the container and decodes one frame. Raises InputError if the video is missing or does not decode.

    Counted are packets that are not marked as discarded (an edit list cuts off 1-3 frames that the header still
    declares): that is what a decoder returns.
    """
    remedy = "encode or copy the video again, or leave the clip out"
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            if not container.streams.video:
                raise InputError(path, "holds no video", remedy)
            stream = container.streams.video[0]
            frames = sum(packet.size > 0 and not packet.is_discard for packet in container.demux(stream))
            container.seek(0)
            first = next(container.decode(stream), None)
            rate = stream.average_rate or stream.guessed_rate
    except av.error.FFmpegError as error:
        raise InputError(path, f"the video does not decode ({error.strerror})", remedy) from None
    if first is None or not rate:
        raise InputError(path, "the video does not decode (no frame, or no frame rate)", remedy)
    return VideoInfo(first.width, first.height, float(rate), frames)
