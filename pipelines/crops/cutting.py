"""Cuts the hand crops of a keypoint store: every frame, both hands, once, in many processes.

    python launch/prepare.py crops STORE

Worker processes cut the clips in order; only this process writes. The next call resumes after the last committed clip
(pipelines/store/crop_store.py). Videos are decoded by DALI on the machine's GPUs, which the processes share, else by
PyAV.
"""

import io
import multiprocessing
import os
import shutil
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track

from ..errors import InputError
from ..file_names import NamedFiles
from ..store.crop_store import CropStoreWriter, crops_folder
from ..store.keypoint_store import KeypointStore
from ..workers import end_with_parent
from .sources import VideoHandCrops, want_hands

FRAMES_AT_ONCE = 256  # frames cut at once, so that a long clip needs no more memory than others
COMMIT_SECONDS = 60  # between commits; a killed run resumes from the last one
ESTIMATE_CLIPS = 8  # clips cut to estimate the disk space
GPU_WORKERS = 8  # processes on a GPU: each takes gigabytes of its memory, and a GPU has at most seven video decoders


def cut_crops(
    store: KeypointStore, size: int, quality: int, videos: Path | None = None, workers: int | None = None
) -> CropStoreWriter:
    """Cuts all clips that are not cut yet; first prints an estimate of the disk space.

    size: side in pixels; quality: of JPEG, 1 to 95; videos: a folder in which to look up the videos by name, instead of
    the store's own paths; workers: processes, by default one per core, but at most GPU_WORKERS per GPU. A clip whose
    video can't be used is named on stderr and left out. Raises InputError if the disk has too little space, or no clip
    can be cut.
    """
    if not 8 <= size <= 512 or not 1 <= quality <= 95:
        raise InputError("--size, --quality", f"{size} and {quality} are not valid", "give 8 to 512, and 1 to 95")
    if videos is not None and not videos.is_dir():
        raise InputError(f"--videos: {videos}", "is not a folder", "name the folder that holds the videos")
    try:
        writer = CropStoreWriter(store, size, quality)
        _cut_the_rest(store, writer, videos, workers or default_workers())
    except OSError as error:
        problem = f"cannot be written ({error.strerror or error})"
        raise InputError(crops_folder(store), problem, "free disk space and run the command again") from None
    if writer.clips and len(writer.left_out) == writer.clips:
        raise InputError(store.path, "none of its clips could be cut", "fix the errors above, then delete its crops")
    return writer


def default_workers() -> int:
    """Processes that cut crops unless a number is given."""
    cores = len(os.sched_getaffinity(0))
    return min(cores, GPU_WORKERS * torch.cuda.device_count()) if torch.cuda.is_available() else cores


def _cut_the_rest(store: KeypointStore, writer: CropStoreWriter, videos: Path | None, workers: int) -> None:
    """Cuts all clips from the writer's next one on; commits every COMMIT_SECONDS and at the end."""
    console = Console(stderr=True)
    waiting = range(writer.clips, len(store.clips))
    context = multiprocessing.get_context("spawn")  # DALI and PyAV hold threads, which a fork would not survive
    settings = (store.path, writer.size, writer.quality, videos, context.Value("i", 0))
    with ProcessPoolExecutor(workers, context, _start_worker, settings) as pool:
        if waiting:
            _check_disk_space(store, waiting, pool, writer.path, console)
        committed = time.monotonic()
        clips = _in_order(pool, waiting, 4 * workers)
        bar = track(clips, "cutting hands", len(waiting), console=console, disable=not console.is_terminal)
        for number, files in bar:
            if isinstance(files, str):
                writer.leave_out(files)
                line = f"left out: clip {store.clips[number].id}: {files}"
                console.print(line, markup=False, highlight=False, soft_wrap=True)
            else:
                writer.add(files)
            if time.monotonic() - committed > COMMIT_SECONDS:
                writer.commit()
                committed = time.monotonic()
    writer.commit()


