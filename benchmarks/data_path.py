"""The data path compared with the published code's data path, and the cost of a large corpus.

    python benchmarks/data_path.py                     both, with crops on the GPU where there is one, else on the CPU
    python benchmarks/data_path.py --draw-rows ROWS    a picture of rows that were written by --json

Five pipelines run interleaved, and their median times per clip are compared: the published one (baseline/data.py), and
the keypoint store with crops from the crop store, from H.264 and VP9 videos, and from VP9 videos through DALI (on a GPU
all except the published one use DALI, through nvJPEG and NVDEC). All deliver the same frames, with one thread each.
"""

import json as json_format
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # the project's root instead of this file's own folder
os.environ.setdefault("OMP_NUM_THREADS", "1")

import av
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.about import about
from benchmarks.baseline.data import pad, read_hands, read_parts, write_pose
from benchmarks.corpus_sizes import BATCH, SOURCE, SizeRow, compression, measure_sizes
from unisign_fast.evaluation.predictions import write_json
from unisign_fast.model.rgb_branch import IMAGENET_MEAN, IMAGENET_STD
from unisign_fast.pipelines.batches.collate import collate
from unisign_fast.pipelines.batches.reader import ClipReader
from unisign_fast.pipelines.crops.cutting import cut_crops
from unisign_fast.pipelines.crops.sources import VideoHandCrops
from unisign_fast.pipelines.demo_corpus import write_demo_corpus
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.settings import DataSettings
from unisign_fast.pipelines.skeleton import PARTS
from unisign_fast.pipelines.store.keypoint_store import KeypointStore, KeypointStoreWriter
from unisign_fast.utils.console import run_command
from unisign_fast.utils.process_memory import keep_memory

CODECS = {  # synthetic videos: suffix, FFmpeg's encoder and its options; both at two megabits per second
    "mp4": ("libx264", {"b": "2M", "preset": "veryfast"}),
    "webm": ("libvpx-vp9", {"b": "2M", "deadline": "realtime", "cpu-used": "8"}),
}
CPU = torch.device("cpu")
P_SAMP = (0.1, 0.25, 0.5, 1.0)
WAYS = ("published", "store", "h264", "vp9", "vp9 dali")
SIZES = (1_000, 100_000, 1_000_000)  # clips of a corpus


@dataclass(frozen=True)
class Row:
    """Milliseconds per clip, and the speed-up over the published pipeline for the same corpus and p_samp."""

    corpus: str
    p_samp: float
    way: str
    p20_ms: float
    p50_ms: float
    p80_ms: float
    times_faster: float
    clips_per_s: float
    crops_per_clip: float


class FakeTokenizer:
    """Texts do not matter here."""

    fingerprint = "none"

    def prompt_ids(self, language: str) -> list[int]:
        return [2, 1]

    def target_ids(self, text: str) -> list[int]:
        return [2, 1]


