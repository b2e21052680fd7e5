"""The clips of a split across several stores: their lengths and their target tokens, tokenised once.

Memory use is about 40 bytes per clip and 4 per token; tokens are cached beside the keypoints.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import google_crc32c
import numpy as np
from rich.console import Console
from rich.progress import track

from ..atomic_io import replaced
from ..errors import InputError
from ..store.clip import UNLABELLED, Clip
from ..store.keypoint_store import KeypointStore

Tokenize = Callable[[Clip], list[int]]  # a clip's target with its end token; raises InputError if it has none
MANY_CLIPS = 20000  # with at least this many clips, tokenising shows a progress bar


class ClipRef(NamedTuple):
    """A clip and the store it is in."""

    store: KeypointStore
    clip: Clip
    label_ids: list[int]  # the target's tokens with the end token; none for a clip without a target


class ClipSet(Iterable[ClipRef]):
    """Clips by number; thread-safe. `frames` [clips] and target `tokens` [clips] count those of each clip."""

    def __init__(
        self,
        stores: list[KeypointStore],
        ids: list[np.ndarray],
        store_N: np.ndarray,
        clip_N: np.ndarray,
        start_N: np.ndarray,
        end_N: np.ndarray,
    ):
        """Clip i is number clip_N[i] of store s = store_N[i], its tokens are ids[s][start_N[i] : end_N[i]].

        Use `from_stores`.
        """
        self.stores, self._ids = stores, ids
        self._store_N, self._clip_N, self._start_N, self._end_N = store_N, clip_N, start_N, end_N
        self.frames = np.zeros(len(clip_N), np.int64)
        for number, store in enumerate(stores):
            mine = store_N == number
            self.frames[mine] = store.clips.frames[clip_N[mine]]
        self.tokens = end_N - start_N

    @classmethod
    def from_stores(cls, stores: list[KeypointStore], split: str, tokenize: Tokenize, key: object) -> "ClipSet":
        """All clips of "train", "dev" or "test", store by store. Raises InputError if there is none.

        Each store caches its tokens in its subfolder `targets`. The cache is valid while the clips and `key`, which
        covers everything else the tokens depend on, stay the same. If the store is read-only, tokens stay in memory.
        """
        numbers = [store.clips.numbers_in(split) for store in stores]
        if not any(len(n) for n in numbers):
            where = ", ".join(str(store.path) for store in stores)
            unlabelled = sum(len(store.clips.numbers_in(UNLABELLED)) for store in stores)
            problem = f"no clip is {split!r}" + (f", {unlabelled} have no label" if unlabelled else "")
            raise InputError(f"{where}: manifest.jsonl: split", problem, "name a store that has clips of it")
        targets = [_targets(store, n, tokenize, [key, split]) for store, n in zip(stores, numbers)]
        ends = [end_N for _, end_N in targets]
        starts = [np.concatenate([[0], end_N])[: len(end_N)] for end_N in ends]
        store_N = np.repeat(np.arange(len(stores)), [len(n) for n in numbers])
        columns = store_N, *(np.concatenate(parts) for parts in (numbers, starts, ends))
        return cls(stores, [ids for ids, _ in targets], *columns)

    def __len__(self) -> int:
        return len(self._clip_N)

    def __iter__(self) -> Iterator[ClipRef]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, number: int) -> ClipRef:
        """Raises InputError if the clip's line in the manifest is damaged."""
        store = self._store_N[number]
        label_ids = self._ids[store][self._start_N[number] : self._end_N[number]].tolist()
        return ClipRef(self.stores[store], self.stores[store].clips[self._clip_N[number]], label_ids)

    def name(self, number: int) -> str:
        """The clip's id, or its number if its line in the manifest is damaged."""
        try:
            return self[number].clip.id
        except InputError:
            return f"{self.stores[self._store_N[number]].path}: clip number {self._clip_N[number]}"

    def share_of(self, token: int) -> float:
        """The share of this token among all target tokens; for a subset, among those of the whole split."""
        return sum(int((ids == token).sum()) for ids in self._ids) / max(1, sum(map(len, self._ids)))

    def subset(self, numbers: Sequence[int] | np.ndarray) -> "ClipSet":
        """These clips alone, in this order."""
        n = np.asarray(numbers, np.int64)
        columns = (column[n] for column in (self._store_N, self._clip_N, self._start_N, self._end_N))
        return ClipSet(self.stores, self._ids, *columns)


def _targets(
    store: KeypointStore, clip_N: np.ndarray, tokenize: Tokenize, key: object
) -> tuple[np.ndarray, np.ndarray]:
    """All tokens of a store's clips and where each clip's tokens end, from the cache; otherwise tokenised now and
    cached."""
    name = json.dumps([key, len(store.clips), store.manifest_crc32c]).encode()
    file = store.path / "targets" / f"{hashlib.blake2b(name, digest_size=8).hexdigest()}.npz"
    with suppress(Exception):  # missing, or damaged as its checksums show
        with np.load(file, allow_pickle=False) as arrays:
            if sum(entry.file_size for entry in arrays.zip.infolist()) > file.stat().st_size:
                raise ValueError("a bomb: `savez` does not compress")
            ids, end_N, cached_name = arrays["ids"], arrays["ends"], arrays["name"].tobytes()
            checksum_fits = int(arrays["crc32c"]) == _crc32c(ids, end_N)
        if checksum_fits and cached_name == name and end_N.shape == clip_N.shape:
            return ids, end_N
    ids, end_N, is_intact = _tokenized(store, clip_N, tokenize)
    if is_intact:
        with suppress(InputError), replaced(file, writer=f"-{os.getpid()}") as part:  # a store may be read-only
            with open(part, "wb") as opened:
                crc32c = np.uint32(_crc32c(ids, end_N))
                np.savez(opened, ids=ids, ends=end_N, name=np.frombuffer(name, np.uint8), crc32c=crc32c)
    return ids, end_N


def _crc32c(ids: np.ndarray, end_N: np.ndarray) -> int:
    """The checksum of both arrays, with their types."""
    about = f"{ids.dtype} {ids.shape} {end_N.dtype} {end_N.shape}".encode()
    return google_crc32c.extend(google_crc32c.extend(google_crc32c.value(about), ids.tobytes()), end_N.tobytes())


def _tokenized(store: KeypointStore, clip_N: np.ndarray, tokenize: Tokenize) -> tuple[np.ndarray, np.ndarray, bool]:
    """The same arrays as `_targets`, and whether all lines of the manifest are intact.

    A clip without a target or with a damaged line gets no tokens; reading the clip raises the error.
    """
    console = Console(stderr=True)
    ids, end_N, count, is_intact = [np.zeros(0, np.int32)], np.zeros(len(clip_N), np.int64), 0, True
    quiet = len(clip_N) < MANY_CLIPS or not console.is_terminal
    for i in track(range(len(clip_N)), "tokenising texts", console=console, disable=quiet):
        tokens = []
        try:
            clip = store.clips[clip_N[i]]
        except InputError:
            is_intact = False
        else:
            with suppress(InputError):
                tokens = tokenize(clip)
        ids.append(np.array(tokens, np.int32))
        count += len(tokens)
        end_N[i] = count
    return np.concatenate(ids), end_N, is_intact
