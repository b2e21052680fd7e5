"""Encodes pictures, numbers and files as text inside a page."""

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

QUALITY = 72  # of WebP
FRACTION = 10_000  # int16 steps across the picture; coordinates may lie outside of it


def data_uri(picture: np.ndarray) -> str:
    """A picture [H, W, 3] uint8 as WebP in a data URI."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(file, "WEBP", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def text_uri(kind: str, text: str) -> str:
    """A text as the target of a download link; `kind` is its media type."""
    return f"data:{kind};charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"


def sprite(pictures: Sequence[np.ndarray]) -> dict:
    """Tiles pictures [H, W, 3] of one size into a nearly square one, since WebP allows 16,383 pixels a side; script.js
    cuts them out.
    """
    height, width, _ = pictures[0].shape
    columns = math.ceil(math.sqrt(len(pictures) * height / width))
    sheet = np.zeros((-(-len(pictures) // columns) * height, columns * width, 3), np.uint8)
    for number, picture in enumerate(pictures):
        y, x = number // columns * height, number % columns * width
        sheet[y : y + height, x : x + width] = picture
    return {"uri": data_uri(sheet), "columns": columns, "width": width, "height": height}


def packed_numbers(fractions: np.ndarray) -> str:
    """Fractions in steps of 1 / FRACTION, as base64 of little-endian int16 in row-major order."""
    steps = np.rint(fractions.astype(np.float64) * FRACTION).clip(-32768, 32767)
    return base64.b64encode(steps.astype("<i2").tobytes()).decode()
