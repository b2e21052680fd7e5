"""A video on disk: what it declares, how many frames it has, and single frames of it through PyAV."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from ..errors import InputError

REMEDY = "encode it again, or leave the clip out"


class VideoFile:
    """An open video, to be read once, by `count_frames` or by `frames`; use it in a `with` block.

    `width` and `height` in pixels; `codec` by FFmpeg's name; `declared_frames` is what the file says of its length
    (often 1-3 more than can be decoded), 0 if it says nothing.
    """

    def __init__(self, path: Path):
        """Raises InputError if there is no such file or no video in it."""
        self.path = path
        if not path.is_file():
            raise InputError(path, "there is no such video", "put it there, or leave the clip out")
        try:
            self._container = av.open(str(path), metadata_errors="ignore")
        except av.FFmpegError as error:
            raise InputError(path, f"does not open as a video ({error.strerror})", REMEDY) from None
        if not self._container.streams.video:
            self._container.close()
            raise InputError(path, "has no video stream", REMEDY)
        self._stream = self._container.streams.video[0]
        self._stream.codec_context.thread_count = 1  # parallel over clips instead
        self.width, self.height = self._stream.width, self._stream.height
        self.codec = self._stream.codec_context.name
        self.declared_frames = self._stream.frames

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(self, *exception) -> None:
        self._container.close()

    def count_frames(self) -> int:
        """Frames that the file holds, without decoding them; a file that was cut off holds fewer than it declares.

        Packets marked as discarded don't count: an edit list cuts off frames that the header still declares.
        """
        try:
            packets = self._container.demux(self._stream)
            return sum(packet.size > 0 and not packet.is_discard and not packet.is_corrupt for packet in packets)
        except av.FFmpegError as error:
            raise InputError(self.path, f"cannot be read to its end ({error.strerror})", REMEDY) from None

    def frames(self, wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """The wanted frames (int64, any order, counted from 0), each once and in order: number, RGB [H, W, 3] uint8.

        Decodes from the start up to the last one. Raises InputError if one of them cannot be had.
        """
        numbers = set(wanted.tolist())
        number, last = -1, max(numbers, default=-1)
        if number == last:
            return
        try:
            for number, frame in enumerate(self._container.decode(self._stream)):
                if number in numbers:
                    if frame.is_corrupt:
                        raise InputError(self.path, f"frame {number} is damaged", REMEDY)
                    yield number, frame.to_ndarray(format="rgb24")
                if number == last:
                    return
        except av.FFmpegError as error:
            problem = f"does not decode after frame {number} ({error.strerror}), and frame {last} is needed"
            raise InputError(self.path, problem, REMEDY) from None
        raise InputError(self.path, f"has {number + 1} frames that decode, and frame {last} is needed", REMEDY)
