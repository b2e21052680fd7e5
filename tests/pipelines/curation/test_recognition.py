"""Results of the recognisers as words. FunASR's are written by hand in its recorded shape: its weights are not here."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import av
import numpy as np
import pytest

from unisign_fast.pipelines.curation.audio import SAMPLE_RATE, read_audio
from unisign_fast.pipelines.curation.recognition import align_funasr, open_recognizer
from unisign_fast.pipelines.curation.records import Word
from unisign_fast.pipelines.errors import InputError

# By hand, in the shape of `generate(..., sentence_timestamp=True, return_raw_text=True)`.
FUNASR = {
    "key": "rand_key_2yW4Acq9GFz6Y",
    "text": "大家好，欢迎收看 AI 新闻。今天三点五度？",
    "raw_text": "大 家 好 欢 迎 收 看 AI 新 闻 今 天 三 点 五 度",
    "timestamp": [[n * 200 + 500, n * 200 + 680] for n in range(16)],
    "sentence_info": [{"text": "大家好，", "start": 0, "end": 99_999_999, "timestamp": []}],
}


def test_funasr_text_is_aligned_to_its_times():
    words = align_funasr(FUNASR, "news.mp4")
    assert "".join(w.text for w in words) == FUNASR["text"]
    assert words[2] == Word("好，", 0.9, 1.08, 1.0)
    assert [w.text for w in words[6:10]] == ["看", " AI", " 新", "闻。"]
    assert words[-1] == Word("度？", 3.5, 3.68, 1.0)
    assert align_funasr({"key": "a", "text": "", "timestamp": []}, "news.mp4") == []


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"timestamp": FUNASR["timestamp"][:-1]}, "16 tokens and 15 times"),
        ({"raw_text": FUNASR["raw_text"] + " 呢", "timestamp": FUNASR["timestamp"] + [[9000, 9100]]}, "token '呢'"),
        ({"text": FUNASR["text"].replace("今", "明")}, "token '今'"),
        ({"text": FUNASR["text"] + "再见。"}, "goes on after its last token: '？再见。'"),
        ({"timestamp": FUNASR["timestamp"][:-1] + [[100, 50]]}, "run backwards at 0.1 s"),
        ({"timestamp": FUNASR["timestamp"][:-1] + [[100, 200]]}, "run backwards at 0.1 s"),
    ],
)
def test_a_mismatch_names_the_programme(change, problem):
    with pytest.raises(InputError, match=f"^news.mp4: FunASR.*{problem}"):
        align_funasr(FUNASR | change, "news.mp4")


def fake_package(monkeypatch, name: str, **classes) -> None:
    package = ModuleType(name)
    for attribute, value in classes.items():
        setattr(package, attribute, value)
    monkeypatch.setitem(sys.modules, name, package)


def test_funasr_is_called_as_in_the_paper(monkeypatch):
    calls = []

    class AutoModel:
        def __init__(self, **options):
            calls.append(options)

        def generate(self, **options):
            calls.append(options)
            return [FUNASR]

    fake_package(monkeypatch, "funasr", AutoModel=AutoModel)
    samples = np.zeros(16, np.float32)
    assert open_recognizer("funasr", "zh").recognize(samples, Path("news.mp4")) == align_funasr(FUNASR, "")
    assert calls[0]["model"] == "paraformer-zh"
    assert (calls[0]["vad_model"], calls[0]["punc_model"]) == ("fsmn-vad", "ct-punc")
    assert calls[1]["input"] is samples and calls[1]["sentence_timestamp"] and calls[1]["return_raw_text"]


def test_faster_whisper_gives_words_with_probabilities(monkeypatch):
    timed = [SimpleNamespace(word=" Hello", start=0.52, end=0.9, probability=0.91234)]

    class WhisperModel:
        def __init__(self, model, device):
            assert (model, device) == ("tiny.en", "cpu")

        def transcribe(self, samples, language, word_timestamps, **options):
            assert language == "en" and word_timestamps
            empty = SimpleNamespace(text=" Lost", start=2.0, words=None)
            return iter(
                [SimpleNamespace(text=" Hello", start=0.5, words=timed), *([empty] if samples.any() else [])]
            ), 0

    fake_package(monkeypatch, "faster_whisper", WhisperModel=WhisperModel)
    recognizer = open_recognizer("whisper", "en", "tiny.en", "cpu")
    assert recognizer.recognize(np.zeros(4, np.float32), Path("a.mp4")) == [Word(" Hello", 0.52, 0.9, 0.9123)]
    with pytest.raises(InputError, match="a.mp4: faster-whisper gives no word times at 2.0 s"):
        recognizer.recognize(np.ones(4, np.float32), Path("a.mp4"))


def test_missing_packages_and_models_are_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "funasr", None)  # as if it were not installed
    with pytest.raises(InputError, match="--asr funasr: the package funasr .*install.sh funasr`"):
        open_recognizer("funasr", "zh")
    with pytest.raises(InputError, match="--asr funasr: does not know de"):
        open_recognizer("funasr", "de")
    with pytest.raises(InputError, match="--asr: 'sphinx' is not valid"):
        open_recognizer("sphinx", "en")

    def fail(model, device):
        raise RuntimeError("no such\nmodel")

    fake_package(monkeypatch, "faster_whisper", WhisperModel=fail)
    with pytest.raises(
        InputError, match=r"--asr-model big: faster-whisper cannot load it \(RuntimeError: no such model"
    ):
        open_recognizer("whisper", "en", "big")


def write_tone(path: Path, rate: int, seconds: float, late: float = 0.0) -> None:
    """A stereo file with silence and, from 0.5 s on, a tone; `late` is when the sound starts."""
    at = np.arange(round(rate * seconds)) / rate
    tone = (np.sin(2 * np.pi * 440 * at) * (at > 0.5) * 12_000).astype(np.int16)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width = video.height = 64
        sound = container.add_stream("aac", rate=rate, layout="stereo")
        for n in range(round(seconds * 10)):
            picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            picture.pts = n
            container.mux(video.encode(picture))
        container.mux(video.encode())
        for start in range(0, len(tone), 1024):
            piece = np.repeat(tone[start : start + 1024], 2)[None]
            frame = av.AudioFrame.from_ndarray(piece, format="s16", layout="stereo")
            frame.sample_rate, frame.pts = rate, start + round(late * rate)
            container.mux(sound.encode(frame))
        container.mux(sound.encode())


@pytest.mark.parametrize("late", [0.0, 0.4])
def test_sound_is_16_khz_and_aligned_with_the_picture(tmp_path, late):
    write_tone(tmp_path / "a.mkv", 44_100, 2.0, late)
    samples = read_audio(tmp_path / "a.mkv")
    assert samples.dtype == np.float32 and abs(len(samples) / SAMPLE_RATE - 2 - late) < 0.1
    assert abs(np.flatnonzero(np.abs(samples) > 0.2)[0] / SAMPLE_RATE - 0.5 - late) < 0.03
    assert abs(np.abs(samples[-SAMPLE_RATE // 2 : -SAMPLE_RATE // 4]).max() - 12_000 / 32_768) < 0.02


def test_programmes_without_sound_are_one_line(tmp_path):
    with av.open(str(tmp_path / "mute.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width = stream.height = 64
        picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(picture))
        container.mux(stream.encode())
    with pytest.raises(InputError, match="mute.mp4: has no sound"):
        read_audio(tmp_path / "mute.mp4")
    for content in (b"", b"RIFF" + bytes(100), b"\x1a\x45\xdf\xa3" + bytes(2000)):
        (tmp_path / "bad.mp4").write_bytes(content)
        with pytest.raises(InputError, match="bad.mp4"):
            read_audio(tmp_path / "bad.mp4")
    with pytest.raises(InputError, match="none.mp4"):
        read_audio(tmp_path / "none.mp4")
