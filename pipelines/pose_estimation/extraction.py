"""Videos -> pose files, the pickles of the published Uni-Sign format, which pipelines/converters/unisign.py reads.

{keypoints: T arrays (1, 133, 2), x / width and y / height, scores: T arrays (1, 133), w_h: [width, height], estimator:
name of the weights}, all float32. A frame in which the signer is not found has zeros, confidence 0. Detection runs on
every frame, as in rtmlib's Wholebody: the crop then follows the arms, and it is known where the signer is missing.
A file appears whole or not at all, so that a second call has only the rest to do.
"""

import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..atomic_io import sync_to_disk
from ..converters.convert import UNDECODABLE_FRAMES
from ..crops.video import VIDEO_SUFFIXES, VideoFile
from ..errors import InputError
from ..file_names import is_hidden
from ..signer_tracking import follow_signer
from ..skeleton import JOINTS
from .networks import PersonDetector, PoseNetwork


@dataclass(frozen=True)
class Work:
    """A video and the pose file to be made of it."""

    video: Path
    pose: Path


def find_work(videos: Path, out: Path) -> list[Work]:
    """The videos under `videos`, each with its pose file under `out`, in the same subfolder.

    Raises InputError if there are none, or two for one pose file.
    """
    if not videos.is_dir():
        raise InputError(f"--videos: {videos}", "is not a folder", "name the folder that holds the videos")
    work: dict[Path, Work] = {}
    files = (path for path in videos.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and not is_hidden(path))
    for video in sorted(files):
        pose = out / video.relative_to(videos).with_suffix(".pkl")
        if pose in work:
            raise InputError(video, f"and {work[pose].video} would have one pose file", "rename one of them")
        work[pose] = Work(video, pose)
    if not work:
        problem = f"holds no video ({', '.join(VIDEO_SUFFIXES)})"
        raise InputError(f"--videos: {videos}", problem, "name the folder that holds the videos")
    return list(work.values())


def extract(work: list[Work], detector: PersonDetector, network: PoseNetwork, workers: int = 2) -> list[InputError]:
    """Writes the pose files; returns why each video that was left out is bad, having printed it to stderr.

    `workers` videos are at work at once, in threads: onnxruntime, OpenCV and FFmpeg all run beside one another.
    """
    if workers < 1:
        raise InputError("--workers", f"is {workers}", "give at least 1")
    bad: list[InputError] = []
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console, disable=not console.is_terminal)
    with progress, ThreadPoolExecutor(workers, thread_name_prefix="poses") as pool:
        task = progress.add_task("estimating poses", total=len(work))
        for job in _as_completed(pool, lambda item: _write_pose(item, detector, network), work, ahead=2 * workers):
            try:
                job.result()
            except InputError as error:
                bad.append(error)
                console.print(f"left out: {error}", markup=False, highlight=False, soft_wrap=True)
            progress.advance(task)
    return bad


def _as_completed(
    pool: ThreadPoolExecutor, do: Callable[[Work], None], work: list[Work], ahead: int
) -> Iterator[Future]:
    """The finished jobs, at most `ahead` of them waiting or at work at a time."""
    running: set[Future] = set()
    for item in work:
        running.add(pool.submit(do, item))
        if len(running) == ahead:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from done
    yield from wait(running).done


def _write_pose(work: Work, detector: PersonDetector, network: PoseNetwork) -> None:
    pose = estimate_pose(work.video, detector, network)
    work.pose.parent.mkdir(parents=True, exist_ok=True)
    unnamed = work.pose.with_name(work.pose.name + ".part")
    unnamed.write_bytes(pickle.dumps(pose))
    sync_to_disk(unnamed)
    unnamed.rename(work.pose)
    sync_to_disk(work.pose.parent)


def estimate_pose(video: Path, detector: PersonDetector, network: PoseNetwork) -> dict:
    """The content of a video's pose file. Raises InputError if the video does not decode to its end, or shows nobody.

    The video is decoded twice, which costs little beside the networks and keeps no pictures in memory.
    """
    with VideoFile(video) as file:
        info = file.info()
        declared = max(info.frames, file.declared_frames)
        persons = [detector(picture) for picture in file.pictures()]
    boxes = [None if k is None else found[k, :4] for found, k in zip(persons, follow_signer(persons))]
    if declared - len(boxes) > UNDECODABLE_FRAMES:
        problem = f"decodes only to frame {len(boxes)} of {declared}"
        raise InputError(video, problem, "copy or encode the video again, or leave the clip out")
    if not any(box is not None for box in boxes):
        raise InputError(video, f"no person is found in its {len(boxes)} frames", "leave the clip out")
    frames = max(info.frames, len(boxes))  # what a converter counts; the last few may not decode
    keypoints = np.zeros((frames, 1, JOINTS, 2), np.float32)
    scores = np.zeros((frames, 1, JOINTS), np.float32)
    for numbers, sizes, crops in _batches(video, boxes, network):
        pixels, confidences = network(crops)
        keypoints[numbers, 0] = pixels / np.array(sizes)[:, None]
        scores[numbers, 0] = confidences
    return {
        "keypoints": list(keypoints),
        "scores": list(scores),
        "w_h": [info.width, info.height],
        "estimator": network.weights.name,
    }


def _batches(
    video: Path, boxes: list[np.ndarray | None], network: PoseNetwork
) -> Iterator[tuple[list[int], list[tuple[int, int]], list]]:
    """The signer's crops in batches, each with the numbers of its frames and their pictures' (width, height)."""
    numbers, sizes, crops = [], [], []
    with VideoFile(video) as file:
        for number, (picture, box) in enumerate(zip(file.pictures(), boxes)):
            if box is None:
                continue
            numbers.append(number)
            sizes.append((picture.shape[1], picture.shape[0]))
            crops.append(network.crop(picture, box))
            if len(crops) == network.batch:
                yield numbers, sizes, crops
                numbers, sizes, crops = [], [], []
    if crops:
        yield numbers, sizes, crops
