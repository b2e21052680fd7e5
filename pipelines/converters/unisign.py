"""The published Uni-Sign format -> keypoint store.

Poses: one pickle per clip, {keypoints: T arrays (persons, 133, 2) as fractions of the picture, scores: T arrays
(persons, 133)}, at times with w_h, start and end. Labels: CSL-News' JSON list [{video, pose, text}], or a dict
name -> {name, text, gloss, video_path}, as a gzip-compressed pickle (CSL-Daily, WLASL, How2Sign, OpenASL) or as JSON.
"""

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from rich.console import Console
from rich.progress import track

from pipelines.converters.video_info import VideoInfo, read_video_info
from pipelines.errors import InputError
from pipelines.keypoint_store import KeypointStoreWriter
from pipelines.manifest import SPLITS
from pipelines.safe_pickle import load_pickle
from pipelines.skeleton import JOINTS

SOURCE = {
    "estimator": "RTMPose-x, 133 whole-body keypoints",
    "version": "the poses published with Uni-Sign",
    "coordinates": "x / width, y / height, raw confidence (may exceed 1)",
}
UNDECODABLE_FRAMES = 3  # so many frames more than can be decoded a video may declare, and its pose then has


@dataclass(frozen=True)
class Pose:
    """What a pose file holds of its clip: keypoints [T, 133, 3] float32, from frame `start` of `file_frames`."""

    keypoints: np.ndarray
    start: int
    file_frames: int


@dataclass(frozen=True)
class Label:
    """One entry of a label file. `pose` and `video` are relative to their folders."""

    id: str
    split: str
    text: str
    gloss: str
    pose: str
    video: str


def convert(
    poses: Path,
    videos: Path,
    labels: Path,
    out: Path,
    language: str = "zh",
    split: str | None = None,
    max_bad_share: float = 0.05,
) -> list[InputError]:
    """Writes the store `out` and returns why each clip that was left out is bad, having printed it to stderr.

    `split` puts every clip into that split; None follows the label file. Raises InputError if the labels cannot be
    read, or as soon as more than `max_bad_share` of all clips are bad; then no store is written.
    """
    if not 0 <= max_bad_share <= 1:
        raise InputError("--max-bad-share", f"is {max_bad_share}", "give a share from 0 to 1")
    for option, folder in (("--poses", poses), ("--videos", videos)):
        if not folder.is_dir():
            raise InputError(f"{option}: {folder}", "is not a folder", "name the folder that holds the files")
    clips = read_labels(labels, split)
    bad: list[InputError] = []
    console = Console(stderr=True)
    with KeypointStoreWriter(out, SOURCE) as writer:
        for label in track(clips, "converting clips", console=console, disable=not console.is_terminal):
            try:
                _add_clip(writer, label, poses, videos, labels, language)
            except InputError as error:
                bad.append(error)
                if len(clips) == 1:
                    raise
                console.print(f"left out: {error}", markup=False, highlight=False, soft_wrap=True)
                if len(bad) > max_bad_share * len(clips) or len(bad) == len(clips):
                    problem = f"{len(bad)} of {len(clips)} clips are bad already, --max-bad-share is {max_bad_share}"
                    raise InputError(labels, problem, "mend the clips named above, or allow a larger share") from None
    return bad


def read_labels(path: Path, split: str | None) -> list[Label]:
    """The entries of a label file in its order, with `split` for all, or (None) each its own.

    A list (CSL-News) is split as the published code does it: the first int(0.99 n) entries train, the rest test. A dict
    needs `split` where its entries do not say. Raises InputError naming the entry and field.
    """
    content = _read_label_file(path)
    if not isinstance(content, (list, dict)) or not content:
        raise InputError(path, "holds no list or dict of clips", "name a label file of the published format")
    if isinstance(content, dict):
        rows = [(f"{path}: clip {name}", str(name), row, None) for name, row in content.items()]
    else:
        train = int(0.99 * len(content))
        splits = ["train"] * train + ["test"] * (len(content) - train)
        rows = [(f"{path}: entry {i}", None, row, splits[i]) for i, row in enumerate(content)]
    return [_label(where, name, row, split, own_split) for where, name, row, own_split in rows]


def _read_label_file(path: Path) -> object:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "name the label file") from None
    if content.startswith(b"\x1f\x8b"):
        return load_pickle(path, compressed=True)
    try:
        return json.loads(content)
    except ValueError:
        problem = "is neither JSON nor a gzip-compressed pickle"
        raise InputError(path, problem, "name a label file of the published format") from None


def _field(row: dict, name: str, where: str, default: str | None = None) -> str:
    value = row.get(name, default)
    if not isinstance(value, str):
        raise InputError(f"{where}: {name}", "is missing" if value is None else f"is {value!r}", "give a text")
    if name != "text" and not PurePosixPath(value).name:
        raise InputError(f"{where}: {name}", f"is {value!r}", "name the clip's file")
    return value


