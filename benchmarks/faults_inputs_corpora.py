"""Small valid pose and label files of every format, and how their readers read them."""

import gzip
import json
import math
import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from pose_format import Pose
from pose_format.numpy import NumPyPoseBody
from pose_format.pose_header import PoseHeader, PoseHeaderComponent, PoseHeaderDimensions

from unisign_fast.pipelines.converters.dot_pose import PLACES
from unisign_fast.pipelines.converters.formats import pose_format
from unisign_fast.pipelines.converters.labels import read_labels
from unisign_fast.pipelines.crops.video import VideoInfo

FRAMES, JOINTS, SIDE = 3, 133, 64
TEXTS = ("good morning", "good evening", "how are you")


@dataclass(frozen=True)
class Subject:
    """A kind of input: `write` puts a valid one into an empty folder, `read` reads it."""

    write: Callable[[Path], object]
    read: Callable[[Path], object]
    checked: bool = False  # the files have checksums, so every change must be noticed
    damaged: str = "*"  # pattern of the files to damage


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


def text_files(**files: str | bytes) -> Callable[[Path], None]:
    """Writes these files; `__` in a name stands for a dot."""

    def write(folder: Path) -> None:
        for name, content in files.items():
            path = folder / name.replace("__", ".")
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


CORPUS_SUBJECTS: dict[str, Subject] = {
    "published poses": Subject(_published, partial(_pose, "unisign", "clip.pkl")),
    "published poses, lists": Subject(partial(_published, lists=True), partial(_pose, "unisign", "clip.pkl")),
    "MMPose": Subject(_mmpose, partial(_pose, "mmpose", "clip.json")),
    **{f"rtmlib .{form}": Subject(partial(_rtmlib, form=form), partial(_pose, "rtmlib", f"clip.{form}"))
       for form in ("npz", "npy", "pkl", "json")},
    "OpenPose": Subject(_openpose, partial(_pose, "openpose", "")),
    ".pose": Subject(_dot_pose, partial(_pose, "pose", "clip.pose")),
    "labels: published pickle": Subject(text_files(a__pkl=pickle.dumps(_ROWS)), partial(_labels, "a.pkl")),
    "labels: published, gzip": Subject(text_files(a__gz=gzip.compress(pickle.dumps(_ROWS))), partial(_labels, "a.gz")),
    "labels: published JSON": Subject(text_files(a__json=json.dumps(_ROWS)), partial(_labels, "a.json")),
    "labels: CSL-News": Subject(text_files(a__json=json.dumps(_NEWS)), partial(_labels, "a.json")),
    "labels: CSL-Daily": Subject(
        text_files(a__pkl=pickle.dumps(_DAILY), split_1__txt="name|split\nS0|train\n"), partial(_labels, "a.pkl")),
    "labels: WLASL": Subject(text_files(a__json=json.dumps(_WLASL)), partial(_labels, "a.json")),
    "labels: nslt": Subject(
        text_files(a__json=json.dumps(_NSLT), wlasl_class_list__txt="0\tbook\n1\tdrink\n2\tcup\n"),
        partial(_labels, "a.json")),
    "labels: MS-ASL": Subject(
        text_files(a__json=json.dumps(_MSASL), MSASL_classes__json=json.dumps(TEXTS)), partial(_labels, "a.json")),
    "labels: own table": Subject(text_files(a__csv=_OWN), partial(_labels, "a.csv")),
    "labels: How2Sign": Subject(text_files(a__csv=_HOW2SIGN), partial(_labels, "a.csv")),
    "labels: OpenASL": Subject(text_files(a__tsv=_OPENASL), partial(_labels, "a.tsv")),
    "labels: captions": Subject(
        text_files(a__txt="abc\ndef\n", abc__vtt=_VTT, def__json=json.dumps(_CAPTIONS)), partial(_labels, "a.txt")),
}  # fmt: skip
