"""A small valid input for every reader, and how a user's command reads it.

`read` returns the reader's result, after checking it for what must never occur: numbers that are not finite, names
outside their folder, scripts in a page.
"""

import json
import math
import re
from contextlib import chdir
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from benchmarks.faults_inputs_corpora import CORPUS_SUBJECTS, SIDE, TEXTS, Subject, text_files
from benchmarks.faults_stores import observe, open_store, write_small_store
from unisign_fast.checkpoints.model_folder import save_model
from unisign_fast.checkpoints.weight_files import read_weights
from unisign_fast.evaluation.predictions import read_predictions
from unisign_fast.evaluation.summary import summarise, summary_table
from unisign_fast.evaluation.synonyms import read_class_list
from unisign_fast.inference.processor import Processor
from unisign_fast.model.config import ModelConfig, MT5Shape
from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.crops.video import VideoFile
from unisign_fast.pipelines.errors import InputError
from unisign_fast.report.page import write_report
from unisign_fast.text.tokenizer import train_tokenizer
from unisign_fast.training.checkpoint import Checkpoints
from unisign_fast.training.cli import parse
from unisign_fast.training.initial_weights import pretrained_shape
from unisign_fast.training.recipes import default_settings
from unisign_fast.utils.distributed import Ranks

ONE_RANK = Ranks(0, 1, torch.device("cpu"))
CODECS = {"mp4": ("libx264", "yuv420p"), "webm": ("libvpx-vp9", "yuv420p"), "avi": ("mjpeg", "yuvj420p")}


# Weights and models ---------------------------------------------------------------------------------------------------


def _weights(name: str, folder: Path) -> object:
    weights = read_weights(folder / name)
    assert all(bool(torch.isfinite(x).all()) for x in weights.values() if x.is_floating_point()), "not finite"
    return weights


def _tensors() -> dict[str, torch.Tensor]:
    return {f"layer.{i}.weight": torch.rand(8, 9, generator=torch.Generator().manual_seed(i)) for i in range(4)}


