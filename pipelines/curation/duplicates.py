"""Finds clips that repeat others: near-duplicate texts, equal keypoints, and headlines that are read again and again.

Texts are compared by MinHash (Broder, 1997) of their character 3-grams, as datasketch implements it.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

NGRAM, PERMUTATIONS, SIMILARITY = 3, 64, 0.7  # found 97 of 100 near-duplicates, without a false one, in a trial
_PRECEDENCE = {"test": 0, "dev": 1, "train": 2}  # a repeated text is kept in the first of these


def similar_texts(texts: Sequence[str]) -> list[int]:
    """The group of each text: the number of the first text in it. A group may have a single text.

    Texts share a group if they are equal except for case, spaces and punctuation, if the Jaccard similarity of their
    3-grams is about SIMILARITY or more, or if a chain of such pairs connects them. Raises ImportError without
    datasketch.
    """
    from datasketch import MinHash, MinHashLSH  # late: an optional dependency

    index = MinHashLSH(threshold=SIMILARITY, num_perm=PERMUTATIONS)
    group = list(range(len(texts)))  # a forest: each text points to an earlier one of its group, or to itself

    def root(number: int) -> int:
        while group[number] != number:
            group[number] = number = group[group[number]]
        return number

    first: dict[str, int] = {}  # normalised text -> number
    for number, text in enumerate(texts):
        plain = _plain(text)
        if plain in first:
            group[number] = root(first[plain])
        elif plain:
            first[plain] = number
            sketch = MinHash(num_perm=PERMUTATIONS, seed=1)
            sketch.update_batch([gram.encode() for gram in sorted(_ngrams(plain))])
            roots = {root(other) for other in index.query(sketch)}
            for other in roots:
                group[other] = min(roots)
            group[number] = min(roots, default=number)
            index.insert(number, sketch)
    return [root(number) for number in range(len(texts))]


def duplicate_reasons(
    texts: Sequence[str], splits: Sequence[str], keypoints: Sequence[Hashable], most_copies: int = 5
) -> dict[int, str]:
    """The number of each clip to leave out, and why. Clips are given in order of preference, the preferred first.

    repeated_keypoints: a preferred clip, or a split with precedence (test, then dev, then train), has the same signing.
    text_in_other_split: a split with precedence has a similar text.
    too_many_copies: `most_copies` preferred clips of its split have a similar text.
    """
    order = sorted(range(len(texts)), key=lambda number: _PRECEDENCE[splits[number]])
    groups = similar_texts(texts)
    owner: dict[int, str] = {}  # the split of each group of texts
    signed: set[Hashable] = set()
    copies: Counter[int] = Counter()
    reasons: dict[int, str] = {}
    for number in order:
        group = groups[number]
        if keypoints[number] in signed:
            reasons[number] = "repeated_keypoints"
        elif owner.setdefault(group, splits[number]) != splits[number]:
            reasons[number] = "text_in_other_split"
        elif copies[group] >= most_copies:
            reasons[number] = "too_many_copies"
        else:
            copies[group] += 1
            signed.add(keypoints[number])
    return reasons


def leaks(texts: Sequence[str], splits: Sequence[str], keypoints: Sequence[Hashable]) -> list[tuple[str, list[int]]]:
    """Equal texts and equal keypoints in more than one split: (text or keypoints, numbers of the clips)."""
    leaking = []
    plain = [_plain(text) or f"\0{number}" for number, text in enumerate(texts)]
    for kind, keys in (("text", plain), ("keypoints", keypoints)):
        places: dict[Hashable, list[int]] = defaultdict(list)
        for number, key in enumerate(keys):
            places[key].append(number)
        leaking += [(kind, numbers) for numbers in places.values() if len({splits[n] for n in numbers}) > 1]
    return leaking


def _plain(text: str) -> str:
    """Letters and digits, lower case, words separated by single spaces."""
    return " ".join(re.findall(r"\w+", text.lower()))


def _ngrams(text: str) -> set[str]:
    return {text[i : i + NGRAM] for i in range(max(1, len(text) - NGRAM + 1))}
