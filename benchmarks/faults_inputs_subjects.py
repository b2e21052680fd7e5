"""Small valid inputs of every reader, and how a user's command reads them.

`read` returns what the reader gives, checked for what may never be: numbers that are not finite, names outside their
folder, scripts in a page.
"""

import gzip
import json
import math
import pickle
import re
from collections.abc import Callable
from contextlib import chdir
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

import av
import numpy as np
import torch
from pose_format import Pose
from pose_format.numpy import NumPyPoseBody
from pose_format.pose_header import PoseHeader, PoseHeaderComponent, PoseHeaderDimensions
from safetensors.torch import load_file, save_file

from benchmarks.faults_stores import observe, open_store, write_small_store
from unisign_fast.checkpoints.model_folder import save_model
from unisign_fast.checkpoints.weight_files import read_weights
from unisign_fast.evaluation.predictions import read_predictions
from unisign_fast.evaluation.summary import summarise, summary_table
from unisign_fast.evaluation.synonyms import read_class_list
from unisign_fast.inference.processor import Processor
from unisign_fast.model.config import ModelConfig, MT5Shape
from unisign_fast.model.unisign import UniSign
from unisign_fast.pipelines.converters.dot_pose import PLACES
from unisign_fast.pipelines.converters.formats import pose_format
from unisign_fast.pipelines.converters.labels import read_labels
from unisign_fast.pipelines.crops.video import VideoFile, VideoInfo
from unisign_fast.pipelines.errors import InputError
from unisign_fast.report.page import write_report
from unisign_fast.text.tokenizer import train_tokenizer
from unisign_fast.training.checkpoint import Checkpoints
from unisign_fast.training.cli import parse
from unisign_fast.training.initial_weights import pretrained_shape
from unisign_fast.training.recipes import default_settings
from unisign_fast.utils.distributed import Ranks

FRAMES, JOINTS, SIDE = 3, 133, 64
ONE_RANK = Ranks(0, 1, torch.device("cpu"))
CODECS = {"mp4": ("libx264", "yuv420p"), "webm": ("libvpx-vp9", "yuv420p"), "avi": ("mjpeg", "yuvj420p")}
TEXTS = ("good morning", "good evening", "how are you")


@dataclass(frozen=True)
class Subject:
    """A kind of input: `write` puts a valid one into an empty folder, `read` reads it."""

    write: Callable[[Path], object]
    read: Callable[[Path], object]
    checked: bool = False  # every change has to be noticed: the files have checksums
    damaged: str = "*"  # files that are damaged


def _keypoints() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.uniform(0.2, 0.8, (FRAMES, 1, JOINTS, 2)), rng.uniform(0.4, 1, (FRAMES, 1, JOINTS))


# Poses ----------------------------------------------------------------------------------------------------------------


def _pose(format: str, name: str, folder: Path) -> object:
    video = VideoInfo(SIDE, SIDE, 25.0, FRAMES)
    pose = pose_format(format).read_pose(folder / name, video)
    assert pose.keypoints.dtype == np.float32 and pose.keypoints.shape[1:] == (JOINTS, 3), pose.keypoints.shape
    assert np.isfinite(pose.keypoints).all() and math.isfinite(pose.fps), "not finite"
    return asdict(pose)


def _published(folder: Path, lists: bool = False) -> None:
    points, scores = (list(array) for array in _keypoints())
    content: dict = {"keypoints": points, "scores": scores, "w_h": (SIDE, SIDE), "start": 0, "end": FRAMES}
    if lists:
        content = {"keypoints": [x.tolist() for x in points], "scores": [x.tolist() for x in scores]}
    (folder / "clip.pkl").write_bytes(pickle.dumps(content))


def _mmpose(folder: Path) -> None:
    points, scores = _keypoints()
    persons = [{"keypoints": p.tolist(), "keypoint_scores": s.tolist()} for p, s in zip(points[:, 0], scores[:, 0])]
    rows = [{"frame_id": t, "instances": [person]} for t, person in enumerate(persons, 1)]
    (folder / "clip.json").write_text(json.dumps({"meta_info": {}, "instance_info": rows}))


