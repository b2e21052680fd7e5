"""Quality of a clip: the measurements, and the thresholds that decide whether it is kept.

Measurements are recorded for every clip, and thresholds are applied when a release is made, so changing a threshold
recomputes nothing.
"""

import re
from dataclasses import asdict, dataclass, fields

import numpy as np

from ..clips.keypoint_normalization import CONFIDENT
from ..errors import InputError
from ..skeleton import LEFT_HAND, RIGHT_HAND
from .lag import hand_speed
from .records import Sentence

_LATIN = r"A-Za-z\u00c0-\u024f\u1e00-\u1eff"
_SCRIPTS = {  # letters of the languages that are not written in the Latin script
    "zh": r"\u3400-\u4dbf\u4e00-\u9fff",
    "ja": r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff",
    "ko": r"\u1100-\u11ff\uac00-\ud7af",
    **dict.fromkeys(("ru", "uk"), r"\u0400-\u04ff"),
    **dict.fromkeys(("ar", "fa"), r"\u0600-\u06ff"),
    "hi": r"\u0900-\u097f",
}


@dataclass(frozen=True)
class Quality:
    """Measurements of one clip."""

    seconds: float
    signer_share: float  # frames in which the signer is found
    single_share: float  # frames with exactly one person in the signer's box
    hands_share: float  # frames in which both hands have a mean confidence above CONFIDENT
    hand_speed: float  # mean, in shoulder widths per second
    characters_per_second: float  # letters, digits and marks; no spaces
    scene_cuts: int  # in the signer's box
    language_share: float  # letters in the script of the language
    text_confidence: float  # of the recogniser


@dataclass(frozen=True)
class Thresholds:
    """The limits within which a clip is kept. The defaults are starting values, to be tuned for each corpus."""

    min_seconds: float = 1.0
    max_seconds: float = 30.0
    min_signer_share: float = 0.9
    min_single_share: float = 0.9
    min_hands_share: float = 0.5
    min_hand_speed: float = 0.2
    min_characters_per_second: float = 0.5
    max_characters_per_second: float = 30.0
    max_scene_cuts: int = 0
    min_language_share: float = 0.5
    min_text_confidence: float = 0.5

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) not in (int, float) or not 0 <= value < float("inf"):
                raise InputError(f"thresholds: {field.name}", f"is {value!r}", "give a number of 0 or more")


def measure_quality(
    keypoints_TJ3: np.ndarray,
    fps: float,
    aspect: float,
    persons_T: np.ndarray,
    scene_cuts: int,
    sentence: Sentence,
    language: str,
) -> Quality:
    """The quality of a clip of T >= 1 frames.

    `keypoints_TJ3` has x and y as fractions of a picture whose width is `aspect` times its height; `persons_T` counts
    the persons in the signer's box, as the last detection saw them.
    """
    assert len(keypoints_TJ3) == len(persons_T) > 0
    seconds = len(keypoints_TJ3) / fps
    confidence_TJ = keypoints_TJ3[..., 2].astype(np.float32)
    hands = [confidence_TJ[:, joints].mean(axis=1) > CONFIDENT for joints in (LEFT_HAND, RIGHT_HAND)]
    speed = hand_speed(keypoints_TJ3, fps, aspect)
    return Quality(
        seconds=round(seconds, 3),
        signer_share=_share(confidence_TJ.max(axis=1) > 0),
        single_share=_share(persons_T == 1),
        hands_share=_share(hands[0] & hands[1]),
        hand_speed=round(float(speed.mean()) if len(speed) else 0.0, 3),
        characters_per_second=round(len("".join(sentence.text.split())) / seconds, 3),
        scene_cuts=scene_cuts,
        language_share=round(language_share(sentence.text, language), 3),
        text_confidence=sentence.confidence,
    )


def rejection_reasons(quality: Quality, thresholds: Thresholds) -> list[str]:
    """The names of the thresholds that a clip misses, as `min_seconds`; [] for a clip that is kept."""
    values, reasons = asdict(quality), []
    for name, limit in asdict(thresholds).items():
        kind, _, field = name.partition("_")
        if values[field] < limit if kind == "min" else values[field] > limit:
            reasons.append(name)
    return reasons


def language_share(text: str, language: str) -> float:
    """The share of a text's letters that are in the script of the language; 0 for a text without letters."""
    letters = [c for c in text if c.isalpha()]
    own = re.findall(f"[{_SCRIPTS.get(language, _LATIN)}]", "".join(letters))
    return len(own) / len(letters) if letters else 0.0


def picture_change(before_HW3: np.ndarray, picture_HW3: np.ndarray) -> float:
    """How different two pictures of one size are, 0 to 1: the median difference of 64 blocks' mean colours.

    A signer moves in few of the blocks; a scene cut changes most. See SCENE_CUT.
    """
    before, now = _blocks(before_HW3), _blocks(picture_HW3)
    return float(np.median(np.abs(before - now).max(axis=-1))) / 255


SCENE_CUT = 0.08  # picture_change between neighbouring frames


def _blocks(picture_HW3: np.ndarray, side: int = 8) -> np.ndarray:
    """Mean colours [side, side, 3] of blocks; every fourth pixel of a line and column is enough."""
    small = picture_HW3[::4, ::4] if min(picture_HW3.shape[:2]) >= 4 * side else picture_HW3
    side = min(side, *small.shape[:2])
    rows, columns = (np.linspace(0, size, side + 1).astype(int)[:-1] for size in small.shape[:2])
    sums = np.add.reduceat(np.add.reduceat(small.astype(np.float32), rows, axis=0), columns, axis=1)
    counts = np.outer(np.diff([*rows, small.shape[0]]), np.diff([*columns, small.shape[1]]))
    return sums / counts[..., None]


def _share(which: np.ndarray) -> float:
    return round(float(np.mean(which)), 3)
