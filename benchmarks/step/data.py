"""Data for the benchmarks of the training step: a keypoint store with crops and videos, and the files the published
code reads instead, pickles and the same videos. Clips have the lengths of CSL-News (synthetic.py).
"""

import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from benchmarks.baseline.data import write_pose
from benchmarks.step.synthetic import FPS, MAX_FRAMES, PROMPT_TOKENS, csl_news_lengths
from unisign_fast.pipelines.store.crop_store import CropStoreWriter
from unisign_fast.pipelines.store.keypoint_store import KeypointStore, KeypointStoreWriter
from unisign_fast.text.tokenizer import Tokenizer

SOURCE = {"estimator": "made for a benchmark", "version": "1", "coordinates": "fractions of width and height"}
JPEG_QUALITY = 90
VIDEO_SIDE, SMALL_VIDEO_SIDE = 512, 128  # pixels
CHARACTERS = [chr(0x4E00 + i) for i in range(400)]  # a token each, behind one of the text's beginning
HANDS_AT = (91, 112)  # first of 21 joints of each hand


def made_store(path: Path, clips: int, max_frames: int, videos: bool, crop_size: int) -> KeypointStore:
    """A store of synthetic clips; with `videos`, each has an H.264 video and hand crops of `crop_size` pixels."""
    side = VIDEO_SIDE if max_frames == MAX_FRAMES else SMALL_VIDEO_SIDE
    frames_N, tokens_N = csl_news_lengths(clips, max_frames)
    sources = [str(path.resolve() / f"{number}.mp4") if videos else "" for number in range(clips)]
    with KeypointStoreWriter(path, SOURCE) as writer:
        for number, (frames, tokens, source) in enumerate(zip(frames_N, tokens_N, sources)):
            text = "".join(np.random.default_rng(number).choice(CHARACTERS, tokens - 2))
            labels = {"id": str(number), "split": "train", "language": "zh", "text": text}
            keypoints = moving_signer(number, frames)
            writer.add(keypoints, **labels, fps=float(FPS), width=side, height=side, source=source)
    store = KeypointStore.open(path)
    if videos:
        crops = CropStoreWriter(store, crop_size, JPEG_QUALITY)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            sizes = [side] * clips, [crop_size] * clips
            made = pool.map(write_video, sources, range(clips), frames_N.tolist(), *sizes)
            console = Console(stderr=True)
            for files in track(made, "making videos", clips, console=console, disable=not console.is_terminal):
                crops.add(files)
        crops.commit()
    return store


def moving_signer(number: int, frames: int) -> np.ndarray:
    """Keypoints [T, 133, 3] of a signer with moving hands; confidence is uniform."""
    rng = np.random.default_rng(number)
    t = np.linspace(0, frames / 40, frames)[:, None, None]
    keypoints = rng.uniform(0.3, 0.7, (1, 133, 3)) + 0.002 * rng.standard_normal((frames, 133, 3))
    for first, phase in zip(HANDS_AT, (0.0, 2.0)):
        centre = np.concatenate([0.5 + 0.25 * np.sin(t + phase), 0.5 + 0.25 * np.cos(1.3 * t + phase)], axis=-1)
        keypoints[:, first : first + 21, :2] = centre + rng.uniform(-0.09, 0.09, (1, 21, 2))
    keypoints[..., 2] = rng.uniform(0.4, 0.9, (frames, 133))
    return keypoints


def write_video(path: str, number: int, frames: int, side: int, crop_size: int) -> list[bytes]:
    """The video of a synthetic clip, and its hand crops as JPEG files, two per frame; noise makes both as hard to
    decode as real ones."""
    rng = np.random.default_rng(number)
    blocks = np.ones((side // 16, side // 16, 1), np.uint8)
    ground, hand = (np.kron(coarse, blocks) for coarse in rng.integers(0, 256, (2, 16, 16, 3), np.uint8))
    grain = rng.integers(0, 24, (side, 2 * side, 3), np.uint8)
    reach, files = side // 10, []
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "23", "preset": "veryfast"})
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # parallel over clips instead
        for f, frame in enumerate(moving_signer(number, frames)):
            picture = ground // 2 + grain[:, f % side : f % side + side]
            for first in HANDS_AT:
                x, y = (side * frame[first : first + 21, :2].mean(0)).astype(int)
                place = slice(y - reach, y + reach), slice(x - reach, x + reach)
                picture[place] = hand[: 2 * reach, : 2 * reach] // 2 + picture[place] // 2
                files.append(_jpeg(picture[place], crop_size))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return files


def _jpeg(pixels: np.ndarray, size: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).resize((size, size)).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def write_published(store: KeypointStore, folder: Path) -> None:
    """A pose pickle for each training clip of the store, by its number among them."""
    folder.mkdir()
    for number, clip in enumerate(store.clips.numbers_in("train")):
        write_pose(folder / f"{number}.pkl", store.keypoints(store.clips[clip]))


class StepTokenizer(Tokenizer):
    """A tokenizer trained on a few texts, its prompt cut to the number of tokens it has with mT5's own."""

    def prompt_ids(self, language: str) -> list[int]:
        return super().prompt_ids(language)[-PROMPT_TOKENS:]
