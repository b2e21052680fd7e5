"""A small run to report on, and a parser of the report's page."""

import json
import re
import sys
from contextlib import closing
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from toy_training import ROOT, run_script
from video_files import write_video

from unisign_fast.checkpoints.model_folder import save_model
from unisign_fast.evaluation.evaluate import MAIN_METRIC
from unisign_fast.evaluation.metrics import score
from unisign_fast.evaluation.predictions import Prediction, write_json, write_predictions
from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.pipelines.skeleton import WHOLEBODY, Skeleton
from unisign_fast.pipelines.store.keypoint_store import KeypointStore, KeypointStoreWriter
from unisign_fast.pipelines.targets import Task
from unisign_fast.text.tokenizer import train_tokenizer
from unisign_fast.training.recipes import RECIPES
from unisign_fast.training.settings import RunSettings
from unisign_fast.utils.event_log import EventLog

SIDE, FRAMES = 64, 20
TEXTS = ["我喜欢<b>茶。", "他喜欢<b>水。", "我<b>明天去学校。"]
SPLITS = ("train", "train", "dev", "test", "test", "test")
SOURCE = {"estimator": "test", "version": "1", "coordinates": "fractions"}
STYLE = ROOT / "unisign_fast/report/style.css"


def write_store(folder: Path) -> Path:
    """24 clips with videos, one of them cut short; hands that move over a gradient, their confidence falling."""
    rng = np.random.default_rng(0)
    (folder / "videos").mkdir(parents=True)
    x, y = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
    pictures = [np.stack([3 * x, 3 * y, 10 * t + 0 * x], axis=-1).astype(np.uint8) for t in range(FRAMES)]
    with KeypointStoreWriter(folder, SOURCE) as writer:
        for i in range(24):
            video = write_video(folder / "videos" / f"{i}.mp4", pictures)
            if i == 11:
                video.write_bytes(video.read_bytes()[:500])
            keypoints = rng.uniform(0.3, 0.7, (1, 133, 3)) + rng.uniform(-0.02, 0.02, (FRAMES, 133, 3))
            keypoints[..., 2] = np.linspace(0.95, 0.2, FRAMES)[:, None]
            about = {"id": f"clip{i}", "split": SPLITS[i % 6], "language": "zh", "text": TEXTS[i % 3], "gloss": "我 茶"}
            writer.add(keypoints, fps=25.0, width=SIDE, height=SIDE, source=f"videos/{i}.mp4", **about)
    return folder


def write_keypoints(folder: Path, clips: int = 12, skeleton: Skeleton = WHOLEBODY) -> Path:
    """A store without videos: the first clips of `write_store`, of 3 frames each."""
    rng = np.random.default_rng(0)
    with KeypointStoreWriter(folder, SOURCE, skeleton=skeleton) as writer:
        for i in range(clips):
            about = {"id": f"clip{i}", "split": SPLITS[i % 6], "language": "zh", "text": TEXTS[i % 3], "gloss": "我 茶"}
            keypoints = rng.uniform(0.3, 0.7, (3, len(skeleton.joints), 3))
            writer.add(keypoints, fps=25.0, width=SIDE, height=SIDE, source="", **about)
    return folder


def write_run(
    folder: Path, store: Path, task: Task, rows: list[Prediction], evaluations: int, p_samp: float = 0.0
) -> Path:
    """The files of a run that was never trained: settings, a log of `evaluations` evaluations, predictions, scores."""
    folder.mkdir(parents=True)
    data = DataSettings(task=task, p_samp=p_samp, max_frames=FRAMES)
    settings = RunSettings(stage=3, stores=(store,), out=folder, data=data).as_json()
    opened = KeypointStore.open(store)
    content = f"{len(opened.clips)} clips, {opened.clips.total_frames} frames, CRC-32C {opened.manifest_crc32c:08x}"
    start = {"command": ["launch/finetune.py", "--task", task], "commit": 40 * "a" + "+", "versions": {"torch": "2.13"}}
    settings["start"] = start | {"data": [{"store": str(store), "content": content}], "ranks": 2}
    (folder / "settings.json").write_text(json.dumps(settings))
    metric = MAIN_METRIC[task][0]
    with closing(EventLog(folder / "log.jsonl")) as log:
        for step in range(1, evaluations + 1):
            log.write("step", step=step, loss=1 / step, learning_rate=3e-4, clips_per_s=9.0)
            log.write("evaluation", step=step, epoch=step - 1, scores={metric: 100 - 50 / step})
    if rows:
        write_predictions(folder / "predictions-test.jsonl", rows)
        scores = score(task, [row.prediction for row in rows], [row.reference for row in rows], "zh")
        write_json(folder / "scores-test.json", scores.plain() | {"split": "test", "language": "zh", "bad_clips": []})
    return folder


def make_run(folder: Path) -> Path:
    """FOLDER/run, a finished RGB-pose run of six steps: SLT, on FOLDER/store."""
    store = write_store(folder / "store")
    tokenizer = train_tokenizer(TEXTS, folder / "first")
    shape = RECIPES["demo"].model
    config = replace(shape, mt5=replace(shape.mt5, vocab_size=-(-len(tokenizer) // 8) * 8))
    save_model(folder / "first", config, UniSign(config).state_dict(), tokenizer)
    options = ["--start-from", folder / "first", "--efficientnet", "random", "--p-samp", 0.25, "--learning-rate", 0.01]
    often = ["--epochs", 6, "--evaluate-every-epochs", 3, "--log-every-steps", 1, "--max-bad-share", 0.2]
    line = [sys.executable, ROOT / "launch/finetune.py", "--stores", store, "--out", folder / "run", *options, *often]
    status, output = run_script([str(word) for word in line], DS_ACCELERATOR="cpu")
    assert status == 0, output
    return folder / "run"


class Page(HTMLParser):
    """A parsed page: its text, every attribute, and the data of its players."""

    def __init__(self, file: Path):
        super().__init__()
        self.source = file.read_text(encoding="utf-8")
        self.attributes: list[tuple[str, str, str]] = []  # tag, name, value
        self.tags: set[str] = set()
        self._texts: list[str] = []
        self._inside = ""
        self.feed(self.source)
        self.text = " ".join("".join(self._texts).split())
        (players,) = re.findall(r'<script type="application/json" id="players">(.*?)</script>', self.source, re.DOTALL)
        self.players = json.loads(players)

    def handle_starttag(self, tag, attrs):
        self._inside = tag
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        self._inside = ""
        self._texts.append(" " * (tag in ("td", "th")))

    def handle_data(self, data):
        if self._inside not in ("script", "style"):
            self._texts.append(data)

    def values(self, name: str) -> list[str]:
        return [value for _, result, value in self.attributes if result == name]


def palettes() -> dict[str, dict[str, str]]:
    """The named colours of the stylesheet, light and dark."""
    light, dark = re.findall(r":root \{(.*?)\}", STYLE.read_text(), re.DOTALL)
    return {name: dict(re.findall(r"--(\w+): (#\w{6});", text)) for name, text in (("light", light), ("dark", dark))}
