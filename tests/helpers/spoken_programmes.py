"""Programmes that espeak-ng speaks, with a demo interpreter beside the speaker: text, times and lag are known."""

import ctypes
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import av
import espeakng_loader
import numpy as np
from pose_networks import BLUE, GREEN, RED, dot

from unisign_fast.pipelines.curation.records import Word
from unisign_fast.pipelines.demo_corpus.interpreter import interpret
from unisign_fast.pipelines.demo_corpus.renderer import Camera, render
from unisign_fast.pipelines.demo_corpus.signer import SIGNERS

RETRIEVAL, WORD, MSG_TERMINATED, UTF8 = 1, 1, 6, 1
FPS, SIGNER_SIZE, SPEAKER_WIDTH = 12, (128, 128), 128


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@lru_cache(1)
def _library() -> tuple[ctypes.CDLL, int]:
    """espeak-ng, initialised once, and its sample rate."""
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate = library.espeak_Initialize(RETRIEVAL, 0, str(espeakng_loader.get_data_path()).encode(), 0)
    assert rate > 0, rate
    library.espeak_Synth.argtypes = [
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_uint,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_uint,
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]
    return library, rate


@dataclass(frozen=True)
class Speech:
    """Samples int16 at `rate`, and the words with the times at which espeak-ng starts them."""

    samples: np.ndarray
    rate: int
    words: list[Word]


def speak(text: str, voice: str = "en-us", words_per_minute: int = 150) -> Speech:
    """A text as espeak-ng speaks it. A word ends where the next one starts."""
    library, rate = _library()
    pieces: list[np.ndarray] = []
    starts: list[tuple[int, int, int]] = []  # position and length in characters, milliseconds

    def collect(samples, count, events) -> int:
        if samples and count:
            pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        number = 0
        while events[number].type:
            event = events[number]
            if event.type == WORD:
                starts.append((event.text_position - 1, event.length, event.audio_position))
            number += 1
        return 0

    callback = _Callback(collect)  # kept alive until synthesis ends
    library.espeak_SetSynthCallback(callback)
    assert library.espeak_SetVoiceByName(voice.encode()) == 0, voice
    library.espeak_SetParameter(1, words_per_minute, 0)
    encoded = text.encode()
    assert library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, UTF8, None, None) == 0
    library.espeak_Synchronize()
    library.espeak_SetSynthCallback(_Callback())
    samples = np.concatenate(pieces)
    ends = [start for _, _, start in starts[1:]] + [1000 * len(samples) / rate]
    places = [position for position, _, _ in starts] + [len(text)]
    words = [
        Word(text[places[number] : places[number + 1]], start / 1000, ends[number] / 1000, 1.0)
        for number, (_, _, start) in enumerate(starts)
    ]
    return Speech(samples, rate, words)


def with_pauses(
    sentences: Sequence[str], pauses: Sequence[float], voice: str = "en-us"
) -> tuple[Speech, list[tuple[float, float]]]:
    """Sentences with pauses after them, and when each is spoken: (start, end) in seconds."""
    pieces, words, times, at = [], [], [], 1.0
    for sentence, pause in zip(sentences, pauses, strict=True):
        speech = speak(sentence, voice)
        gap = np.zeros(round(at * speech.rate) - sum(map(len, pieces)), np.int16)
        pieces += [gap, speech.samples]
        loud = np.flatnonzero(np.abs(speech.samples) > 300) / speech.rate
        times.append((float(at + loud[0]), float(at + loud[-1])))
        words += [Word(w.text, w.start + at, w.end + at, 1.0) for w in speech.words]
        at += len(speech.samples) / speech.rate + pause
    pieces.append(np.zeros(4 * speech.rate, np.int16))
    return Speech(np.concatenate(pieces), speech.rate, words), times


def write_spoken_programme(
    path: Path, speech: Speech, spoken: Sequence[tuple[float, float]], lag: float, seed: int = 0
) -> list[tuple[float, float] | None]:
    """An mp4 with the speech and, on the right, an interpreter `lag` seconds behind; when each sentence is signed.

    For the stand-ins of pose_networks.py the interpreter stands in a blue frame, the person, and has bright points:
    blue and green at the right wrist, a weaker red one at a shoulder.
    """
    rng = np.random.default_rng(seed)
    seconds = len(speech.samples) / speech.rate
    signed = interpret([(a + lag, b + lag) for a, b in spoken], seconds, FPS, SIGNERS[seed % len(SIGNERS)], rng)
    width, height = SIGNER_SIZE
    camera = Camera(width, height, FPS, width / 2, 0.45 * height, 0.22 * width)
    wrists = camera.pixels(signed.performance.wrists[:, 1])
    silent = path.with_suffix(".signer.mp4")
    render(signed.performance, SIGNERS[seed % len(SIGNERS)], camera, silent)
    with av.open(str(silent)) as source, av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "crf": "20", "g": "50"})
        video.width, video.height, video.pix_fmt = SPEAKER_WIDTH + width, height, "yuv420p"
        sound = out.add_stream("aac", rate=speech.rate)
        for number, frame in enumerate(source.decode(video=0)):
            picture = np.zeros((height, SPEAKER_WIDTH + width, 3), np.uint8)
            picture[30:, 20:100] = 170, 120, 90  # the speaker
            picture[:, SPEAKER_WIDTH:] = _marked(frame.to_ndarray(format="rgb24"), wrists[number])
            shown = av.VideoFrame.from_ndarray(picture, format="rgb24")
            shown.pts, shown.time_base = number, Fraction(1, FPS)
            out.mux(video.encode(shown))
        out.mux(video.encode())
        _encode_sound(out, sound, speech)
    silent.unlink()
    return signed.signed


def _marked(picture: np.ndarray, wrist: np.ndarray) -> np.ndarray:
    picture = (0.35 * picture).astype(np.uint8)
    inner = picture[6:-6, 10:-10, BLUE]
    np.maximum(inner, 160, out=inner)
    dot(picture, BLUE, *wrist)
    dot(picture, GREEN, *wrist)
    shoulder = np.zeros_like(picture)
    dot(shoulder, RED, 40, 50)
    return np.maximum(picture, shoulder // 2)


def _encode_sound(out, stream, speech: Speech) -> None:
    file = BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setparams((1, 2, speech.rate, 0, "NONE", ""))
        wav.writeframes(speech.samples.tobytes())
    file.seek(0)
    with av.open(file) as source:
        for frame in source.decode(audio=0):
            out.mux(stream.encode(frame))
    out.mux(stream.encode())