def _check_disk_space(
    store: KeypointStore, waiting: range, pool: ProcessPoolExecutor, folder: Path, console: Console
) -> None:
    """Estimates the crops' size from clips spread over the store. Raises InputError if the disk is too small."""
    sample = np.unique(np.linspace(waiting.start, waiting.stop - 1, ESTIMATE_CLIPS).astype(int)).tolist()
    results = [files for files in pool.map(_cut, sample) if not isinstance(files, str)]
    crops = 2 * int(store.clips.frames[waiting.start :].sum())
    if not results:
        return
    each = sum(len(file) for files in results for file in files) / sum(len(files) for files in results)
    needed, free = each * crops, shutil.disk_usage(folder).free
    estimate = f"{crops} crops of about {each / 1000:.1f} kB will take about {_human(needed)}; {_human(free)} are free"
    console.print(estimate, markup=False, highlight=False)
    if needed > free:
        raise InputError(folder, estimate, "free disk space, or choose a smaller --size or --quality")


def _human(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _in_order(pool: ProcessPoolExecutor, numbers: range, ahead: int) -> Iterator[tuple[int, list[bytes] | str]]:
    """Each clip's files, or why it has none; at most `ahead` clips are in progress or waiting to be written."""
    submitted = ((number, pool.submit(_cut, number)) for number in numbers)
    waiting = deque(islice(submitted, ahead))
    while waiting:
        number, future = waiting.popleft()
        files = future.result()
        waiting.extend(islice(submitted, 1))
        yield number, files


class _Cutter:
    """State of a worker process."""

    def __init__(self, store: Path, size: int, quality: int, videos: Path | None, number: int):
        """`number` of the process, from 0: it chooses the GPU."""
        self.store, self.videos, self.quality = KeypointStore.open(store), videos, quality
        device = torch.device("cpu")
        if torch.cuda.is_available():
            device = torch.device("cuda", number % torch.cuda.device_count())
            torch.cuda.set_device(device)
        self.source = VideoHandCrops(size, device)

    def cut(self, number: int) -> list[bytes]:
        """The clip's JPEG files, two per frame."""
        clip = self.store.clips[number]
        video = _find(self.videos, self.store.video(clip)) if self.videos else self.store.video(clip)
        keypoints = self.store.keypoints(clip)
        files: list[bytes] = []
        for first in range(0, clip.frames, FRAMES_AT_ONCE):
            frames = np.arange(first, min(first + FRAMES_AT_ONCE, clip.frames)).repeat(2)
            hands = np.arange(len(frames)) % 2
            wanted = want_hands(clip, video, keypoints, frames, hands, "clip", self.store.skeleton)
            (crops,) = self.source.read([wanted])
            if isinstance(crops, InputError):
                raise crops
            files += [_jpeg(crop, self.quality) for crop in crops.permute(0, 2, 3, 1).cpu().numpy()]
        return files


def _jpeg(crop: np.ndarray, quality: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(crop).save(file, "JPEG", quality=quality)
    return file.getvalue()


def _find(folder: Path, video: Path) -> Path:
    """The video below a folder in which it has the same last path components."""
    files = NamedFiles(folder)
    for parts in range(len(video.parts) - 1, 0, -1):
        candidate = files.find("/".join(video.parts[-parts:]))
        if candidate and candidate.is_file():
            return candidate
    raise InputError(folder / video.name, "is missing", "name the folder that holds the videos")


_cutter: _Cutter


def _start_worker(store: Path, size: int, quality: int, videos: Path | None, started: Synchronized) -> None:
    """`started`: processes started before this one, counted by each."""
    global _cutter
    end_with_parent()
    torch.set_num_threads(1)  # parallel over clips instead
    with started.get_lock():
        number, started.value = started.value, started.value + 1
    _cutter = _Cutter(store, size, quality, videos, number)


def _cut(number: int) -> list[bytes] | str:
    try:
        return _cutter.cut(number)
    except InputError as error:
        return str(error)