def made_clip(folder: Path, number: int, frames: int = 250, side: int = 512) -> np.ndarray:
    """Keypoints [T, 133, 3] of a signer with moving hands, and the video in H.264 and VP9; noise sets the bit rate."""
    rng = np.random.default_rng(number)
    t = np.linspace(0, 6, frames)[:, None, None]
    keypoints = rng.uniform(0.3, 0.7, (1, 133, 3)) + 0.002 * rng.standard_normal((frames, 133, 3))
    for first, phase in ((91, 0.0), (112, 2.0)):
        centre = np.concatenate([0.5 + 0.25 * np.sin(t + phase), 0.5 + 0.25 * np.cos(1.3 * t + phase)], axis=-1)
        keypoints[:, first : first + 21, :2] = centre + rng.uniform(-0.09, 0.09, (1, 21, 2))
    keypoints[..., 2] = rng.uniform(0.4, 0.9, (frames, 133))
    coarse = rng.integers(0, 256, (2, 17, 17, 3), np.uint8)
    ground, hand = (np.kron(c, np.ones((side // 16, side // 16, 1), np.uint8))[:side, :side] for c in coarse)
    grain = rng.integers(0, 24, (side, 2 * side, 3), np.uint8)
    with ExitStack() as stack:
        streams = []
        for suffix, (encoder, options) in CODECS.items():
            container = stack.enter_context(av.open(str(folder / f"{number}.{suffix}"), "w"))
            stream = container.add_stream(encoder, rate=25, options=options)
            stream.width, stream.height, stream.pix_fmt = side, side, "yuv420p"
            streams.append((container, stream))
        for f in range(frames):
            picture = ground // 2 + grain[:, f % side : f % side + side]
            for first in (91, 112):
                x, y = (side * keypoints[f, first : first + 21, :2].mean(0)).astype(int)
                half = side * 3 // 32
                picture[y - half : y + half, x - half : x + half] = hand[: 2 * half, : 2 * half]
            for container, stream in streams:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for container, stream in streams:
            container.mux(stream.encode())
    return keypoints


def made_corpus(folder: Path, clips: int, frames: int = 250, side: int = 512) -> tuple[KeypointStore, KeypointStore]:
    """Made clips: the store of the H.264 videos, with crops, and that of the VP9 ones."""
    folder.mkdir()
    keypoints = [made_clip(folder, number, frames, side) for number in range(clips)]
    fields = {"split": "train", "language": "en", "text": "t", "fps": 25.0, "width": side, "height": side}
    for suffix in ("mp4", "webm"):
        with KeypointStoreWriter(folder / suffix, SOURCE) as writer:
            for number, pose in enumerate(keypoints):
                writer.add(pose, id=str(number), source=str(folder / f"{number}.{suffix}"), **fields)
    h264, vp9 = (KeypointStore.open(folder / suffix) for suffix in ("mp4", "webm"))
    cut_crops(h264, 112, 90)
    return h264, vp9


def demo_corpus(folder: Path) -> tuple[KeypointStore, KeypointStore]:
    """Sentences of the demo corpus in the same form; it has H.264 videos only."""
    write_demo_corpus(folder, 60, 0)
    store = KeypointStore.open(folder / "sentences")
    cut_crops(store, 112, 90)
    vp9 = folder / "vp9"
    with KeypointStoreWriter(vp9, store.keypoint_source) as writer:
        for clip in store.clips:
            source = vp9 / f"{clip.id}.webm"
            transcode(store.video(clip), source)
            size = {"fps": clip.fps, "width": clip.width, "height": clip.height}
            labels = {"id": clip.id, "split": clip.split, "language": clip.language, "text": clip.text}
            writer.add(store.keypoints(clip), source=str(source), **labels, **size)
    return store, KeypointStore.open(vp9)


def transcode(source: Path, target: Path) -> None:
    """Re-encode as VP9 at the same bit rate."""
    with av.open(str(source)) as container, av.open(str(target), "w") as out:
        encoder, options = CODECS["webm"]
        stream = out.add_stream(encoder, rate=25, options=options | {"b": str(container.bit_rate)})
        first = container.streams.video[0]
        stream.width, stream.height, stream.pix_fmt = first.width, first.height, "yuv420p"
        for frame in container.decode(first):
            frame.pts = None
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


def check(reader: ClipReader, poses: Path) -> None:
    """Both pipelines must deliver the same data before they are compared: poses of a clip, and crops from its video."""
    clips = reader.clips("train")
    sample = reader.read(clips[0], 0, True)
    batch = reader.batch(clips, [0], 0, True).batch
    parts = read_parts(poses / f"{sample.hands.clip.id}.pkl")
    theirs = torch.cat([parts[part] for part in PARTS], dim=1).float()
    assert torch.allclose(batch.poses, theirs, atol=1e-5), "poses differ"
    if len(sample.crop_frame):
        std, mean = (torch.tensor(x).view(3, 1, 1) for x in (IMAGENET_STD, IMAGENET_MEAN))
        pixels = 255 * (read_hands(reader.stores[0].video(sample.hands.clip), sample, 112) * std + mean)
        assert (pixels - batch.crops.cpu()).abs().mean() < 2, "crops differ"


def measure(
    name: str, h264: KeypointStore, vp9: KeypointStore, clips: int, rounds: int, device: torch.device = CPU
) -> Iterator[Row]:
    """Rows for every p_samp and pipeline; every round times each pipeline, on different clips and frames."""
    poses = h264.path / "published"
    poses.mkdir()
    for clip in h264.clips:
        write_pose(poses / f"{clip.id}.pkl", h264.keypoints(clip))
    for p_samp in (0.0, *P_SAMP):
        settings = DataSettings(p_samp=p_samp)
        readers = {
            "store": ClipReader([h264], settings, FakeTokenizer(), device=device),
            "vp9": ClipReader([vp9], replace(settings, crops="video"), FakeTokenizer(), device=device),
            "h264": ClipReader([h264], replace(settings, crops="video"), FakeTokenizer(), device=device),
        }
        check(readers["h264"], poses)
        sets = {way: reader.clips("train") for way, reader in readers.items()}
        times: dict[str, list[float]] = {way: [] for way in (("published", "store") if p_samp == 0 else WAYS)}
        dali = VideoHandCrops(settings.crop_size, device, dali=True)
        crops = []
        for number in range(rounds + 1):  # the first one warms up
            chosen = [(number * BATCH + i) % min(clips, len(sets["store"])) for i in range(BATCH)]
            samples = [readers["store"].read(sets["store"][n], number, True) for n in chosen]
            crops.append(sum(len(sample.crop_frame) for sample in samples) / BATCH)
            for way in times:
                begin = time.perf_counter()
                if way == "published":
                    pad([read_parts(poses / f"{sample.hands.clip.id}.pkl") for sample in samples])
                    if p_samp:
                        pixels = [read_hands(h264.video(s.hands.clip), s, 112) for s in samples if len(s.crop_frame)]
                        torch.cat(pixels)
                elif way == "vp9 dali":
                    read = [readers["vp9"].read(sets["vp9"][n], number, True) for n in chosen]
                    collate(read, dali.read([sample.hands for sample in read]), settings.crop_size)
                else:
                    loaded = readers[way].batch(sets[way], chosen, number, True)
                    assert not loaded.bad, loaded.bad
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if number:
                    times[way].append(1000 * (time.perf_counter() - begin) / BATCH)
        for way, result in times.items():
            p20, _, _, p80 = statistics.quantiles(result, n=5)
            p50 = statistics.median(result)
            faster = statistics.median(times["published"]) / p50
            yield Row(name, p_samp, way, p20, p50, p80, faster, 1000 / p50, statistics.mean(crops))


def draw(rows: list[Row], file: Path) -> None:
    """Plots clips per second against p_samp, one line per pipeline."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    corpora = list(dict.fromkeys(row.corpus for row in rows))
    figure, axes = pyplot.subplots(1, len(corpora), figsize=(5.5 * len(corpora), 4), sharey=True, squeeze=False)
    for ax, corpus in zip(axes[0], corpora):
        for way, marker in zip(WAYS, "osD^v"):
            mine = [row for row in rows if row.corpus == corpus and row.way == way]
            if mine:
                ax.plot([100 * row.p_samp for row in mine], [row.clips_per_s for row in mine], marker=marker, label=way)
        ax.set(title=corpus, xlabel="p_samp, %", ylabel="clips/s, one thread", yscale="log")
        ax.grid(alpha=0.3)
        ax.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def _print(rows: list[Row], sizes: list[SizeRow]) -> None:
    table = Table(title="From files to a packed batch, one thread")
    for name in ("corpus", "p_samp", "way", "ms a clip (p20, p80)", "clips/s", "crops a clip", "times faster"):
        table.add_column(name, justify="left" if name in ("corpus", "way") else "right")
    for row in rows:
        spread = f"{row.p50_ms:.2f} ({row.p20_ms:.2f}, {row.p80_ms:.2f})"
        numbers = f"{row.clips_per_s:.1f}", f"{row.crops_per_clip:.0f}", f"{row.times_faster:.2f}"
        table.add_row(row.corpus, str(row.p_samp), row.way, spread, *numbers)
    Console(width=120).print(table)
    table = Table(title=f"A corpus of clips of 9.5 s; batches of {BATCH} clips, pose-only")
    for name in ("clips", "frames", "open, s", "tokenise once, s", "with tokens, s", "memory, MiB", "ms a batch"):
        table.add_column(name, justify="right")
    for size in sizes:
        times = f"{size.open_s:.4f}", f"{size.tokenise_s:.1f}", f"{size.reopen_s:.3f}"
        table.add_row(f"{size.clips}", f"{size.frames}", *times, f"{size.memory_mib:.0f}", f"{size.batch_ms:.2f}")
    Console(width=120).print(table)


def data_path(
    clips: int = 16,
    rounds: int = 9,
    sizes: tuple[int, ...] = SIZES,
    json: Path | None = None,
    picture: Path | None = None,
    draw_rows: Path | None = None,
) -> None:
    """Measure the data path on this machine.

    Args:
        clips: Clips of 512 x 512 pixels to make; every round takes 8 of them.
        rounds: Rounds, each of which times every way.
        sizes: Clips of the corpora to open.
        json: File for the rows.
        picture: File for the picture, clips/s against p_samp.
        draw_rows: Measure nothing; draw `picture` from rows that --json wrote.
    """
    if draw_rows:
        draw([Row(**row) for row in json_format.loads(draw_rows.read_text())["rows"]], picture or Path("data_path.png"))
        return
    if rounds < 2:
        raise InputError("--rounds", f"{rounds} has no spread", "give 2 or more")
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    keep_memory()  # as a training process does
    with tempfile.TemporaryDirectory() as folder:
        made, demo = Path(folder) / "made", Path(folder) / "demo"
        stores = made_corpus(made, clips)
        rows = list(measure("250 frames, 512 x 512", *stores, clips, rounds, device))
        share, slower = compression(stores[0], Path(folder))
        rows += measure("demo sentences", *demo_corpus(demo), clips, rounds, device)
        size_rows = list(measure_sizes(Path(folder), sizes))
    _print(rows, size_rows)
    print(
        f"compressed keypoints: {share:.2f} of the size, {slower:.1f} times the time to read (noise compresses badly)"
    )
    if json:
        result = {"rows": [asdict(row) for row in rows], "sizes": [asdict(row) for row in size_rows]}
        write_json(json, about() | result | {"compression": {"size": share, "read_time": slower}})
    if picture:
        draw(rows, picture)


if __name__ == "__main__":
    run_command(data_path)
