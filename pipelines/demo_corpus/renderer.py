"""Draws a performance and encodes it as H.264: each handshape as it is, whatever the estimator saw."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

from .signer import (
    LEFT,
    RIGHT,
    Colour,
    Performance,
    Signer,
    elbows,
    face_points,
    head_centre,
    place_hands,
)

OUTLINE: Colour = (44, 26, 22)
_FINGERS = (range(17, 21), range(13, 17), range(9, 13), range(5, 9), range(2, 5))  # the thumb last, on top of a fist
_PALM = (0, 1, 5, 9, 13, 17)


@dataclass(frozen=True)
class Camera:
    """Picture size and rate, and where the signer stands: shoulders at (`x`, `y`) in pixels, `unit` pixels apart."""

    width: int
    height: int
    fps: int
    x: float
    y: float
    unit: float

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """[..., 2] in shoulder widths -> pixels."""
        return points * self.unit + (self.x, self.y)

    def fractions(self, points: np.ndarray) -> np.ndarray:
        """[..., 2] in shoulder widths -> fractions of width and height, not cut at the edges."""
        return self.pixels(points) / (self.width, self.height)


def _flat(points: np.ndarray) -> list[tuple[float, float]]:
    return [tuple(point) for point in points.tolist()]


def _capsules(draw: ImageDraw.ImageDraw, points: np.ndarray, width: float, colour: Colour) -> None:
    """A thick line through `points` [n, 2] with round joints and ends."""
    dots = _flat(points)
    draw.line(dots, fill=colour, width=max(1, round(width)))
    radius = width / 2
    for x, y in dots:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _outlined(draw: ImageDraw.ImageDraw, points: np.ndarray, width: float, edge: float, colour: Colour) -> None:
    _capsules(draw, points, width + 2 * edge, OUTLINE)
    _capsules(draw, points, width, colour)


def _draw_still(signer: Signer, camera: Camera) -> Image.Image:
    """Everything that does not move: background, trunk, head and face."""
    image = Image.new("RGB", (camera.width, camera.height), signer.background)
    draw = ImageDraw.Draw(image)
    unit, edge = camera.unit, max(1.0, 0.015 * camera.unit)
    trunk = camera.pixels(np.array([[-0.38, 0.1], [0.38, 0.1], [0.26, 2.2], [-0.26, 2.2], [-0.38, 0.1]]))
    head, radii = camera.pixels(head_centre(signer)), np.array([0.8, 1.0]) * signer.head * unit
    draw.ellipse((*(head - radii * (1.12, 1.15)), *(head + radii * (1.12, 0.7))), fill=signer.hair)
    _outlined(draw, camera.pixels(np.array([[0, -0.4], [0, 0.05]])), 0.3 * unit, edge, signer.skin)
    _outlined(draw, trunk, 0.34 * unit, edge, signer.cloth)
    draw.polygon(_flat(trunk), fill=signer.cloth)
    draw.ellipse((*(head - radii), *(head + radii)), fill=signer.skin, outline=OUTLINE, width=round(edge))
    draw.chord((*(head - radii * 1.03), *(head + radii * 1.03)), 208, 332, fill=signer.hair)
    face = camera.pixels(face_points(signer))
    for brow in (face[17:22], face[22:27], face[27:31]):
        draw.line(_flat(brow), fill=signer.hair, width=round(1.5 * edge))
    for eye in (face[36:42], face[42:48]):
        draw.polygon(_flat(eye), fill=(250, 250, 250), outline=OUTLINE)
        middle, radius = eye.mean(axis=0), 0.05 * signer.head * unit
        draw.ellipse((*(middle - radius), *(middle + radius)), fill=OUTLINE)
    draw.polygon(_flat(face[48:60]), fill=(176, 72, 72), outline=OUTLINE)
    return image


def draw_hand(draw: ImageDraw.ImageDraw, joints: np.ndarray, length: float, skin: Colour) -> None:
    """One hand from its true joints [21, 2] in pixels; `length` in pixels from wrist to middle fingertip."""
    edge, finger = max(1.2, 0.022 * length), 0.125 * length
    palm = joints[[*_PALM, 0]]
    _outlined(draw, palm, finger, edge, skin)
    draw.polygon(_flat(palm), fill=skin)
    for finger_joints in _FINGERS:
        _outlined(draw, joints[finger_joints], finger, edge, skin)


def render(performance: Performance, signer: Signer, camera: Camera, path: Path) -> None:
    """Writes an mp4 of exactly len(performance) frames."""
    still = _draw_still(signer, camera)
    hands = camera.pixels(place_hands(performance, performance.shapes, signer))
    wrists, elbow = camera.pixels(performance.wrists), camera.pixels(elbows(performance))
    shoulders = camera.pixels(np.array([[0.46, 0.06], [-0.46, 0.06]]))
    edge, length = max(1.0, 0.015 * camera.unit), signer.hand * camera.unit
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=camera.fps, options={"preset": "ultrafast", "crf": "27"})
        stream.width, stream.height, stream.pix_fmt = camera.width, camera.height, "yuv420p"
        stream.codec_context.thread_count = 1  # one process per core already
        stream.codec_context.time_base = Fraction(1, camera.fps)
        for frame in range(len(performance)):
            image = still.copy()
            draw = ImageDraw.Draw(image)
            for hand in (LEFT, RIGHT):  # the right hand covers the left one
                arm = np.stack([shoulders[hand], elbow[frame, hand], wrists[frame, hand]])
                _outlined(draw, arm, 0.24 * camera.unit, edge, signer.cloth)
                draw_hand(draw, hands[frame, hand], length, signer.skin)
            picture = av.VideoFrame.from_image(image)
            picture.pts = frame
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
