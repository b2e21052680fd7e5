"""The plan of the demo corpus: sentence, signer, camera and split of every clip. Renders nothing."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .language import AMBIGUOUS, WORDS, Sentence, all_sentences
from .renderer import Camera
from .signer import SIGNERS, Signer
from .signs import PAIRS

SENTENCE_SHARE, DEV_SHARE, TEST_SHARE = 0.5, 0.08, 0.12
PAIR_WEIGHT = 6  # clips of a paired word per clip of any other word: RGB is learned from four words in five
# width, height, frames per second, share of the clips
_FORMATS = ((512, 512, 12, 0.70), (512, 512, 15, 0.12), (640, 480, 15, 0.10), (360, 640, 25, 0.08))
_PLAN, _CLIP = 0, 1  # random streams
Store = Literal["sentences", "words"]


@dataclass(frozen=True)
class ClipPlan:
    """One clip to make. `seed` starts its own random stream, so that clips can be made in any order and process."""

    store: Store
    id: str
    split: str
    sentence: Sentence
    signer: Signer
    camera: Camera
    seed: tuple[int, ...]

    @property
    def needs_rgb(self) -> bool:
        """Whether one of its signs can be told from another only in the picture."""
        return not AMBIGUOUS.isdisjoint(self.sentence.glosses)


def _split_sentences(clips: int, rng: np.random.Generator) -> list[tuple[str, Sentence]]:
    """Partitions the sentences by split; each split cycles through its own part."""
    pool = all_sentences()
    pool = [pool[i] for i in rng.permutation(len(pool))]
    dev, test = round(DEV_SHARE * len(pool)), round(TEST_SHARE * len(pool))
    pieces = {"train": pool[dev + test :], "dev": pool[:dev], "test": pool[dev : dev + test]}
    counts = {"dev": round(DEV_SHARE * clips), "test": round(TEST_SHARE * clips)}
    counts["train"] = clips - sum(counts.values())
    return [(split, piece[i % len(piece)]) for split, piece in pieces.items() for i in range(counts[split])]


def _word_order() -> list[str]:
    """Alternates pairs and other words, so that a small corpus, which uses only the first few, has both."""
    paired, others = [list(pair) for pair in PAIRS], [word for word in WORDS if word not in AMBIGUOUS]
    order = []
    while paired or others:
        order += (paired.pop(0) if paired else []) + others[:4]
        others = others[4:]
    return order


def _split_words(clips: int) -> list[tuple[str, Sentence]]:
    """Every word taken is in every split; fewer words are used if there are not three clips for each."""
    order = _word_order()[: clips // 3]
    weights = np.array([PAIR_WEIGHT if word in AMBIGUOUS else 1 for word in order])
    counts = 3 + (clips - 3 * len(order)) * weights // weights.sum()
    counts[: clips - counts.sum()] += 1
    rows = []
    for word, count in zip(order, counts.tolist()):
        test, dev = max(round(TEST_SHARE * count), min(3, count // 3)), max(1, round(DEV_SHARE * count))
        splits = ["test"] * test + ["dev"] * dev + ["train"] * (count - test - dev)
        rows += [(split, Sentence((word,), word, WORDS[word])) for split in splits]
    return rows


def _camera(signer: Signer, rng: np.random.Generator) -> Camera:
    width, height, fps, _ = _FORMATS[rng.choice(len(_FORMATS), p=[share for *_, share in _FORMATS])]
    unit = signer.size * min(width, height) * rng.uniform(0.95, 1.05)
    x = width * (0.5 + rng.uniform(-0.03, 0.03))
    y = height * (0.47 + rng.uniform(-0.02, 0.02))
    return Camera(width, height, fps, x, y, unit)


def plan_corpus(clips: int, seed: int) -> list[ClipPlan]:
    """`clips` plans, the sentences first; the same for the same arguments."""
    sentences = round(SENTENCE_SHARE * clips)
    rng = np.random.default_rng((seed, _PLAN))
    rows: list[tuple[Store, str, Sentence]] = [("sentences", *row) for row in _split_sentences(sentences, rng)]
    rows += [("words", *row) for row in _split_words(clips - sentences)]
    plans = []
    for number, (store, split, sentence) in enumerate(rows):
        rng = np.random.default_rng((seed, _PLAN, number))
        signer = SIGNERS[rng.integers(len(SIGNERS))]
        name = f"{store[:-1]}-{number:05d}"
        plans.append(ClipPlan(store, name, split, sentence, signer, _camera(signer, rng), (seed, _CLIP, number)))
    return plans
