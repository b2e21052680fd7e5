"""The second stage: the signer's keypoints in one span of a programme, within the signer's box.

A part is a folder: a keypoint store whose single clip is the whole span, quality.jsonl with what else was observed
in the pictures, and part.json. It has no text: clips are cut out of the parts when a release is made.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ..atomic_io import created_once, replace_json, replace_text
from ..crops.video import VideoFile
from ..errors import InputError
from ..input_files import read_bytes, read_settings
from ..pose_estimation.estimation import DETECT_EVERY, track_signer
from ..pose_estimation.networks import open_networks
from ..store.clip import UNLABELLED
from ..store.keypoint_store import KeypointStore, KeypointStoreWriter
from .makers import Maker
from .quality import picture_change

VERSION = 1  # of the computation: after a change, all parts are computed again
UNDECODABLE_FRAMES = 3  # many files declare a few frames at their end that no decoder returns
_REMEDY = "delete this folder and run again"


@dataclass(frozen=True)
class Look:
    """A line of quality.jsonl: a frame on which the person detector ran, and the largest change since the last line.

    Frames are numbered from the start of the part.
    """

    frame: int
    people: int
    change: float  # the largest picture_change between successive frames since the last line
    changed_at: int  # the later of these two frames


@dataclass(frozen=True)
class PartInfo:
    """The content of part.json."""

    first: int  # first frame, as numbered in the video
    frames: int
    fps: float
    box: tuple[int, int, int, int]  # left, top, right, bottom in pixels of the video
    estimator: str  # file name of the pose network
    seconds: float  # computing time of a worker


@dataclass
class _Content:
    """A part before it is written."""

    keypoints: np.ndarray  # [T, 133, 3] float32, fractions of the box
    looks: list[Look]
    info: PartInfo


class PartMaker(Maker):
    """Items: key, video, first, end, fps, box (fractions of the picture)."""

    stage = "part"

    def __init__(self, root: str, run: str, detector: Path | None, pose_model: Path | None, device: str):
        super().__init__(root, run)
        self._files, self._device = (detector, pose_model), device

    def load(self) -> None:
        self._detector, self._network = open_networks(*self._files, self._device)

    def make(self, item: dict[str, Any]) -> _Content:
        """Poses of the signer in the box. Raises InputError if the video has far fewer frames than it declares."""
        video, first, end = Path(item["video"]), item["first"], item["end"]
        with VideoFile(video) as file:
            box = pixel_box(item["box"], file.width, file.height)
        changes = np.zeros(end - first)

        def pictures(every: int) -> Iterator[tuple[int, np.ndarray]]:
            before: np.ndarray | None = None
            with VideoFile(video, box) as file:
                for number, picture in file.span(first, end, every):
                    if every == 1 and before is not None:
                        changes[number - first] = picture_change(before, picture)
                    before = picture
                    yield number - first, picture

        poses = track_signer(pictures, self._detector, self._network, DETECT_EVERY)
        decoded = len(poses.points)
        if end - first - decoded > UNDECODABLE_FRAMES:
            problem = f"decodes only to frame {first + decoded} of {end}"
            raise InputError(video, problem, "copy or encode the video again, or leave it out")
        keypoints = np.zeros((end - first, *poses.confidence.shape[1:], 3), np.float32)
        keypoints[:decoded, :, :2] = poses.points / _size(box)
        keypoints[:decoded, :, 2] = poses.confidence
        info = PartInfo(first, end - first, item["fps"], box, self._network.weights.name, 0.0)
        return _Content(keypoints, _looks(poses.persons, changes), info)

    def write(self, key: str, content: _Content, seconds: float) -> None:
        """Writes the part unless it exists: keypoint store, quality.jsonl, part.json. `seconds`: duration of `make`."""
        source = {"estimator": content.info.estimator, "version": "curate.py", "coordinates": "fractions of the box"}
        width, height = _size(content.info.box)
        with created_once(self.folder.part(key), self.folder.unfinished) as part:
            with KeypointStoreWriter(part, source) as writer:
                writer.add(
                    content.keypoints,
                    id=key,
                    split=UNLABELLED,
                    language="en",  # required, though there is no text
                    text="",
                    fps=content.info.fps,
                    width=width,
                    height=height,
                )
            lines = [msgspec.json.encode(look).decode() + "\n" for look in content.looks]
            replace_text(part / "quality.jsonl", "".join(lines))
            replace_json(part / "part.json", asdict(replace(content.info, seconds=round(seconds, 3))))

    def is_finished(self, key: str) -> bool:
        return self.folder.part(key).exists()


@dataclass(frozen=True)
class Part:
    """A finished part; `keypoints` [T, 133, 3] float16, fractions of the box."""

    info: PartInfo
    looks: list[Look]
    keypoints: np.ndarray


def read_part(path: Path) -> Part:
    """Read a part. Raises InputError if any file of it is damaged."""
    store = KeypointStore.open(path)
    info = read_settings(path / "part.json", PartInfo, "does not describe a part", _REMEDY, ("first", "frames", "box"))
    try:
        looks = [msgspec.json.decode(line, type=Look) for line in read_bytes(path / "quality.jsonl").splitlines()]
    except msgspec.MsgspecError as error:
        raise InputError(path / "quality.jsonl", f"is damaged ({error})", _REMEDY) from None
    return Part(info, looks, store.packed_keypoints(store.clips[0]))


def pixel_box(box: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    """A box in fractions of the picture -> left, top, right, bottom in whole pixels, at least one wide and high."""
    left, top = min(round(box[0] * width), width - 1), min(round(box[1] * height), height - 1)
    return left, top, max(round(box[2] * width), left + 1), max(round(box[3] * height), top + 1)


def _size(box: tuple[int, int, int, int]) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]


def _looks(people: dict[int, int], changes: np.ndarray) -> list[Look]:
    looks, start = [], 0
    for frame, number in people.items():
        at = start + int(changes[start : frame + 1].argmax())
        looks.append(Look(frame, number, round(float(changes[at]), 4), at))
        start = frame + 1
    return looks
