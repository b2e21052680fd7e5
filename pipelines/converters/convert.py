"""Converts poses in any of POSE_FORMATS, with or without labels and videos, into a keypoint store."""

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import numpy as np
from rich.console import Console
from rich.progress import track

from ..crops.video import VIDEO_SUFFIXES, VideoInfo, read_video_info
from ..errors import InputError
from ..file_names import NamedFiles, is_hidden
from ..skeleton import WHOLEBODY
from ..store.clip import UNLABELLED
from ..store.keypoint_store import KeypointStoreWriter
from ..targets import language_code, read_language, script_mismatch
from .formats import pose_format
from .labels import Label, read_labels
from .labels.entry import without_suffix
from .pose import Pose, check_signer

UNDECODABLE_FRAMES = 3  # a video may declare, and its pose contain, this many more frames than decode


def convert(
    format: str,
    poses: Path,
    videos: Path | None,
    labels: Path | None,
    out: Path,
    language: str | None = None,
    split: str | None = None,
    classes: int | None = None,
    max_bad_share: float = 0.05,
    append: bool = False,
) -> list[InputError]:
    """Writes the store `out`, or appends to it (`append`), and returns the error of each clip that was left out.

    The errors are also printed to stderr. `videos` None takes width, height and fps from the pose files. `labels` None
    takes every pose file as a clip without text, of the split "unlabelled": it can be translated. `language` None is
    "zh" if the texts have Chinese characters, else "en"; `split` and `classes` are as in `read_labels`. Raises
    InputError if the labels cannot be read, or as soon as more than `max_bad_share` of all clips are bad; then nothing
    is written.
    """
    if not 0 <= max_bad_share <= 1:
        raise InputError("--max-bad-share", f"is {max_bad_share}", "give a share from 0 to 1")
    language = None if language is None else read_language(language)
    for option, folder in (("--poses", poses), ("--videos", videos)):
        if folder is not None and not folder.is_dir():
            raise InputError(f"{option}: {folder}", "is not a folder", "name the folder that holds the files")
    reader = pose_format(format)
    skeleton = getattr(reader, "SKELETON", WHOLEBODY)
    files = _Files(reader, poses, videos)
    if labels is None:
        for option, value in (("--split", split), ("--classes", classes)):
            if value is not None:
                raise InputError(
                    option, "is given without labels", "give the label file with --labels, or leave it out"
                )
        clips, bad_labels = files.unlabelled(), list[InputError]()
    else:
        clips, bad_labels = read_labels(labels, split, classes, language and language_code(language))
    bad = _BadClips(labels or poses, len(clips) + len(bad_labels), max_bad_share)
    language = language or ("zh" if any(re.search("[\u4e00-\u9fff]", clip.text) for clip in clips) else "en")
    if mismatch := script_mismatch((clip.text for clip in clips), language):
        bad.warn(f"texts in {language}: {mismatch}; --language says which they are")
    for error in bad_labels:
        bad.add(error)
    with KeypointStoreWriter(out, reader.SOURCE, skeleton=skeleton, append=append) as writer:
        for label in track(clips, "converting clips", console=bad.console, disable=not bad.console.is_terminal):
            try:
                _add_clip(writer, label, files, language, bad.warn)
            except InputError as error:
                bad.add(error)
    return bad.errors


class _BadClips:
    """Reports and counts bad clips, and raises InputError once too many of `total` are bad."""

    def __init__(self, labels: Path, total: int, max_share: float):
        self.labels, self.total, self.max_share = labels, total, max_share
        self.errors: list[InputError] = []
        self.console = Console(stderr=True)

    def warn(self, problem: str) -> None:
        self.console.print(f"warning: {problem}", markup=False, highlight=False, soft_wrap=True)

    def add(self, error: InputError) -> None:
        self.errors.append(error)
        if self.total == 1:
            raise error
        self.console.print(f"left out: {error}", markup=False, highlight=False, soft_wrap=True)
        bad = len(self.errors)
        if bad > self.max_share * self.total or bad == self.total:
            problem = f"{bad} of {self.total} clips are already bad, and --max-bad-share is {self.max_share}"
            raise InputError(self.labels, problem, "fix the clips named above, or allow a larger share")


