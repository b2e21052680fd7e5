"""Turns translation inputs (arrays, pose files, videos, stores, clip ids) into clips of keypoint stores. Needs no model
and downloads nothing, so all inputs can be checked first.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unisign_fast.pipelines.converters.formats import POSE_FORMATS, pose_format
from unisign_fast.pipelines.converters.pose import Pose, make_pose
from unisign_fast.pipelines.corpus.recordings import Recording, known_recordings
from unisign_fast.pipelines.crops.video import VIDEO_SUFFIXES, read_video_info
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.skeleton import WHOLEBODY, Skeleton
from unisign_fast.pipelines.skeletons import check_skeleton
from unisign_fast.pipelines.store.keypoint_store import KeypointStore, KeypointStoreWriter

Arrays = np.ndarray | Sequence[np.ndarray]
FPS = 25.0  # default frame rate; only the start and end times of a text depend on it
SOURCE = {"estimator": "the caller's", "version": "as given", "coordinates": "fractions of the picture"}


class NamedPose(NamedTuple):
    """Keypoints that are not in a store yet."""

    name: str  # as the user gave it
    pose: Pose
    video: Path | None = None


Input = list[Recording] | NamedPose | Path  # clips of a store, keypoints, or a video without any


def find_inputs(
    items: Sequence[str | Path],
    *,
    stores: Sequence[Path] = (),
    split: str | None = None,
    poses: Sequence[Path] = (),
    format: str | None = None,
) -> tuple[list[Input], list[InputError]]:
    """Finds each item: a keypoint store, a video, a pose file of any format, or a clip of `stores` named by its id.

    `poses` are pose files, either without items or with one video per pose file, in the same order. With neither items
    nor `poses`, all clips of `stores`, or of their `split`, are inputs. Returns the usable inputs in the order given,
    and an error for each of the others. Raises InputError if the arguments contradict each other or one of `stores` is
    not a store.
    """
    if poses and items and len(items) != len(poses):
        problem = f"{len(poses)} pose files for {len(items)} videos"
        raise InputError("--poses", problem, "give one for each video, in the same order, or no videos")
    opened = [KeypointStore.open(path) for path in stores]
    tasks: list[Callable[[], Input]]
    if poses:
        videos: list[Path | None] = [Path(item) for item in items] or [None] * len(poses)
        tasks = [partial(_read_pose, path, format, video) for path, video in zip(poses, videos, strict=True)]
    elif items:
        tasks = [partial(_find, str(item), opened, split, format) for item in items]
    else:
        tasks = [partial(_clips, store, split) for store in opened]
    usable: list[Input] = []
    bad: list[InputError] = []
    for task in tasks:
        try:
            usable.append(task())
        except InputError as error:
            bad.append(error)
    return usable, bad


def array_poses(
    keypoints: Arrays,
    scores: Arrays | None,
    fps: float | Sequence[float] = FPS,
    width: int | Sequence[int] | None = None,
    height: int | Sequence[int] | None = None,
    skeleton: Skeleton = WHOLEBODY,
) -> list[NamedPose]:
    """The keypoints of one or several clips; shapes and units as in `Processor.__call__`. `fps`, `width` and `height`
    (pixels) apply to all clips or are lists with one value per clip. Raises InputError naming the clip.
    """
    clips = list(keypoints) if isinstance(keypoints, (list, tuple)) else [keypoints]
    confidences = list(scores) if isinstance(scores, (list, tuple)) else [scores] * len(clips)
    if len(confidences) != len(clips):
        raise InputError("scores", f"{len(confidences)} arrays for {len(clips)} clips", "give one array for each clip")
    poses = []
    sizes = {"fps": fps, "width": width, "height": height}
    values = (_per_clip(name, value, len(clips)) for name, value in sizes.items())
    rows = zip(clips, confidences, *values, strict=True)
    for number, (points, confidence, clip_fps, clip_width, clip_height) in enumerate(rows):
        name = f"clip {number}" if len(clips) > 1 else "keypoints"
        if (clip_width is None) != (clip_height is None):
            raise InputError(name, "has only one of width and height", "give both, in pixels, or neither")
        joined = _joined(points, confidence, name, len(skeleton.joints))
        try:
            size = None if clip_width is None else (clip_width, clip_height)
            pose = make_pose(joined, name, None, size, fps=float(clip_fps), skeleton=skeleton)
        except InputError as error:
            remedy = "give width and height" if "--videos" in error.remedy else error.remedy
            raise InputError(error.where, error.problem, remedy) from None
        poses.append(NamedPose(name, pose))
    return poses


def _per_clip(name: str, value: object, clips: int) -> list:
    values = list(value) if isinstance(value, (list, tuple)) else [value] * clips
    if len(values) != clips:
        raise InputError(name, f"has {len(values)} values for {clips} clips", "give one for each, or one for all")
    return values


def _joined(points: object, confidence: object, name: str, joints: int) -> np.ndarray:
    """A clip's keypoints with their scores, [T, joints, 3] float32; `confidence` is None if `points` hold them."""
    points = np.asarray(points, np.float32)
    if confidence is not None:
        confidence = np.asarray(confidence, np.float32)
        if confidence.shape != points.shape[:2]:
            problem = f"scores {confidence.shape} do not fit keypoints {points.shape}"
            raise InputError(name, problem, f"give scores [T, {joints}]")
        points = np.concatenate([points[..., :2], confidence[..., None]], axis=-1)
    if points.ndim != 3 or points.shape[1:] != (joints, 3):
        problem = f"keypoints {points.shape} are not [T, {joints}, 3]"
        raise InputError(name, problem, f"give x, y, confidence, or [T, {joints}, 2] beside scores [T, {joints}]")
    return points


