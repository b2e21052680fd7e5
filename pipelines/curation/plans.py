"""The first stage: a programme's words with their times, and the spans of its video to estimate poses in.

Words are not yet cut into sentences, nor shifted by the lag, so changing the cut or the lag costs nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ..atomic_io import replaced
from ..crops.video import VideoInfo, open_media, read_video_info
from ..errors import InputError
from ..input_files import read_bytes
from .audio import read_audio
from .captions import read_caption_words
from .lag import speech_activity
from .makers import Maker
from .recognition import Recognizer, RecognizerName, open_recognizer
from .records import Word

VERSION = 1  # of the computation: after a change, all plans are computed again
MOST_DRIFT = 0.5  # frames by which a timestamp may differ from that of a constant frame rate


@dataclass(frozen=True)
class Plan:
    """What is known about a programme before its poses are estimated."""

    fps: float
    frames: int
    width: int  # pixels
    height: int
    words: list[Word]
    speech: bytes  # speech activity, 0 to 255, at the rate of lag.py; empty without sound

    @property
    def speech_activity(self) -> np.ndarray:
        """[N] float32 at lag.RATE: 1 loud, 0 silent."""
        return np.frombuffer(self.speech, np.uint8).astype(np.float32) / 255


@dataclass(frozen=True)
class TextSettings:
    """Where the words come from."""

    recognizer: RecognizerName | None  # None: captions
    model: str | None
    device: str


class PlanMaker(Maker):
    """Items: key, video, captions ("" for recognition), language."""

    stage = "plan"

    def __init__(self, root: str, run: str, text: TextSettings):
        super().__init__(root, run)
        self._text = text
        self._recognizers: dict[str, Recognizer] = {}

    def load(self) -> None:
        """Does nothing: each language's recogniser is loaded with its first programme."""

    def make(self, item: dict[str, Any]) -> Plan:
        video = Path(item["video"])
        info = read_video_info(video)
        _check_rate(video, info)
        samples = None
        if self._text.recognizer or _has_sound(video):
            samples = read_audio(video)
        if self._text.recognizer:
            assert samples is not None
            words = self._recognizer(item["language"]).recognize(samples, video)
        else:
            words = read_caption_words(Path(item["captions"]))
        speech = b"" if samples is None else (speech_activity(samples) * 255).round().astype(np.uint8).tobytes()
        return Plan(info.fps, info.frames, info.width, info.height, words, speech)

    def _recognizer(self, language: str) -> Recognizer:
        if language not in self._recognizers:
            assert self._text.recognizer is not None
            self._recognizers[language] = open_recognizer(
                self._text.recognizer, language, self._text.model, self._text.device
            )
        return self._recognizers[language]

    def write(self, key: str, content: Plan, seconds: float) -> None:
        with replaced(self.folder.plan(key), writer=self._run) as part:
            part.write_bytes(msgspec.json.encode(content))

    def is_finished(self, key: str) -> bool:
        return self.folder.plan(key).exists()


def read_plan(path: Path) -> Plan:
    """Read a plan. Raises InputError if it is damaged."""
    try:
        return msgspec.json.decode(read_bytes(path), type=Plan)
    except msgspec.MsgspecError as error:
        raise InputError(path, f"is damaged ({error})", "delete it and run again") from None


def _check_rate(video: Path, info: VideoInfo) -> None:
    """Raises InputError unless the frame rate is constant: text and poses are aligned by it."""
    if info.times is None:
        return
    drift = np.abs(info.times - info.times[0] - np.arange(info.frames) / info.fps).max() * info.fps
    if drift > MOST_DRIFT:
        problem = f"its frame rate is not constant: timestamps drift by up to {drift:.1f} frames"
        raise InputError(video, problem, f"encode it again at a constant rate (ffmpeg -i IN -r {info.fps:.0f} OUT)")


def _has_sound(video: Path) -> bool:
    with open_media(video) as container:
        return bool(container.streams.audio)


def spans(frames: int, fps: float, part_seconds: float) -> list[tuple[int, int]]:
    """First and end frame of each part of a video. All are equally long except the last, which takes the remainder."""
    length = max(1, round(part_seconds * fps))
    starts = list(range(0, max(1, frames - length // 2), length))
    return list(zip(starts, [*starts[1:], frames]))