def _rtmlib(folder: Path, form: str) -> None:
    points, scores = _keypoints()
    match form:
        case "npz":
            np.savez(folder / "clip.npz", keypoints=points, scores=scores)
        case "npy":
            np.save(folder / "clip.npy", np.concatenate([points, scores[..., None]], axis=-1))
        case "pkl":
            frames = [{"keypoints": x, "scores": y} for x, y in zip(points, scores)]
            (folder / "clip.pkl").write_bytes(pickle.dumps(frames))
        case "json":
            content = {"keypoints": points.tolist(), "scores": scores.tolist(), "w_h": [SIDE, SIDE]}
            (folder / "clip.json").write_text(json.dumps(content))


def _openpose(folder: Path) -> None:
    rng = np.random.default_rng(0)
    joints = {"pose": 25, "face": 70, "hand_left": 21, "hand_right": 21}
    for t in range(FRAMES):
        person = {f"{part}_keypoints_2d": rng.uniform(0.2, 0.8, 3 * n).tolist() for part, n in joints.items()}
        text = json.dumps({"version": 1.3, "people": [person]})
        (folder / f"clip_{t:012}_keypoints.json").write_text(text)


def _dot_pose(folder: Path) -> None:
    names = dict.fromkeys(component for component, _ in PLACES.values())
    points = {name: sorted({point for component, point in PLACES.values() if component == name}) for name in names}
    components = [PoseHeaderComponent(name, those, [], [], "XYZC") for name, those in points.items()]
    rng, shape = np.random.default_rng(0), (FRAMES, 1, sum(map(len, points.values())))
    body = NumPyPoseBody(25, rng.uniform(10, 50, (*shape, 3)).astype(np.float32), rng.random(shape, np.float32))
    with (folder / "clip.pose").open("wb") as file:
        Pose(PoseHeader(0.2, PoseHeaderDimensions(SIDE, SIDE, 0), components), body).write(file)


# Labels ---------------------------------------------------------------------------------------------------------------


def _labels(name: str, folder: Path) -> object:
    good, bad = read_labels(folder / name, "train")
    for label in good:
        texts = [getattr(label, field) for field in ("id", "text", "gloss", "pose", "video", "recording")]
        assert all(type(text) is str and text.encode() is not None for text in texts), label
        for place in (PurePosixPath(label.pose), PurePosixPath(label.video), PurePosixPath(label.recording)):
            assert not place.is_absolute() and ".." not in place.parts, f"outside its folder: {place}"
        assert math.isfinite(label.start) and math.isfinite(label.end), label
    if bad:
        raise bad[0]
    return list(map(asdict, good))


_ROWS = {
    f"S{i}": {"name": f"S{i}", "text": text, "gloss": ["A", "B"], "video_path": f"S{i}.mp4"}
    for i, text in enumerate(TEXTS)
}
_NEWS = [{"video": f"v{i}.mp4", "pose": f"v{i}.pkl", "text": text} for i, text in enumerate(TEXTS)]
_DAILY = {"info": [{"name": f"S{i}", "label_gloss": ["A"], "label_word": text.split()} for i, text in enumerate(TEXTS)]}
_WLASL = [{"gloss": text, "instances": [{"video_id": f"{i}", "split": "train"}]} for i, text in enumerate(TEXTS)]
_NSLT = {f"0{i}": {"subset": "train", "action": [i, 1, 9]} for i in range(3)}
_MSASL = [
    {"url": f"https://www.youtube.com/watch?v=abcdefghij{i}", "label": i, "text": text, "start_time": 0.5,
     "end_time": 2.5, "start": 12, "end": 60}
    for i, text in enumerate(TEXTS)
]  # fmt: skip
_CAPTIONS = [{"text": text, "start": float(i), "duration": 1.5} for i, text in enumerate(TEXTS)]
_VTT = "WEBVTT\n\n" + "".join(f"00:00:0{i}.000 --> 00:00:0{i + 1}.000\n{text}\n\n" for i, text in enumerate(TEXTS))
_OWN = "name,text,gloss\n" + "".join(f"S{i},{text},A B\n" for i, text in enumerate(TEXTS))
_HOW2SIGN = "VIDEO_NAME\tSENTENCE_NAME\tSTART_REALIGNED\tEND_REALIGNED\tSENTENCE\n" + "".join(
    f"v{i}\tv{i}_0\t0.5\t2.25\t{text}\n" for i, text in enumerate(TEXTS)
)
_OPENASL = "vid\tyid\tstart\tend\traw-text\tgloss\tsplit\n" + "".join(
    f"v{i}\ty{i}\t00:00:01,5\t00:00:03.5\t{text}\tA\ttrain\n" for i, text in enumerate(TEXTS)
)


