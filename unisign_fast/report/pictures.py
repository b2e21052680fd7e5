"""Pictures and numbers as text inside a page."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

QUALITY = 72  # of WebP
COLUMNS = 16  # of a sprite
FRACTION = 10_000  # int16 steps of a fraction of the picture; coordinates reach beyond [0, 1]


def data_uri(picture: np.ndarray) -> str:
    """A picture [H, W, 3] uint8 as WebP in a data URI."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(file, "WEBP", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def sprite(pictures: Sequence[np.ndarray]) -> dict:
    """Pictures of one size in rows of COLUMNS, as one; what script.js needs to cut them out again."""
    height, width, _ = pictures[0].shape
    sheet = np.zeros((-(-len(pictures) // COLUMNS) * height, COLUMNS * width, 3), np.uint8)
    for number, picture in enumerate(pictures):
        y, x = number // COLUMNS * height, number % COLUMNS * width
        sheet[y : y + height, x : x + width] = picture
    return {"uri": data_uri(sheet), "columns": COLUMNS, "width": width, "height": height}


def packed_numbers(fractions: np.ndarray) -> str:
    """Fractions as little-endian int16 in steps of 1 / FRACTION, row by row, base64."""
    steps = np.rint(fractions.astype(np.float64) * FRACTION).clip(-32768, 32767)
    return base64.b64encode(steps.astype("<i2").tobytes()).decode()
