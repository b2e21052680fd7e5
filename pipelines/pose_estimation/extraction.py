"""Folders of videos -> pose files, the pickles of the published Uni-Sign format (pipelines/converters/unisign.py).

{keypoints: T arrays (1, 133, 2), x / width and y / height, scores: T arrays (1, 133), w_h: [width, height], estimator:
name of the weights}, all float32. A frame in which the signer is not found has zeros, confidence 0. Files are
written atomically, so a second call processes only the remaining videos.
"""

import pickle
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..atomic_io import replaced
from ..crops.video import VIDEO_SUFFIXES
from ..errors import InputError
from ..file_names import is_hidden
from .estimation import estimate_pose
from .networks import PersonDetector, PoseNetwork


@dataclass(frozen=True)
class Work:
    """A video and the pose file to be made of it."""

    video: Path
    pose: Path


@dataclass
class Extraction:
    """The errors of videos that were left out; the number of frames estimated in the others, and the seconds taken."""

    bad: list[InputError] = field(default_factory=list)
    frames: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Frames per second."""
        return self.frames / self.seconds if self.seconds else 0.0


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


def extract(work: list[Work], detector: PersonDetector, network: PoseNetwork, workers: int = 2) -> Extraction:
    """Writes the pose files. Videos that are left out are also reported on stderr.

    Processes `workers` videos at once in threads; onnxruntime, OpenCV and FFmpeg release the GIL. Raises
    InputError if a pose file cannot be written.
    """
    if workers < 1:
        raise InputError("--workers", f"is {workers}", "give at least 1")
    result, began = Extraction(), time.perf_counter()
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console, disable=not console.is_terminal)
    with progress, ThreadPoolExecutor(workers, thread_name_prefix="poses") as pool:
        task = progress.add_task("estimating poses", total=len(work))
        for job in _as_completed(pool, lambda item: _write_pose(item, detector, network), work, ahead=2 * workers):
            answer = job.result()
            if isinstance(answer, InputError):
                result.bad.append(answer)
                console.print(f"left out: {answer}", markup=False, highlight=False, soft_wrap=True)
            else:
                result.frames += answer
            progress.advance(task)
    result.seconds = time.perf_counter() - began
    return result


def _as_completed(
    pool: ThreadPoolExecutor, do: Callable[[Work], int | InputError], work: list[Work], ahead: int
) -> Iterator[Future]:
    """Yields jobs as they finish, with at most `ahead` submitted at a time."""
    running: set[Future] = set()
    for item in work:
        running.add(pool.submit(do, item))
        if len(running) == ahead:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from done
    yield from wait(running).done


def _write_pose(work: Work, detector: PersonDetector, network: PoseNetwork) -> int | InputError:
    """The number of frames in the pose file, or the reason why there is none. Raises InputError if it cannot be
    written."""
    try:
        pose = estimate_pose(work.video, detector, network)
    except InputError as error:
        return error
    except Exception as error:  # OpenCV, onnxruntime and FFmpeg raise many types; continue with other videos
        reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        return InputError(work.video, f"its poses cannot be estimated ({reason})", "leave it out")
    with replaced(work.pose) as part:
        part.write_bytes(pickle.dumps(pose))
    return len(pose["keypoints"])