class _Files:
    """Finds and reads a label's pose and video: the clip's own, or those of the recording that contains it."""

    def __init__(self, format: ModuleType, poses: Path, videos: Path | None):
        self.format, self.prefix = format, getattr(format, "PREFIX", "")
        self.poses, self.videos = NamedFiles(poses), None if videos is None else NamedFiles(videos)
        self._video_info = lru_cache(maxsize=4)(read_video_info)  # successive clips usually share a recording
        self._pose = lru_cache(maxsize=1)(format.read_pose)

    def unlabelled(self) -> list[Label]:
        """A label without text for every pose file."""
        folder, suffixes = self.poses.folder, self.format.SUFFIXES
        if suffixes == ("",):  # one folder per clip
            paths = {path.parent for path in folder.rglob("*_keypoints.json") if path.parent != folder}
        else:
            paths = {path for path in folder.rglob("*") if path.suffix.lower() in suffixes and not is_hidden(path)}
        if not paths:
            problem = f"holds no {' or '.join(suffixes)}" if any(suffixes) else "holds no folder of *_keypoints.json"
            raise InputError(f"--poses: {folder}", problem, "name the folder that holds the poses")
        names = sorted({self._clip_name(path.relative_to(folder)) for path in paths})
        return [Label(name, UNLABELLED, "", "", name, name) for name in names]

    def _clip_name(self, path: Path) -> str:
        return without_suffix(path.with_name(path.name.removeprefix(self.prefix)).as_posix())

    def video(self, label: Label) -> tuple[Path | None, bool, VideoInfo | None]:
        """The video file, whether it is the whole recording, and its properties; (None, False, None) without videos."""
        if self.videos is None:
            return None, False, None
        path, whole = _find(self.videos, label.video, label, VIDEO_SUFFIXES)
        return path, whole, self._video_info(path)

    def pose(self, label: Label, video: VideoInfo | None) -> tuple[Path, bool, Pose]:
        """The pose file, whether it covers the whole recording, and its content."""
        path, whole = _find(self.poses, label.pose, label, self.format.SUFFIXES, self.prefix)
        return path, whole, self._pose(path, video)


def _find(files: NamedFiles, name: str, label: Label, suffixes: tuple[str, ...], prefix: str = "") -> tuple[Path, bool]:
    """The file `name`, or else that of the recording, and whether it is the recording's.

    Searches the folder and its subfolder of the split, for names with and without `prefix`. Raises InputError if there
    is none.
    """
    for stem in (name, label.recording) if label.recording else (name,):
        folder, slash, last = stem.rpartition("/")
        for named in dict.fromkeys((stem, f"{folder}{slash}{prefix}{last}")):
            for suffix in (*suffixes, *map(str.upper, suffixes)):
                for place in (f"{named}{suffix}", f"{label.split}/{named}{suffix}"):
                    if path := files.find(place):
                        return path, stem != name
    others = f" (nor with {', '.join(suffixes[1:])})" if len(suffixes) > 1 else ""
    recording = f", nor is its recording {label.recording}" if label.recording else ""
    problem = f"is missing{others}{recording}"
    raise InputError(
        files.folder / f"{name}{suffixes[0]}", problem, "name the folder that holds it, or leave the clip out"
    )


def _add_clip(
    writer: KeypointStoreWriter, label: Label, files: _Files, language: str, warn: Callable[[str], None]
) -> None:
    video_file, video_whole, video = files.video(label)
    pose_file, pose_whole, pose = files.pose(label, video)
    if video is None:
        if not (pose.width and pose.height and pose.fps):
            problem = "does not say width, height and frames per second"
            raise InputError(pose_file, problem, "give the videos with --videos")
        video, video_whole = VideoInfo(pose.width, pose.height, pose.fps, pose.file_frames), pose_whole
    keypoints, start = _placed(pose, pose_whole, video, video_whole, label, pose_file)
    check_signer(keypoints, f"{pose_file}: clip {label.id}", pose.skeleton)
    seconds = label.end - label.start
    if (pose_whole or video_whole) and len(keypoints) / video.fps < seconds / 2:
        warn(f"clip {label.id}: end: less than half of {label.start} to {label.end} s is in {video_file or pose_file}")
    writer.add(
        keypoints,
        id=label.id,
        split=label.split,
        language=language,
        text=label.text,
        gloss=label.gloss,
        fps=video.fps,
        width=video.width,
        height=video.height,
        source=str(video_file.resolve()) if video_file else "",
        video_start=start,
        video_frames=video.frames,
    )


def _placed(
    pose: Pose, pose_whole: bool, video: VideoInfo, video_whole: bool, label: Label, where: Path
) -> tuple[np.ndarray, int]:
    """The clip's keypoints, without trailing frames that cannot be decoded, and the video frame of the first keypoint
    frame."""
    if pose_whole and not video_whole:
        problem = "covers the whole recording, but its video only the clip"
        raise InputError(where, problem, "give videos of the recordings, or poses of the clips")
    first, last = video.frame_at(label.start), video.frame_at(label.end)
    if pose_whole == video_whole:
        surplus, start = pose.file_frames - video.frames, pose.start
    else:  # a clip's pose and the recording's video
        surplus, start = max(0, pose.file_frames - (video.frames - first)), first + pose.start
    keypoints = pose.keypoints[: max(0, video.frames - start)]
    if not 0 <= surplus <= UNDECODABLE_FRAMES or len(keypoints) == 0:
        problem = f"has {pose.file_frames} frames, but its video has {video.frames}"
        raise InputError(f"{where}: keypoints", problem, "extract the pose from this video again")
    if not pose_whole:
        return keypoints, start
    first = max(first, pose.start)
    keypoints = keypoints[first - pose.start : max(first, last) - pose.start]
    if len(keypoints) == 0:
        problem = f"has no frame from {label.start} to {label.end} s"
        raise InputError(f"{where}: keypoints", problem, "correct the times, or leave the clip out")
    return keypoints, first