def _text(**files: str | bytes) -> Callable[[Path], None]:
    """Writes files; `__` stands for the dot of their names."""

    def write(folder: Path) -> None:
        for name, content in files.items():
            path = folder / name.replace("__", ".")
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


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
    """All that training sees of a store with crops; the error of the first clip that is refused, if one is."""
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
    """State and tensors of the newest whole checkpoint; a refusal where it is not the last."""
    result, passed_over = Checkpoints(folder / "checkpoints", ONE_RANK).newest()
    for problem in passed_over:
        where, _, reason = problem.partition(": ")
        raise InputError(where, reason, "the one before is taken")
    if result is None:
        raise InputError(folder / "checkpoints", "holds no checkpoint", "start again")
    return result.state, load_file(result.folder / "state-0.safetensors")


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


SUBJECTS: dict[str, Subject] = {
    "published poses": Subject(_published, partial(_pose, "unisign", "clip.pkl")),
    "published poses, lists": Subject(partial(_published, lists=True), partial(_pose, "unisign", "clip.pkl")),
    "MMPose": Subject(_mmpose, partial(_pose, "mmpose", "clip.json")),
    **{f"rtmlib .{form}": Subject(partial(_rtmlib, form=form), partial(_pose, "rtmlib", f"clip.{form}"))
       for form in ("npz", "npy", "pkl", "json")},
    "OpenPose": Subject(_openpose, partial(_pose, "openpose", "")),
    ".pose": Subject(_dot_pose, partial(_pose, "pose", "clip.pose")),
    "labels: published pickle": Subject(_text(a__pkl=pickle.dumps(_ROWS)), partial(_labels, "a.pkl")),
    "labels: published, gzip": Subject(_text(a__gz=gzip.compress(pickle.dumps(_ROWS))), partial(_labels, "a.gz")),
    "labels: published JSON": Subject(_text(a__json=json.dumps(_ROWS)), partial(_labels, "a.json")),
    "labels: CSL-News": Subject(_text(a__json=json.dumps(_NEWS)), partial(_labels, "a.json")),
    "labels: CSL-Daily": Subject(
        _text(a__pkl=pickle.dumps(_DAILY), split_1__txt="name|split\nS0|train\n"), partial(_labels, "a.pkl")),
    "labels: WLASL": Subject(_text(a__json=json.dumps(_WLASL)), partial(_labels, "a.json")),
    "labels: nslt": Subject(
        _text(a__json=json.dumps(_NSLT), wlasl_class_list__txt="0\tbook\n1\tdrink\n2\tcup\n"),
        partial(_labels, "a.json")),
    "labels: MS-ASL": Subject(
        _text(a__json=json.dumps(_MSASL), MSASL_classes__json=json.dumps(TEXTS)), partial(_labels, "a.json")),
    "labels: own table": Subject(_text(a__csv=_OWN), partial(_labels, "a.csv")),
    "labels: How2Sign": Subject(_text(a__csv=_HOW2SIGN), partial(_labels, "a.csv")),
    "labels: OpenASL": Subject(_text(a__tsv=_OPENASL), partial(_labels, "a.tsv")),
    "labels: captions": Subject(
        _text(a__txt="abc\ndef\n", abc__vtt=_VTT, def__json=json.dumps(_CAPTIONS)), partial(_labels, "a.txt")),
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
    "class list": Subject(_text(a__txt="0\tbook\n1\tdrink\n"), partial(_class_list, "a.txt")),
    "class list, JSON": Subject(_text(a__json='[["book", "books"], "cup"]'), partial(_class_list, "a.json")),
    **{f"video .{suffix}": Subject(partial(_video, f"a.{suffix}", *codec), partial(_pictures, f"a.{suffix}"))
       for suffix, codec in CODECS.items()},
}  # fmt: skip


def read(name: str, folder: Path) -> object:
    """What the reader gives of an input, read in the folder itself, so that what it writes by mistake is found."""
    with chdir(folder):
        return SUBJECTS[name].read(folder)
