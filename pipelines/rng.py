"""Random numbers that depend on their purpose, not on which process draws them or when.

Every choice of the data path has its own counter-based generator, so a resumed run, or a run with a different
number of workers or ranks, draws the same numbers. The only state to save is the position in the data.
"""

import hashlib
import json

import numpy as np


def stream(seed: int, epoch: int, clip_id: str, purpose: str) -> np.random.Generator:
    """A fresh generator for one purpose ("frames", "left", ...) of one clip in one epoch."""
    name = json.dumps([seed, epoch, clip_id, purpose]).encode()
    key = int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))
