"""The records that the stages exchange: words and sentences with their times, and an interpreter's lag.

Times are in seconds from the programme's first video frame.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Word:
    """A token of the text, including its leading space and trailing punctuation.

    Concatenated, the texts of all words give the whole text. A Chinese character is a word.
    """

    text: str
    start: float
    end: float
    confidence: float  # of the recogniser, 0 to 1; 1 for captions


@dataclass(frozen=True)
class Sentence:
    """The text of one clip, when it is spoken, and the mean confidence of its words."""

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class Lag:
    """How many seconds after its speech the signing of a sentence starts and ends; negative if before.

    Both are medians over a programme or series. `drift` is how much larger a programme's lag is at certain times, with
    linear interpolation in between: (seconds from the programme's start, seconds to add). `confidence` is the z-score
    of the correlation between speech and hand movement (lag.py); 0 if nothing was estimated.
    """

    start_seconds: float = 0.0
    end_seconds: float = 0.0
    confidence: float = 0.0
    drift: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())

    def applied(self, sentence: Sentence) -> tuple[float, float]:
        """Start and end of a sentence's signing, in seconds from the programme's start, at least 0."""
        times, more = self.drift
        drift = float(np.interp((sentence.start + sentence.end) / 2, times, more)) if times else 0.0
        start, end = sentence.start + self.start_seconds + drift, sentence.end + self.end_seconds + drift
        return max(0.0, start), max(0.0, end)
