"""A frame's display matrix: how a player rotates and mirrors the coded picture before it shows it."""

import av
import numpy as np
from av.sidedata.sidedata import SideData

RIGHT_ANGLE = 0.01  # tolerance within which a display matrix is a right-angle rotation

Matrix = tuple[int, int, int, int]


def display_matrix(frame: av.VideoFrame) -> Matrix | None:
    """(a, b, c, d) of the frame's display matrix, rounded to -1, 0 or 1; None if it changes nothing.

    A pixel at (x, y) is shown at (ax + cy, bx + dy), up to a shift. A rotation by any other angle has no zeros.
    """
    side_data = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return None
    assert isinstance(side_data, SideData), side_data
    a, b, _, c, d = np.frombuffer(bytes(side_data), np.int32)[:5].tolist()
    largest = max(map(abs, (a, b, c, d)))

    def sign(x: int) -> int:
        return (x > 0) - (x < 0) if abs(x) > RIGHT_ANGLE * largest else 0

    signs = sign(a), sign(b), sign(c), sign(d)
    return None if signs in ((1, 0, 0, 1), (0, 0, 0, 0)) else signs


def is_right_angled(matrix: Matrix | None) -> bool:
    """Whether the matrix rotates by right angles only, with or without mirroring."""
    return matrix is None or (matrix[0] == 0) != (matrix[1] == 0)


def shown_size(width: int, height: int, matrix: Matrix | None) -> tuple[int, int]:
    """Width and height as shown of a coded picture, and the other way round."""
    return (height, width) if matrix and matrix[0] == 0 else (width, height)


def as_shown(picture: np.ndarray, matrix: Matrix | None) -> np.ndarray:
    """The coded picture [H, W, 3] rotated and mirrored as a player shows it, contiguous."""
    if matrix is None:
        return picture
    a, b, c, d = matrix
    if a == 0:
        picture = picture.swapaxes(0, 1)
    across, down = (c, b) if a == 0 else (a, d)
    return np.ascontiguousarray(picture[::down, ::across])
