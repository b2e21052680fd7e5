"""Small programmes with captions: a speaker on the left, and on the right the signer's box, whose pixels are known."""

from pathlib import Path

import numpy as np
from pose_networks import BLUE, RED, dot, person
from video_files import write_video

WIDTH, HEIGHT, FPS = 160, 64, 25
BOX = (0.5, 0.0, 1.0, 1.0)  # of the signer
TEXTS = (
    "The river rose again",
    "Ministers met in the capital",
    "Rain is expected tomorrow",
    "Schools stay open",
    "Two ships left the harbour",
    "A museum found its lost clock",
)


def picture(frame: int, seed: int) -> np.ndarray:
    """RGB [HEIGHT, WIDTH, 3] uint8: a red speaker, and a blue signer whose hand goes up and down."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    person(image, 10 + seed % 7, 12, 24, 44, RED)
    image[12:56, 100:128, BLUE] = 160
    dot(image, BLUE, 108 + 6 * np.sin(frame / 3 + seed), 30 + 12 * np.cos(frame / 4 + seed))
    return image


def write_programme(path: Path, seed: int, seconds: int = 6) -> Path:
    """A video, and beside it captions: a sentence every two seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, [picture(frame, seed) for frame in range(FPS * seconds)], FPS)
    blocks = []
    for number in range(seconds // 2):
        text = f"{TEXTS[(3 * seed + number) % len(TEXTS)]} on day {seed} item {number}."
        blocks.append(f"00:00:{2 * number:02d}.200 --> 00:00:{2 * number + 1:02d}.800\n{text}\n")
    path.with_suffix(".en.vtt").write_text("WEBVTT\n\n" + "\n".join(blocks))
    return path


def write_sources(path: Path, **fields: object) -> Path:
    """sources.toml for news/*.mp4 beside it, with other values for some fields."""
    values = {
        "name": '"news"',
        "files": '"news/*.mp4"',
        "box": list(BOX),
        "language": '"en"',
        "licence": '"made for a test"',
        "consent": '"nobody is shown"',
        "estimate_lag": "false",
    } | fields
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[[series]]\n" + "".join(f"{name} = {value}\n" for name, value in values.items()))
    return path