def _torch_file(folder: Path) -> None:
    content = {"model": _tensors(), "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, "epoch": 3}
    torch.save(content, folder / "weights.pth")


def _model_folder(folder: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, folder.with_name("tokenizer"))
    size = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
    shape = MT5Shape(vocab_size=-(-len(tokenizer) // 8) * 8, **size)
    config = replace(ModelConfig(), mt5=shape, pose_channels=(4, 4, 4, 8))
    torch.manual_seed(0)
    save_model(folder, config, UniSign(config).state_dict(), tokenizer)


def _model(folder: Path) -> object:
    model, tokenizer = UniSign.load(folder)
    state = model.state_dict()
    assert all(bool(torch.isfinite(x).all()) for x in state.values()), "not finite"
    assert model.companions is not None
    Processor.from_pretrained(folder)
    return state, asdict(model.config), asdict(model.companions.data), tokenizer.fingerprint


def _mt5_config(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(asdict(MT5Shape()) | {"model_type": "mt5"}))


# Stores, checkpoints, runs --------------------------------------------------------------------------------------------


def _store(folder: Path) -> None:
    write_small_store(folder / "store")
    observe(*open_store(folder / "store"))  # leaves cached targets


def _observed(folder: Path) -> object:
    """Everything that training sees of a store with crops. Raises the error of the first clip that is rejected."""
    seen = observe(*open_store(folder / "store"))
    for value in seen.values():
        if isinstance(value, InputError):
            raise value
    return {" ".join(name): value for name, value in seen.items()}


def _checkpoints(folder: Path) -> None:
    checkpoints = Checkpoints(folder / "checkpoints", ONE_RANK)
    for step in (2, 4):
        tensors = {name: tensor + step for name, tensor in _tensors().items()}
        state = {"step": step, "best": 1.5, "identity": {"setting": {}}}
        checkpoints.save(step, state, partial(_save_tensors, tensors))


def _save_tensors(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    save_file(tensors, folder / "state-0.safetensors")


def _newest(folder: Path) -> object:
    """State and tensors of the newest complete checkpoint. Raises InputError if it is not the last one."""
    checkpoint, skipped = Checkpoints(folder / "checkpoints", ONE_RANK).newest()
    for problem in skipped:
        where, _, reason = problem.partition(": ")
        raise InputError(where, reason, "the previous one is used")
    if checkpoint is None:
        raise InputError(folder / "checkpoints", "holds no checkpoint", "start again")
    return checkpoint.state, load_file(checkpoint.folder / "state-0.safetensors")


def _run_folder(folder: Path) -> None:
    run = folder / "run"
    run.mkdir()
    settings = default_settings("demo", "paper", 3, "slt")
    settings = replace(settings, stores=(Path("nowhere"),), data=replace(settings.data, p_samp=0.0))
    (run / "settings.json").write_text(json.dumps(settings.as_json() | {"start": {"command": []}}))
    events: list[dict] = [{"event": "start", "time": "2026-01-01T00:00:00", "steps": 4}]
    for step in range(1, 5):
        row = {"loss": 1.0 / step, "grad_norm": 0.5, "learning_rate": 1e-3, "clips_per_s": 9.5, "epoch": step // 2}
        events.append({"event": "step", "time": "2026-01-01T00:00:00", "step": step} | row)
    scores = dict.fromkeys(("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "chrF"), 12.5)
    events.append({"event": "evaluation", "time": "2026-01-01T00:00:00", "epoch": 1, "step": 4, "scores": scores})
    (run / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    about = {"signature": "s", "normalization": "single-spaces", "count": 3, "language": "en", "split": "test"}
    (run / "scores-test.json").write_text(json.dumps({"values": scores, **about}))
    rows = [{"id": f"S{i}", "prediction": text, "reference": TEXTS[0]} for i, text in enumerate(TEXTS)]
    (run / "predictions-test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _report(folder: Path) -> object:
    out = folder / "report.html"
    write_report(folder / "run", out, clips=2, faces=False)
    page = out.read_text()
    out.unlink()
    assert page.lower().count("<script") == 2 and "alert(1)</script" not in page, "a script in the report"
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", page.replace(str(folder), ""))


def _summary(folder: Path) -> object:
    rows, _ = summarise(folder)
    summary_table("runs", rows)
    return list(map(asdict, rows))


def _predictions(folder: Path) -> object:
    return list(map(asdict, read_predictions(folder / "run" / "predictions-test.jsonl")))


def _class_list(name: str, folder: Path) -> object:
    return read_class_list(folder / name)


def _config(folder: Path) -> object:
    return parse("training", (1, 2, 3), ["--config", str(folder / "run" / "settings.json")]).as_json()


# Videos ---------------------------------------------------------------------------------------------------------------


def _video(name: str, codec: str, pixels: str, folder: Path) -> None:
    rng = np.random.default_rng(0)
    with av.open(str(folder / name), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, pixels
        for picture in rng.integers(0, 255, (12, SIDE, SIDE, 3), np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _pictures(name: str, folder: Path) -> object:
    with VideoFile(folder / name) as video:
        info = video.info()
        assert info.frames >= 1 and math.isfinite(info.fps) and info.fps > 0, info
        shapes = {picture.shape for _, picture in video.frames(np.arange(info.frames))}
        assert shapes == {(info.height, info.width, 3)}, shapes
        return asdict(replace(info, times=None))


SUBJECTS: dict[str, Subject] = CORPUS_SUBJECTS | {
    "weights .pth": Subject(_torch_file, partial(_weights, "weights.pth")),
    "weights .safetensors": Subject(
        lambda folder: save_file(_tensors(), folder / "weights.safetensors"), partial(_weights, "weights.safetensors")),
    "model folder": Subject(_model_folder, _model),
    "mT5's config.json": Subject(_mt5_config, lambda folder: asdict(pretrained_shape(str(folder)))),
    "keypoint and crop store": Subject(_store, _observed, checked=True),
    "checkpoints": Subject(_checkpoints, _newest, checked=True),
    "a run's report": Subject(_run_folder, _report),
    "a run's summary": Subject(_run_folder, _summary),
    "settings.json": Subject(_run_folder, _config, damaged="settings.json"),
    "predictions": Subject(_run_folder, _predictions, damaged="predictions-test.jsonl"),
    "class list": Subject(text_files(a__txt="0\tbook\n1\tdrink\n"), partial(_class_list, "a.txt")),
    "class list, JSON": Subject(text_files(a__json='[["book", "books"], "cup"]'), partial(_class_list, "a.json")),
    **{f"video .{suffix}": Subject(partial(_video, f"a.{suffix}", *codec), partial(_pictures, f"a.{suffix}"))
       for suffix, codec in CODECS.items()},
}  # fmt: skip


def read(name: str, folder: Path) -> object:
    """The reader's result for an input. It runs inside the folder, so that files it writes by mistake are noticed."""
    with chdir(folder):
        return SUBJECTS[name].read(folder)
