"""Speech recognition: words with times from a programme's sound, by FunASR, as in the paper, or by faster-whisper.

Both are optional (`bash launch/install.sh funasr` or `curation`) and imported when a recogniser is opened. They
download their weights or read them from a folder.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol, get_args

import numpy as np

from ..errors import InputError
from .audio import SAMPLE_RATE
from .records import Word

RecognizerName = Literal["funasr", "whisper"]


class Recognizer(Protocol):
    """Recognises the words in speech."""

    def recognize(self, samples: np.ndarray, where: Path) -> list[Word]:
        """The words in `samples` [N] float32 at SAMPLE_RATE, in order. `where` names the programme in an InputError."""
        ...


def open_recognizer(name: RecognizerName, language: str, model: str | None = None, device: str = "auto") -> Recognizer:
    """A recogniser for speech in `language`; `model` is a name its library knows or a folder (None: the default).

    `device`: auto, cpu or cuda. Raises InputError if the package is missing or the model cannot be loaded.
    """
    if name not in get_args(RecognizerName):
        raise InputError("--asr", f"{name!r} is not valid", f"choose {' or '.join(get_args(RecognizerName))}")
    if name == "funasr":
        if language not in ("zh", "en"):
            raise InputError("--asr funasr", f"does not know {language}", "use --asr whisper")
        return FunASR(model or ("paraformer-zh" if language == "zh" else "paraformer-en"), device)
    return FasterWhisper(model or "large-v3", language, device)


class FunASR:
    """Paraformer with its voice activity and punctuation models, the paper's recogniser."""

    def __init__(self, model: str, device: str):
        package = _package("funasr", "--asr funasr", "funasr")
        options = {} if device == "auto" else {"device": device}
        with _loading("funasr", model):
            self._model = package.AutoModel(
                model=model,
                vad_model="fsmn-vad",
                punc_model="ct-punc",
                disable_update=True,
                disable_pbar=True,
                **options,
            )

    def recognize(self, samples: np.ndarray, where: Path) -> list[Word]:
        """The words, with confidence 1: Paraformer gives none. Raises InputError if text and times do not match."""
        results = self._model.generate(
            input=samples, fs=SAMPLE_RATE, sentence_timestamp=True, return_raw_text=True, batch_size_s=300
        )
        return [word for result in results for word in align_funasr(result, where)]


def align_funasr(result: dict[str, Any], where: object) -> list[Word]:
    """The words of one of FunASR's results, from `text`, `raw_text` and `timestamp` ([[ms, ms] of each token]).

    `raw_text` has the tokens separated by spaces, `text` the same ones with punctuation. `sentence_info` is not used:
    its times are wrong in several versions. Raises InputError, naming `where`, unless tokens, times and text agree.
    """
    text, times = str(result.get("text", "")), result.get("timestamp") or []
    tokens = str(result.get("raw_text", "")).split()
    if not text.strip() and not times:
        return []
    remedy = "install another version of funasr, or use --asr whisper"
    if len(tokens) != len(times):
        raise InputError(where, f"FunASR gives {len(tokens)} tokens and {len(times)} times", remedy)
    words: list[Word] = []
    position, now = 0, 0.0
    for token, (start_ms, end_ms) in zip(tokens, times, strict=True):
        begin = text.find(token, position)
        between = text[position:begin]
        if begin < 0 or any(c.isalnum() for c in between):
            raise InputError(where, f"FunASR's text does not continue with its token {token!r}", remedy)
        start, end = start_ms / 1000, end_ms / 1000
        if not now <= end or not start <= end:
            raise InputError(where, f"FunASR's times run backwards at {start} s", remedy)
        marks = between.rstrip()
        if words:
            words[-1] = _with_text(words[-1], words[-1].text + marks)
            between = between[len(marks) :]
        words.append(Word(between + token, start, end, 1.0))
        position, now = begin + len(token), start
    rest = text[position:]
    if any(c.isalnum() for c in rest):
        raise InputError(where, f"FunASR's text goes on after its last token: {rest[:40]!r}", remedy)
    words[-1] = _with_text(words[-1], words[-1].text + rest.rstrip())
    return words


def _with_text(word: Word, text: str) -> Word:
    return Word(text, word.start, word.end, word.confidence)


class FasterWhisper:
    """Whisper on CTranslate2."""

    def __init__(self, model: str, language: str, device: str):
        package = _package("faster_whisper", "--asr whisper", "curation")
        self._language = language
        with _loading("faster-whisper", model):
            self._model = package.WhisperModel(model, device=device)

    def recognize(self, samples: np.ndarray, where: Path) -> list[Word]:
        """The words, with Whisper's probabilities as confidence. Raises InputError if a text has no times."""
        segments, _ = self._model.transcribe(
            samples,
            language=self._language,
            word_timestamps=True,
            vad_filter=True,
            condition_on_previous_text=False,  # a loop of repeated text would go on for minutes
        )
        return [word for segment in segments for word in words_of_segment(segment, where)]


def words_of_segment(segment: Any, where: object) -> Sequence[Word]:
    """The words of one of faster-whisper's segments. Raises InputError if it has a text but no words."""
    if segment.text.strip() and not segment.words:
        raise InputError(where, f"faster-whisper gives no word times at {segment.start:.1f} s", "update faster-whisper")
    words = segment.words or ()  # their numbers are numpy's
    return [Word(w.word, *(round(float(x), 4) for x in (w.start, w.end, w.probability))) for w in words]


def _package(name: str, option: str, extra: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        problem = f"the package {name} cannot be imported ({error})"
        raise InputError(option, problem, f"run `bash launch/install.sh {extra}`") from None


@contextmanager
def _loading(library: str, model: str) -> Iterator[None]:
    """Converts whatever the library raises while downloading or loading into an InputError."""
    try:
        yield
    except Exception as error:
        problem = f"{library} cannot load it ({type(error).__name__}: {error})"
        raise InputError(f"--asr-model {model}", problem, "name a model it knows, or a folder") from None
