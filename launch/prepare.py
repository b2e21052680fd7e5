"""Converts data into keypoint stores, the format that training reads, and works on such stores.

python launch/prepare.py demo
python launch/prepare.py poses --videos DIR --out DIR
python launch/prepare.py convert --format unisign --poses DIR --videos DIR --labels FILE --out STORE
python launch/prepare.py crops STORE
python launch/prepare.py verify STORE ...
python launch/prepare.py merge STORE ... --out STORE
python launch/prepare.py stats STORE ...
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import tyro

from unisign_fast.pipelines.converters.formats import PoseFormat
from unisign_fast.pipelines.errors import InputError
from unisign_fast.training.recipes import DEMO_CLIPS, DEMO_CORPUS
from unisign_fast.utils.console import run_command


def convert(
    format: PoseFormat,
    poses: Path,
    out: Path,
    labels: Path | None = None,
    videos: Path | None = None,
    language: str | None = None,
    split: Literal["train", "dev", "test"] | None = None,
    classes: int | None = None,
    max_bad_share: float = 0.05,
    append: bool = False,
) -> None:
    """Convert poses, videos and a corpus's label file into a keypoint store.

    Without labels, every pose becomes a clip without text, which can be translated but not trained on or scored.

    A clip that cannot be used (no pose or video, a video that does not decode, pose and video of different length,
    no person in any frame, NaN keypoints, empty text) is named, counted and left out.

    Args:
        format: unisign: the published pickles; mmpose: JSON predictions of a video; rtmlib: .npz, .npy, pickle or JSON
            with keypoints and scores; openpose: a folder per clip of *_keypoints.json; pose: .pose files of MediaPipe
            Holistic; holistic75, openpose137: the same files with their own joints instead of the 133.
        poses: Folder of the poses; one subfolder per split works too.
        out: Folder of the store to write.
        labels: Label file of a corpus as published, or a CSV of your own (docs/own_data.md).
        videos: Folder of the videos, which are not moved. Only .pose files work without.
        language: Language of the texts (en, de, fr, ...). Default: zh if they have Chinese characters, else en.
        split: Split of all clips. Default: the label's own, else the one in the label file's name.
        classes: Use only the first N words of WLASL_v0.3.json or MSASL_*.json (WLASL-100, MS-ASL-200, ...).
        max_bad_share: Fail, and write nothing, if more than this share of the clips is bad.
        append: Append the clips to the existing store `out`.
    """
    from unisign_fast.pipelines.converters.convert import convert as convert_corpus  # late import: keeps --help quick

    bad = convert_corpus(format, poses, videos, labels, out, language, split, classes, max_bad_share, append)
    _report(out)
    print(f"left out: {len(bad)}")


def demo(out: Path = DEMO_CORPUS, clips: int = DEMO_CLIPS, seed: int = 0) -> None:
    """Write the demo corpus: procedural signers, their videos, keypoints, glosses and translations.

    Args:
        out: Folder of the corpus; the stores are its subfolders sentences and words.
        clips: Number of clips, half of them sentences, half words.
        seed: The same seed gives the same labels and keypoints.
    """
    from unisign_fast.pipelines.demo_corpus import write_demo_corpus

    write_demo_corpus(out, clips, seed)
    for name in ("sentences", "words"):
        _report(out / name)


def poses(
    videos: Path,
    out: Path,
    device: Literal["cpu", "cuda"] = "cpu",
    detector: Path | None = None,
    pose_model: Path | None = None,
    workers: int = 2,
) -> None:
    """Estimate the 133 whole-body keypoints of the signer in every video, as pose files in the published format.

    Existing pose files are kept, so a second call resumes where the first stopped. A video that does not decode to
    its end or shows no person is named, counted and left out. rtmlib's weights are downloaded once; without a network,
    put them where the error message says. Needs `bash launch/install.sh poses`.

    Args:
        videos: Folder of the videos, subfolders too.
        out: Folder for the pose files, with the same subfolders as `videos`.
        device: cuda needs onnxruntime-gpu instead of onnxruntime.
        detector: ONNX file of a YOLOX person detector to use instead of YOLOX-m.
        pose_model: ONNX file of a whole-body pose network to use instead of RTMW-l, such as an exported RTMPose-x.
        workers: Videos processed at once.
    """
    from unisign_fast.pipelines.pose_estimation.extraction import Extraction, extract, find_work  # of an optional extra
    from unisign_fast.pipelines.pose_estimation.networks import open_networks

    work = find_work(videos, out)
    pending = [item for item in work if not item.pose.exists()]
    if pending:
        result = extract(pending, *open_networks(detector, pose_model, device), workers)
    else:
        result = Extraction()
    written = f"{len(pending) - len(result.bad)} poses written"
    print(f"{out}: {written}, {len(work) - len(pending)} already there, {len(result.bad)} videos left out")
    if result.frames:
        print(f"{result.frames} frames in {result.seconds:.1f} s: {result.rate:.1f} frames/s")


def stats(stores: tyro.conf.Positional[tuple[Path, ...]], figure: Path | None = None) -> None:
    """Print statistics of a corpus and the overlap between its splits.

    Args:
        stores: Stores of the corpus, treated as one.
        figure: Output file for the paper's Figures 2 and 8 drawn for this corpus: .png, .svg or .pdf.
    """
    from unisign_fast.pipelines.corpus.statistics import describe, draw, duplicates, read_corpus

    _require(stores)
    corpus = read_corpus(stores)
    if figure:
        draw(corpus, figure)
    print(describe(corpus), duplicates(corpus), *([f"figure: {figure}"] if figure else []), sep="\n")


def crops(
    store: tyro.conf.Positional[Path],
    videos: Path | None = None,
    size: int = 112,
    quality: int = 90,
    workers: int | None = None,
) -> None:
    """Cut both hands out of every frame of a store's videos once, so that RGB training opens no video.

    A second call resumes where the first stopped and cuts clips appended since. A clip whose video cannot be used is
    named, counted and left out.

    Args:
        store: The keypoint store; the crops go into its subfolder crops.
        videos: Folder to look for the videos in, by their names, instead of the paths in the store.
        size: Side of a crop in pixels; must equal --crop-size in training.
        quality: JPEG quality, 1 to 95.
        workers: Worker processes; default: one per core, and with GPUs at most 8 per GPU.
    """
    from unisign_fast.pipelines.crops.cutting import cut_crops
    from unisign_fast.pipelines.store.keypoint_store import KeypointStore

    writer = cut_crops(KeypointStore.open(store), size, quality, videos, workers)
    cut = writer.clips - len(writer.left_out)
    print(f"{writer.path}: {cut} clips, {writer.bytes / 1e6:.1f} MB; left out: {len(writer.left_out)}")


def verify(stores: tyro.conf.Positional[tuple[Path, ...]]) -> None:
    """Read whole stores including their crops, and verify all checksums.

    Args:
        stores: Stores to verify.
    """
    from unisign_fast.pipelines.store.crop_store import CropStore, crops_folder
    from unisign_fast.pipelines.store.keypoint_store import KeypointStore

    for path in stores:
        store = KeypointStore.open(path)
        store.verify()
        result = f"{path}: {len(store.clips)} clips, {store.clips.total_frames} frames: intact"
        if (crops_folder(store) / "crops.json").exists():
            cut = CropStore(store)
            cut.verify(store)
            result += f"; crops of {cut.clips - len(cut.left_out)} clips: intact"
        print(result)


def merge(stores: tyro.conf.Positional[tuple[Path, ...]], out: Path, compress: bool = False) -> None:
    """Merge several stores, or copy one, including crops; the input stores are not changed.

    Args:
        stores: Stores to join, in this order.
        out: Folder of the store to write.
        compress: Compress the keypoints, which makes reading many times slower.
    """
    from unisign_fast.pipelines.store.keypoint_store import KeypointStore
    from unisign_fast.pipelines.store.merge import merge_stores

    _require(stores)
    merge_stores([KeypointStore.open(path) for path in stores], out, compress)
    _report(out)


def _require(stores: tuple[Path, ...]) -> None:
    if not stores:
        raise InputError("STORES", "no store is named", "name one or more")


def _report(path: Path) -> None:
    from unisign_fast.pipelines.store.clip import ALL_SPLITS, SPLITS
    from unisign_fast.pipelines.store.keypoint_store import KeypointStore

    clips = KeypointStore.open(path).clips
    counts = Counter(clip.split for clip in clips)
    splits = ", ".join(f"{split} {counts[split]}" for split in ALL_SPLITS if split in SPLITS or counts[split])
    print(f"{path}: {len(clips)} clips ({splits}), {sum(clip.frames for clip in clips)} frames")


if __name__ == "__main__":
    commands: list[Callable[..., None]] = [convert, poses, crops, verify, merge, stats, demo]
    run_command({command.__name__: command for command in commands}, examples=__doc__)