def _find(item: str, stores: Sequence[KeypointStore], split: str | None, format: str | None) -> Input:
    """What `item` names: clips of a store, a pose file, or a video that is in no known store."""
    path = Path(item)
    if (path / "store.json").is_file():
        return _clips(KeypointStore.open(path), split)
    if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
        if known := known_recordings(path, stores):
            return known
        read_video_info(path)  # before any download
        return path
    if path.is_dir() and (videos := [file for file in path.iterdir() if file.suffix.lower() in VIDEO_SUFFIXES]):
        raise InputError(item, "is a folder of videos", f"name the videos in it: {path}/*{videos[0].suffix}")
    if path.exists():
        return _read_pose(path, format)
    named = [Recording(item, store, clip) for store in stores for clip in store.clips if clip.id == item]
    if named:
        return named
    if path.suffix.lower() in VIDEO_SUFFIXES:
        raise InputError(item, "there is no such video", "name an existing video")
    problem = "is neither a file, nor a store, nor a clip of --store" if stores else "is neither a file nor a store"
    raise InputError(item, problem, "name a video, a pose file, a store, or the id of a clip of --store")


def _clips(store: KeypointStore, split: str | None) -> list[Recording]:
    """All clips of a store, or those of a split, named after their videos."""
    clips = [clip for clip in store.clips if split in (None, clip.split)]
    if not clips:
        problem, remedy = (f"has no {split} clips", "another --split") if split else ("has no clips", "another store")
        raise InputError(store.path, problem, f"name {remedy}")
    return [Recording(str(store.video(clip)) if clip.source else clip.id, store, clip) for clip in clips]


def _read_pose(path: Path, format: str | None, video: Path | None = None) -> NamedPose:
    """Reads a pose file in this format, or in the first format that can read it."""
    if video is not None and not video.is_file():
        raise InputError(video, "there is no such video", "name an existing video")
    suffix = "" if path.is_dir() else path.suffix.lower()  # OpenPose writes folders
    suffixes = {name: pose_format(name).SUFFIXES for name in POSE_FORMATS}
    candidates = [name for name in POSE_FORMATS if suffix in suffixes[name]]
    if not path.exists():
        raise InputError(path, "there is no such pose file", "name an existing file")
    if format is not None and path.is_dir() != (suffixes[format] == ("",)):
        actual, expected = ("folder", "files") if path.is_dir() else ("file", "folders")
        problem = f"is a {actual}, but {format} poses are {expected}"
        raise InputError(path, problem, f"give the --format of this {actual}")
    formats = [format] if format else candidates
    if not formats:
        known = ", ".join(sorted(set().union(*suffixes.values()) - {""}))
        problem = f"is neither a video ({', '.join(VIDEO_SUFFIXES)}) nor a pose file ({known})"
        raise InputError(path, problem, "name one, or give it as --poses FILE --format FORMAT")
    info, errors = read_video_info(video) if video else None, []
    for name in formats:
        try:
            return NamedPose(str(video or path), pose_format(name).read_pose(path, info), video)
        except InputError as error:
            remedy = "name its video too, before --poses" if "--videos" in error.remedy else error.remedy
            errors.append(InputError(error.where, error.problem, remedy))
    raise errors[0]


def pose_recordings(
    poses: Sequence[NamedPose], folder: Path, language: str | None, skeleton: Skeleton = WHOLEBODY
) -> list[Recording]:
    """Writes the poses as clips of a new store in `folder`; `language` is the target language.

    Raises InputError if it is None or a pose has another skeleton.
    """
    if language is None:
        problem = "keypoints do not determine the target language"
        raise InputError("--language", problem, "give it, such as --language zh")
    recordings = []
    for name, pose, _ in poses:
        check_skeleton(pose.skeleton, skeleton, name)
    with KeypointStoreWriter(folder, SOURCE, skeleton=skeleton) as writer:
        for number, (_, pose, video) in enumerate(poses):
            info = read_video_info(video) if video else None
            writer.add(
                pose.keypoints[: info.frames] if info else pose.keypoints,
                id=f"{number}",
                split="test",
                language=language,
                text="",
                fps=info.fps if info else pose.fps or FPS,
                width=info.width if info else pose.width or 1,
                height=info.height if info else pose.height or 1,
                source=str(video.resolve()) if video else "",
                video_frames=info.frames if info else 0,
            )
    store = KeypointStore.open(folder)
    for named, clip in zip(poses, store.clips, strict=True):
        recordings.append(Recording(named.name, store, clip))
    return recordings
