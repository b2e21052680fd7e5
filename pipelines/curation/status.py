"""The progress of a corpus, and how long a large one would take."""

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from ..input_files import read_settings
from ..skeleton import JOINTS
from .folder import CorpusFolder
from .parts import PartInfo
from .survey import Survey

REASONS_SHOWN = 20


@dataclass(frozen=True)
class Rates:
    """The assumed rates, and where they come from."""

    fps: float = 25.0  # of the programmes
    decode_1080p: float = 213.0  # frames per second and core, measured
    decode_576p: float = 834.0  # frames per second and core, measured
    asr: float = 18.0  # times real time per core: faster-whisper tiny.en, measured; larger models are slower
    pose_core: float = 5.3  # frames per second and core: RTMPose-l's size with random weights, measured
    pose_gpu: float = 1000.0  # frames per second and GPU: a goal, not measured
    detect_every: int = 25
    detections_core: float = 68.0  # frames per second and core, measured with a small detector
    passes: int = 2  # each part is decoded this often
    bytes_per_frame: int = JOINTS * 3 * 2


def print_status(survey: Survey) -> None:
    """Print finished, waiting and failed plans and parts by series, dead letters with their reasons, and releases.

    Hours count finished parts; "x real time" is the speed of one worker.
    """
    console, folder = Console(), survey.folder
    table = Table(title=str(folder.root), title_justify="left")
    for column in ("series", "programmes", "plans", "parts", "waiting", "dead", "hours", "x real time"):
        table.add_column(column, justify="left" if column == "series" else "right")
    letters = survey.dead_letters()
    for series in survey.sources.series:
        works = [work for work in survey.work if work.series is series]
        items = [item["key"] for work in works for item in work.part_items]
        infos = [_info(folder, key) for key in items if folder.part(key).exists()]
        plans = sum(folder.plan(work.plan_key).exists() for work in works)
        keys = [work.plan_key for work in works] + items
        dead = sum(key in letters for key in keys)
        seconds, worked = sum(one.frames / one.fps for one in infos), sum(one.seconds for one in infos)
        counts = (len(works), plans, f"{len(infos)} of {len(items)}", len(keys) - plans - len(infos) - dead, dead)
        speed = f"{seconds / worked:.2f}" if worked else "-"
        table.add_row(series.name, *map(str, counts), f"{seconds / 3600:.2f}", speed)
    console.print(table)
    for work in survey.work:
        print(f"source {work.programme.source_id}: {work.series.name}: {work.programme.path}")
    for key, letter in list(letters.items())[:REASONS_SHOWN]:
        print(f"dead letter: {letter.get('stage')} {key}: {letter.get('reason')}")
    if len(letters) > REASONS_SHOWN:
        print(f"and {len(letters) - REASONS_SHOWN} more in {folder.root / 'dead'}")
    if folder.withdrawn:
        print(f"withdrawn sources: {len(folder.withdrawn)}")
    releases = sorted(path.parent.name for path in folder.releases.glob("*/release.json"))
    current = folder.current.resolve().name if folder.current.exists() else "none"
    print(f"releases: {', '.join(releases) or 'none'}; current: {current}")


def _info(folder: CorpusFolder, key: str) -> PartInfo:
    path = folder.part(key) / "part.json"
    return read_settings(path, PartInfo, "does not describe a part", "delete this folder and run again")


def print_plan(hours: float, gpus: int, folder: CorpusFolder | None) -> None:
    """Print the work for a number of hours of programmes: each line with its rate, and whether that was measured.

    If `folder` has finished parts, also print their rate.
    """
    table = Table(title=f"{hours:g} hours of programmes, {gpus} GPUs", title_justify="left")
    for column in ("work", "amount", "rate", "time"):
        table.add_column(column, justify="left" if column == "work" else "right")
    for row in _plan_rows(hours, gpus, Rates()):
        table.add_row(*row)
    console = Console(width=120)
    console.print(table)
    print(
        "Rates per core were measured on two cores of a virtual machine (2026-11-28). The rate per GPU is a goal, not "
        "measured. Decoding, detection and recognition run on CPU cores beside the GPUs."
    )
    infos = [_info(folder, path.parent.name) for path in folder.root.glob("parts/*/part.json")] if folder else []
    if infos:
        frames, seconds = sum(one.frames for one in infos), sum(one.seconds for one in infos)
        rate = frames / max(seconds, 1e-9)
        days = hours * 3600 * Rates().fps / rate / 86400
        print(f"finished parts here: {len(infos)}, {rate:.1f} frames/s per worker, so {days:.1f} worker days")


def _plan_rows(hours: float, gpus: int, rates: Rates) -> Iterator[tuple[str, str, str, str]]:
    frames = hours * 3600 * rates.fps
    millions = f"{frames / 1e6:.0f} M"

    def on_cores(amount: float, rate: float) -> tuple[str, str, str]:
        return f"{amount / 1e6:.0f} M", f"{rate:g}/s per core", f"{amount / rate / 3600:.0f} core hours"

    yield "frames", millions, f"{rates.fps:g} frames/s of video", ""
    yield f"decoding, {rates.passes} passes, 1080p", *on_cores(rates.passes * frames, rates.decode_1080p)
    yield f"decoding, {rates.passes} passes, 576p", *on_cores(rates.passes * frames, rates.decode_576p)
    detections = frames / rates.detect_every
    yield f"detection, 1 frame in {rates.detect_every}", *on_cores(detections, rates.detections_core)
    asr = f"{rates.asr:g} x real time per core", f"{hours / rates.asr:.0f} core hours"
    yield "recognition (not with captions)", f"{hours:g} h", *asr
    yield "poses on cores", *on_cores(frames, rates.pose_core)
    gpu_hours = frames / rates.pose_gpu / 3600
    wall = f"{gpu_hours:.0f} GPU hours, {gpu_hours / gpus:.1f} h on {gpus}"
    yield "poses on GPUs (goal)", millions, f"{rates.pose_gpu:g}/s per GPU", wall
    cores = rates.passes * rates.pose_gpu / rates.decode_1080p
    yield "cores that decode 1080p for one GPU", "", "", f"{cores:.0f}"
    disk = f"{frames * rates.bytes_per_frame / 1e9:.0f} GB"
    yield "keypoints on disk", disk, f"{rates.bytes_per_frame} bytes per frame", ""
