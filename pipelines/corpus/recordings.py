"""Input for translation as clips of keypoint stores: a whole store, videos that belong to a store, or other videos.

Keypoints of other videos are estimated and written to a new store.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ..converters.unisign import read_pose
from ..crops.video import read_video_info
from ..errors import InputError
from ..store.clip import Clip
from ..store.keypoint_store import KeypointStore, KeypointStoreWriter


class Recording(NamedTuple):
    """A clip of a store, under the name that the user gave."""

    name: str
    store: KeypointStore
    clip: Clip

    @property
    def video(self) -> str:
        """The full path of its video, "" if it has none."""
        return str(self.store.video(self.clip).resolve()) if self.clip.source else ""


def recordings_of_store(path: Path) -> Iterable[Recording]:
    """All clips of a store, named after their videos. Raises InputError if `path` is not a store."""
    store = KeypointStore.open(path)
    return (Recording(str(store.video(clip)) if clip.source else clip.id, store, clip) for clip in store.clips)


def known_recordings(video: Path, stores: Sequence[KeypointStore] = ()) -> list[Recording]:
    """The clips of this video in one of `stores`, or else in a nearby store; [] if no store has the video.

    Nearby stores are in the video's folder, its parent (as in the demo corpus), or a subfolder of either. In `stores`,
    a copy of the video counts, too: the same file name, size and number of frames. Raises InputError if there is no
    such video.
    """
    if not video.is_file():
        raise InputError(video, "there is no such video", "name an existing video")
    path = video.absolute()
    near = (path.parent, path.parent.parent)
    beside = [file.parent for folder in near for place in ("store.json", "*/store.json") for file in folder.glob(place)]
    for folder in dict.fromkeys([*(store.path.absolute() for store in stores), *beside]):
        store, clips = _clips_by_video(folder)
        if path.resolve() in clips:
            return [Recording(str(video), store, store.clips[number]) for number in clips[path.resolve()]]
    copies = (_clips_of_copy(video, store) for store in stores)
    return next((clips for clips in copies if clips), [])


@lru_cache(maxsize=8)
def _clips_by_video(folder: Path) -> tuple[KeypointStore, dict[Path, list[int]]]:
    store = KeypointStore.open(folder)
    numbers: dict[Path, list[int]] = {}
    for number, clip in enumerate(store.clips):
        if clip.source:
            numbers.setdefault(store.video(clip).resolve(), []).append(number)
    return store, numbers


def _clips_of_copy(video: Path, store: KeypointStore) -> list[Recording]:
    """The clips of the store's video that `video` is a copy of; [] where several videos could be it."""
    named = [clip for clip in store.clips if Path(clip.source).name == video.name]
    if not named:
        return []
    info = read_video_info(video)
    same = [
        clip
        for clip in named
        if (clip.video_frames or clip.video_start + clip.frames) == info.frames
        and (clip.box or (clip.width, clip.height) == (info.width, info.height))
    ]
    sources = {store.video(clip) for clip in same}
    return [Recording(str(video), store, clip) for clip in same] if len(sources) == 1 else []


def estimated_recordings(
    videos: Sequence[Path], folder: Path, language: str, detector, network
) -> tuple[list[Recording], list[InputError]]:
    """The videos with keypoints by a PersonDetector and a PoseNetwork, in a new store below `folder`.

    Also the reasons why other videos are left out; these are reported on stderr. `language` is that of the texts to be
    generated.
    """
    from ..pose_estimation.extraction import Work, extract  # late import: an optional dependency

    work = [Work(video, folder / "poses" / f"{number}.pkl") for number, video in enumerate(videos)]
    bad = extract(work, detector, network).bad
    source = {"estimator": network.weights.name, "version": "as translated", "coordinates": "fractions of the picture"}
    with KeypointStoreWriter(folder / "store", source) as writer:
        for item in work:
            if item.pose.exists():
                info = read_video_info(item.video)
                writer.add(
                    read_pose(item.pose, info).keypoints[: info.frames],
                    id=str(item.video),
                    split="test",
                    language=language,
                    text="",
                    fps=info.fps,
                    width=info.width,
                    height=info.height,
                    source=str(item.video.resolve()),
                    video_frames=info.frames,
                )
    store = KeypointStore.open(folder / "store")
    return [Recording(clip.id, store, clip) for clip in store.clips], bad
