"""The stores of a run, and which of their clips it trains on."""

import sys

import numpy as np

from unisign_fast.pipelines.batches.reader import ClipReader
from unisign_fast.pipelines.clips.dataset import ClipSet
from unisign_fast.pipelines.errors import InputError
from unisign_fast.pipelines.rng import stream
from unisign_fast.pipelines.store.keypoint_store import KeypointStore
from unisign_fast.text.tokenizer import UNKNOWN, Tokenizer
from unisign_fast.training.recipes import DEMO_CLIPS, DEMO_CORPUS
from unisign_fast.training.settings import RunSettings
from unisign_fast.utils.distributed import Ranks

MUCH_UNKNOWN = 0.01  # share of the targets' tokens


def open_stores(settings: RunSettings, ranks: Ranks) -> list[KeypointStore]:
    """The stores of the run; writes the demo corpus first if the settings name it and it does not exist.

    Raises InputError if no store is named, or one cannot be opened.
    """
    if not settings.stores:
        raise InputError("--stores", "no keypoint store is given", "name one or more written by launch/prepare.py")
    if wants_demo(settings) and ranks.from_first(not DEMO_CORPUS.exists()):
        if ranks.is_first:
            from unisign_fast.pipelines.demo_corpus import write_demo_corpus  # late: most runs have their own stores

            print(f"writing the demo corpus to {DEMO_CORPUS} first ({DEMO_CLIPS} clips)", flush=True)
            write_demo_corpus(DEMO_CORPUS, DEMO_CLIPS, seed=0)
        ranks.barrier()
    return [KeypointStore.open(store) for store in settings.stores]


def wants_demo(settings: RunSettings) -> bool:
    """Whether a store of the run belongs to the demo corpus."""
    return any(DEMO_CORPUS in store.parents for store in settings.stores)


def compare_keypoint_sources(stores: list[KeypointStore]) -> None:
    """Warn if dev or test keypoints come from another source than the training keypoints, which lowers scores."""
    trained = [store for store in stores if len(store.clips.numbers_in("train"))]
    for store in stores:
        tested = any(len(store.clips.numbers_in(split)) for split in ("dev", "test"))
        for other in trained if tested else ():
            if other.keypoint_source != store.keypoint_source:
                origins = f"{store.keypoint_source}, those of {other.path} from {other.keypoint_source}"
                print(f"warning: keypoints of {store.path} are from {origins}", file=sys.stderr, flush=True)


def training_clips(reader: ClipReader, ranks: Ranks) -> ClipSet:
    """The training clips; rank 0 tokenises them, and the others read its cache."""
    if ranks.is_first:
        reader.clips("train")
    ranks.barrier()
    return reader.clips("train")


def training_share(clips: ClipSet, settings: RunSettings) -> ClipSet:
    """The share of the training clips that --data-fraction asks for; a larger share contains every smaller one.

    Raises InputError if a positive share is less than one clip.
    """
    order = stream(settings.train.seed, 0, "", "fraction").permutation(len(clips))
    kept = np.sort(order[: round(settings.data_fraction * len(clips))])
    if settings.data_fraction > 0 and not len(kept):
        problem = f"{settings.data_fraction} of {len(clips)} clips is less than one clip"
        raise InputError("--data-fraction", problem, "give a larger share, or 0 to train nothing")
    return clips.subset(kept.tolist())


def head_classes(settings: RunSettings, clips: ClipSet) -> tuple[str, ...]:
    """The words or glosses of the training clips, if a task head needs them."""
    if settings.model.head == "language_model":
        return ()
    targets = [ref.clip.target(settings.data.task, settings.data.language) for ref in clips]
    return tuple(sorted({c for t in targets for c in (t.split() if settings.model.head == "ctc" else [t])}))


def has_split(reader: ClipReader, split: str) -> bool:
    """Whether a store has clips of the split."""
    return any(len(store.clips.numbers_in(split)) for store in reader.stores)


def warn_of_unknown(clips: ClipSet, tokenizer: Tokenizer) -> None:
    """Warn if the tokenizer lacks pieces for many of the targets: the model can never produce those."""
    share = clips.share_of(UNKNOWN)
    if share > MUCH_UNKNOWN:
        problem = f"{share:.1%} of the targets' tokens are unknown to {tokenizer.path}"
        remedy = "start from a model whose tokenizer knows the language, as mT5's does"
        print(f"warning: {problem}: {remedy}", file=sys.stderr, flush=True)
