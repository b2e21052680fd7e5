"""Converts a box of a decoded frame to RGB; converting the whole frame would cost more than decoding it."""

from collections.abc import Sequence

import av
import numpy as np

_FORMATS = ("yuv420p", "yuvj420p")  # planar, one chroma sample per 2x2 pixels


def box_of(frame: av.VideoFrame, box: Sequence[int]) -> np.ndarray | None:
    """The pixels of a frame in `box` (left, top, right, bottom), RGB [height, width, 3] uint8.

    Equal in every pixel to converting the whole frame. None for formats other than 4:2:0, and if the box reaches a last
    line or column that shares no chroma sample.
    """
    left, top, right, bottom = box
    x, y = left - left % 2, top - top % 2  # on whole chroma samples
    width, height = right + right % 2 - x, bottom + bottom % 2 - y
    if frame.format.name not in _FORMATS or x + width > frame.width or y + height > frame.height:
        return None
    pieces = []
    for number, plane in enumerate(frame.planes):
        step = 2 if number else 1
        lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)  # type: ignore[call-overload]  # a buffer
        pieces.append(lines[y // step : (y + height) // step, x // step : (x + width) // step].reshape(-1))
    part = av.VideoFrame.from_ndarray(np.concatenate(pieces).reshape(-1, width), format=frame.format.name)
    part.colorspace, part.color_range = frame.colorspace, frame.color_range
    picture = part.to_ndarray(format="rgb24")
    return np.ascontiguousarray(picture[top - y :, left - x :][: bottom - top, : right - left])
