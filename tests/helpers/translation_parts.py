"""Models with nonsense output, stores, and the command launch/translate.py run in this process."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from video_files import write_video

from unisign_fast.checkpoints.model_folder import save_model
from unisign_fast.inference.translator import Translation, Translator
from unisign_fast.model.config import ModelConfig, MT5Shape
from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.corpus.recordings import recordings_of_store
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.pipelines.store.keypoint_store import KeypointStoreWriter
from unisign_fast.text.tokenizer import END, train_tokenizer
from unisign_fast.utils.console import run_command

ROOT = Path(__file__).resolve().parents[2]
SIDE, MAX_FRAMES = 64, 16
TEXTS = ["I like tea.", "Er geht in die Schule.", "Does he go to school?"]


def write_models(folder: Path) -> dict[str, Path]:
    """Models with random weights, whose nonsense texts depend on all of their input."""
    tokenizer = train_tokenizer(TEXTS * 20, folder / "tokenizer")
    size = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4}
    mt5 = MT5Shape(vocab_size=-(-len(tokenizer) // 8) * 8, **size)
    for name, p_samp in (("pose", 0.0), ("rgb", 0.5)):
        torch.manual_seed(0)
        config = ModelConfig(
            mt5=mt5,
            rgb=p_samp > 0,
            pose_channels=(8, 8, 16, 32),
            projection_std=0.5,
            backbone_width=0.25,
            backbone_depth=0.3,
            label_smoothing=0.2,
        )
        data = DataSettings(max_frames=MAX_FRAMES, p_samp=p_samp, crop_size=64)
        model = UniSign(config)
        if model.rgb is not None:  # the gate starts closed
            for parameter in model.rgb.parameters():
                torch.nn.init.normal_(parameter, std=0.3)
        with torch.no_grad():
            model.language_model.mt5.lm_head.weight[END] *= -3  # texts that end before the hundredth token
        save_model(folder / name, config, model.state_dict(), tokenizer, data)
    return {"pose": folder / "pose", "rgb": folder / "rgb"}


def write_store(folder: Path, lengths: list[int], language: str = "en") -> Path:
    """A store of the test split with noisy videos; clip i has lengths[i] frames."""
    rng = np.random.default_rng(0)
    (folder / "videos").mkdir(parents=True)
    with KeypointStoreWriter(folder, {"estimator": "test", "version": "1", "coordinates": "fractions"}) as writer:
        for i, frames in enumerate(lengths):
            pictures = list(rng.integers(0, 255, (frames, SIDE, SIDE, 3), np.uint8))
            write_video(folder / "videos" / f"{i}.mp4", pictures)
            keypoints = rng.uniform(0.2, 0.8, (frames, 133, 3))
            text = {"text": TEXTS[i % len(TEXTS)], "language": language, "split": "test"}
            size = {"width": SIDE, "height": SIDE, "fps": 10.0, "source": f"videos/{i}.mp4"}
            writer.add(keypoints, id=f"clip{i}", **text, **size)
    return folder


def translations(translator: Translator, store: Path) -> list[Translation]:
    result = list(translator.translate(recordings_of_store(store)))
    assert all(isinstance(one, Translation) for one in result), result
    return result


class Ended(NamedTuple):
    """How the command ended."""

    status: int
    output: str
    error: str


Run = Callable[..., Ended]


def translate_command(capfd: pytest.CaptureFixture) -> Run:
    """The command with its arguments, in this process."""
    command = runpy.run_path(str(ROOT / "launch" / "translate.py"))["translate"]

    def run(*arguments: object) -> Ended:
        capfd.readouterr()
        try:
            run_command(command, [str(argument) for argument in arguments])
            status = 0
        except SystemExit as end:
            status = end.code
        return Ended(status, *capfd.readouterr())

    return run


def lines(ended: Ended) -> list[dict]:
    assert ended.status == 0, ended
    return [json.loads(line) for line in ended.output.splitlines()]
