"""Hand crops: pictures of the sampled hands, cut out of a clip's video and scaled to one size.

Decoding runs from the start of the video to the last frame asked for, and no further; every frame is converted at most
once, however many hands are taken from it.
"""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from PIL import Image

from pipelines.errors import InputError

REMEDY = "encode it again, or leave the clip out"


class HandCropReader:
    """An open video; use it in a `with` block.

    `width` and `height` in pixels; `declared_frames` is what the file says of its length (often 1-3 more than can be
    decoded), 0 if it says nothing.
    """

    def __init__(self, video: Path):
        """Raises InputError if there is no such file or no video in it."""
        self.video = video
        if not video.is_file():
            raise InputError(video, "there is no such video", "put it there, or leave the clip out")
        try:
            self._container = av.open(str(video), metadata_errors="ignore")
        except av.FFmpegError as error:
            raise InputError(video, f"does not open as a video ({error.strerror})", REMEDY) from None
        if not self._container.streams.video:
            self._container.close()
            raise InputError(video, "has no video stream", REMEDY)
        self._stream = self._container.streams.video[0]
        self._stream.codec_context.thread_count = 1  # parallel over clips instead
        self.width, self.height = self._stream.width, self._stream.height
        self.declared_frames = self._stream.frames

    def __enter__(self) -> "HandCropReader":
        return self

    def __exit__(self, *exception) -> None:
        self._container.close()

    def read(self, frames: np.ndarray, boxes: np.ndarray, size: int) -> np.ndarray:
        """Row i shows boxes[i] of frames[i]: uint8 RGB [n, 3, size, size], bicubic, black outside the picture.

        frames: int64 [n], counted from 0, in any order and repeated at will; boxes: int64 [n, 4] (x0, y0, x1, y1) in
        pixels. Can be called once, since it leaves the video behind the last of the frames.
        Raises InputError if the video does not decode as far as the last of the frames.
        """
        crops = np.zeros((len(frames), 3, size, size), np.uint8)
        rows_of: dict[int, list[int]] = {}
        for row, number in enumerate(frames.tolist()):
            rows_of.setdefault(number, []).append(row)
        for number, picture in self._pictures(set(rows_of)):
            for row in rows_of[number]:
                crop = picture.crop(tuple(boxes[row].tolist())).resize((size, size), Image.Resampling.BICUBIC)
                crops[row] = np.asarray(crop).transpose(2, 0, 1)
        return crops

    def _pictures(self, wanted: set[int]) -> Iterator[tuple[int, Image.Image]]:
        """The wanted frames in order, each with its number; InputError if one of them cannot be had."""
        number, last = -1, max(wanted, default=-1)
        if number == last:
            return
        try:
            for number, frame in enumerate(self._container.decode(self._stream)):
                if number in wanted:
                    if frame.is_corrupt:
                        raise InputError(self.video, f"frame {number} is damaged", REMEDY)
                    yield number, frame.to_image()
                if number == last:
                    return
        except av.FFmpegError as error:
            problem = f"does not decode after frame {number} ({error.strerror}), and frame {last} is needed"
            raise InputError(self.video, problem, REMEDY) from None
        raise InputError(self.video, f"has {number + 1} frames that decode, and frame {last} is needed", REMEDY)