def _label(where: str, name: str | None, row: object, split: str | None, own_split: str | None) -> Label:
    if not isinstance(row, dict):
        raise InputError(where, f"is a {type(row).__name__}", "give a dict with text and the names of video and pose")
    split = split or row.get("split", own_split)
    if split not in SPLITS:
        problem = "is missing" if split is None else f"is {split!r}"
        raise InputError(f"{where}: split", problem, f"say --split, one of {', '.join(SPLITS)}")
    gloss = row.get("gloss", "")
    if isinstance(gloss, (list, tuple)):
        gloss = " ".join(map(str, gloss))
    elif not isinstance(gloss, str):
        raise InputError(f"{where}: gloss", f"is {gloss!r}", "give a list of glosses")
    if name is None:  # CSL-News: the clip is called after its video
        video = _field(row, "video", where)
        name = str(PurePosixPath(video).with_suffix(""))
    else:
        name = _field(row, "name", where, name)
        video = _field(row, "video_path", where, f"{name}.mp4")
    pose = _field(row, "pose", where, str(PurePosixPath(video).with_suffix(".pkl")))
    return Label(name, split, _field(row, "text", where, ""), " ".join(gloss.split()), pose, video)


def _add_clip(
    writer: KeypointStoreWriter, label: Label, poses: Path, videos: Path, labels: Path, language: str
) -> None:
    if not label.text.strip():
        raise InputError(f"{labels}: clip {label.id}: text", "is empty", "label the clip or leave it out")
    pose_file, video_file = _find(poses, label.pose, label.split), _find(videos, label.video, label.split)
    pose, video = read_pose(pose_file), read_video_info(video_file)
    writer.add(
        _with_picture(pose, video, where=pose_file),
        id=label.id,
        split=label.split,
        language=language,
        text=label.text,
        gloss=label.gloss,
        fps=video.fps,
        width=video.width,
        height=video.height,
        source=str(video_file.resolve()),
        video_start=pose.start,
        video_frames=video.frames,
    )


def _find(folder: Path, name: str, split: str) -> Path:
    """`name` in the folder, or in the folder's subfolder of the split, as WLASL and How2Sign have it."""
    for path in (folder / name, folder / split / name):
        if path.is_file():
            return path
    raise InputError(folder / name, "is missing", "name the folder that holds it, or leave the clip out")


def read_pose(path: Path) -> Pose:
    """A pose file's range start..end, all of it if it names none.

    Person 0 of each frame; a frame with nobody is zeros with confidence 0. Confidences stay as they are. w_h is not
    looked at: some files have it swapped, and the video knows. Raises InputError naming the file and field.
    """
    pose = load_pickle(path)
    remedy = "extract the pose again"
    if not isinstance(pose, dict) or not {"keypoints", "scores"} <= pose.keys():
        raise InputError(path, "holds no dict with keypoints and scores", "name a pose of the published format")
    points, scores = pose["keypoints"], pose["scores"]
    if not all(isinstance(x, (list, tuple, np.ndarray)) for x in (points, scores)) or len(points) != len(scores):
        raise InputError(f"{path}: scores", "does not have one entry per frame of keypoints", remedy)
    start, end = pose.get("start", 0), pose.get("end", len(points))
    if not all(isinstance(x, (int, np.integer)) for x in (start, end)) or not 0 <= start < end <= len(points):
        problem = f"the range {start} to {end} does not lie in the {len(points)} frames"
        raise InputError(f"{path}: start, end", problem, remedy)
    keypoints = np.stack([_first_person(points[t], scores[t], f"{path}: frame {t}") for t in range(start, end)])
    if not np.isfinite(keypoints).all():
        frame = start + int(np.argwhere(~np.isfinite(keypoints))[0, 0])
        raise InputError(f"{path}: keypoints", f"frame {frame} has NaN or infinite numbers", remedy)
    seen = keypoints[keypoints[..., 2] > 0.3]
    if len(seen) and np.median(np.abs(seen[:, :2])) > 2:
        raise InputError(f"{path}: keypoints", "are pixels", "divide x by the video's width and y by its height")
    return Pose(keypoints, int(start), len(points))


def _first_person(points: object, scores: object, where: str) -> np.ndarray:
    """[133, 3] float32 from (persons, 133, 2) and (persons, 133), arrays or nested lists."""
    try:
        points, scores = np.asarray(points, np.float32), np.asarray(scores, np.float32)
    except (TypeError, ValueError):
        raise InputError(where, "is not an array of numbers", "extract the pose again") from None
    if points.size == 0 and scores.size == 0:
        return np.zeros((JOINTS, 3), np.float32)
    if points.shape[1:] != (JOINTS, 2) or scores.shape != points.shape[:2]:
        wanted = f"(persons, {JOINTS}, 2) and (persons, {JOINTS})"
        problem = f"keypoints {points.shape} and scores {scores.shape} are not {wanted}"
        raise InputError(where, problem, "extract the pose again")
    return np.concatenate([points[0], scores[0, :, None]], axis=-1)


def _with_picture(pose: Pose, video: VideoInfo, where: Path) -> np.ndarray:
    """The pose's keypoints without the frames at the end that the video declares but cannot be decoded."""
    surplus = pose.file_frames - video.frames
    keypoints = pose.keypoints[: video.frames - pose.start]
    if not 0 <= surplus <= UNDECODABLE_FRAMES or len(keypoints) == 0:
        problem = f"has {pose.file_frames} frames, its video {video.frames}"
        raise InputError(f"{where}: keypoints", problem, "extract the pose from this very video again")
    return keypoints
