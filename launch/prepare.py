"""Prepares data: turns what you have into keypoint stores, the form in which training reads it.

python launch/prepare.py demo
python launch/prepare.py unisign --poses DIR --videos DIR --labels FILE --out STORE
"""

from collections import Counter
from pathlib import Path
from typing import Literal

from pipelines.converters.unisign import convert
from pipelines.demo_corpus import write_demo_corpus
from pipelines.keypoint_store import KeypointStore
from pipelines.manifest import SPLITS
from unisign_fast.console import run_command
from unisign_fast.recipes import DEMO_CLIPS, DEMO_CORPUS


def unisign(
    poses: Path,
    videos: Path,
    labels: Path,
    out: Path,
    language: Literal["zh", "en"] = "zh",
    split: Literal["train", "dev", "test"] | None = None,
    max_bad_share: float = 0.05,
) -> None:
    """Convert the published Uni-Sign format: pose pickles, videos and a label file.

    A clip that cannot be used (no pose or video, a video that does not decode, pose and video of different length, NaN
    keypoints, empty text) is named, counted and left out.

    Args:
        poses: Folder of the pose pickles; a subfolder per split is found too.
        videos: Folder of the videos; a subfolder per split is found too. They stay where they are.
        labels: CSL-News JSON, or a gzip-compressed pickle as of CSL-Daily, WLASL, How2Sign, OpenASL.
        out: Folder of the store to write.
        language: Language of the texts.
        split: Split of all clips. Label pickles need it, one file being one split; a CSL-News list is split 99 % train,
            1 % test without it.
        max_bad_share: Fail, and write no store, if more than this share of the clips is bad.
    """
    bad = convert(poses, videos, labels, out, language, split, max_bad_share)
    _report(out)
    print(f"left out: {len(bad)}")


def demo(out: Path = DEMO_CORPUS, clips: int = DEMO_CLIPS, seed: int = 0) -> None:
    """Write the demo corpus: procedural signers, their videos, keypoints, glosses and translations.

    Args:
        out: Folder of the corpus; the stores are its subfolders sentences and words.
        clips: Number of clips, half of them sentences, half words.
        seed: The same seed gives the same labels and keypoints.
    """
    write_demo_corpus(out, clips, seed)
    for name in ("sentences", "words"):
        _report(out / name)


def _report(path: Path) -> None:
    clips = KeypointStore.open(path).clips
    counts = Counter(clip.split for clip in clips)
    splits = ", ".join(f"{split} {counts[split]}" for split in SPLITS)
    print(f"{path}: {len(clips)} clips ({splits}), {sum(clip.frames for clip in clips)} frames")


if __name__ == "__main__":
    run_command({"unisign": unisign, "demo": demo})
